"""``wavegate trust expiry`` and ``renew``: what is about to expire, and signing it again unchanged."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
import typer

from control_plane.cli.output import Format, Output, say, show
from control_plane.cli.trust.making import finish, open_signers, read_ground
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
_DUE = {"Role": "role", "Expires": "expires_ms", "Days left": "days_left", "Command": "command"}
_SECONDS = {"": 86_400, "d": 86_400, "h": 3_600, "w": 7 * 86_400}
DUE = 1
"""Exit code when something is due, so that a calendar job can tell."""


@app.command()
def expiry(
    ctx: typer.Context,
    warn: Annotated[str, typer.Option(help="How far to look ahead, such as 60d.")] = "60d",
    metadata: Metadata = "",
    root: Root = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """List what expires soon, with the command that mends it. Leaves with 1 when something is due, else with 0."""
    from bundles.trust.drafting.expiry import expiring
    from bundles.trust.publishing.state import state_expiries

    warn_s = _seconds(warn)
    ground = read_ground(ctx, metadata, root)
    due = expiring(state_expiries(ground.state), ground.now_ms, warn_s, place=ground.place)
    show([msgspec.to_builtins(entry) for entry in due], chosen(output, as_json), _DUE)
    if due:
        raise typer.Exit(DUE)
    say(f"Nothing expires within {warn}.")


@app.command()
def renew(
    ctx: typer.Context,
    role: Annotated[list[str] | None, typer.Option(help="Role to renew: root, targets, team-NAME; repeatable.")] = None,
    all_due: Annotated[bool, typer.Option("--all-due", help="Renew whatever expires soon, in one event.")] = False,
    within: Annotated[str, typer.Option(help="What soon means, such as 60d.")] = "60d",
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
    """Sign roles again, unchanged but for their expiry."""
    from bundles.errors import AskPerson
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.renewal import renew as renew_roles
    from bundles.trust.drafting.renewal import renew_all_due
    from control_plane.cli.metadata import conflicts

    if bool(role) == all_due:
        raise AskPerson("What to renew is not said.", code="TRUST_CEREMONY", remedy="Give --role ROLE, or --all-due.")
    with conflicts():
        ground = read_ground(ctx, metadata, root)
        form = chosen(output, as_json)
        if all_due:
            drafts = renew_all_due(ground.state, ground.now_ms, _seconds(within)).drafts
        else:
            drafts = renew_roles(ground.state, role or (), ground.now_ms)
        if not drafts:
            say(f"Nothing expires within {within}.")
            show({"event": None, "files": [], "complete": True}, form, {"Event": "event", "Files": "files"})
            return
        signers = open_signers(signer, public, passphrase_file, pin_file)
        finish(ground, "renew", encode_drafts(drafts), signers=signers, out=out, note=note, form=form)


def _seconds(text: str) -> int:
    """Return the seconds that ``text`` (such as ``60d``) means.

    Raises:
        BadParameter: it is no duration.
    """
    found = re.fullmatch(r"([0-9]{1,5})([dhw]?)", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration such as 60d.")
    return int(found[1]) * _SECONDS[found[2]]
