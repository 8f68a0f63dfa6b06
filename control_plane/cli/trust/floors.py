"""``wavegate trust floor``: the lowest release counter that any device may still take."""

from __future__ import annotations

from typing import Annotated

import typer

from control_plane.cli.output import Format, Output
from control_plane.cli.trust.at_hand import open_keys
from control_plane.cli.trust.making import finish, read_ground
from control_plane.cli.trust.options import (
    Json,
    Metadata,
    Note,
    Out,
    PassphraseFile,
    PinFile,
    Publics,
    Root,
    Signers,
    chosen,
)

app = typer.Typer()


@app.command()
def floor(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="TEAM/MODEL", help="The model.")],
    counter: Annotated[int, typer.Argument(help="Lowest release counter that is still allowed.", min=1)],
    metadata: Metadata = "",
    signer: Signers = None,
    public: Publics = None,
    out: Out = None,
    root: Root = None,
    note: Note = "",
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Raise the signed floor of a model: no device goes below it, whatever the server says. It never falls again."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.statements import raise_floors
    from control_plane.cli.metadata import conflicts

    with conflicts():
        ground = read_ground(ctx, metadata, root)
        files = encode_drafts(raise_floors(ground.state, {model: counter}, ground.now_ms))
        keys_at_hand = open_keys(signer, public, passphrase_file, pin_file)
        finish(ground, "floor", files, keys=keys_at_hand, out=out, note=note, form=chosen(output, as_json))
