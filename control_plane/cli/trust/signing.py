"""``wavegate trust sign`` and ``merge``: a holder looks at an event, and adds a signature."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundles.errors import AskPerson
from control_plane.cli.output import Format, Output, say, show
from control_plane.cli.trust.making import explain, now_ms, open_signers, read_ground, warn_of_age
from control_plane.cli.trust.options import EventArgument, Json, PassphraseFile, PinFile, Publics, Root, chosen

if TYPE_CHECKING:
    from bundles.trust.publishing.state import State
    from bundles.trust.signing.eventfolder import Event

app = typer.Typer()
_SIGNED = {"Event": "event", "Signed": "signed_now", "Complete": "complete", "Still needed": "needed"}


@app.command()
def sign(
    ctx: typer.Context,
    event: EventArgument,
    signer: Annotated[list[str], typer.Option("--signer", "--key", help="Your key: a file or a URI; repeatable.")],
    public: Publics = None,
    root: Root = None,
    metadata: Annotated[
        str, typer.Option(help="Compare with what is published there now: a folder or a server's address.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Sign without asking.")] = False,
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Show what an event changes, ask, and add your signature. Signing twice changes nothing.

    The event's base is verified with your own root: --root, WAVEGATE_ROOT, or root.json beside your key's folder.
    """
    from bundles.trust.signing.eventfolder import read_event, write_event
    from bundles.trust.signing.signatures import add_signatures
    from control_plane.cli.metadata import conflicts

    with conflicts():
        found = read_event(event)
        trusted = own_root(root, signer)
        state = ground_of(ctx, found, metadata, trusted)
        if found.info.note:
            say(f"Note: {found.info.note}")
        say(f"{found.info.kind}: this is what your signature would change.")
        before = explain(state, found.files)
        signers = open_signers(signer, public, passphrase_file, pin_file)
        ids = [one.public_key.keyid for one in signers]
        have = {keyid for row in before["signatures"] for keyid in row["signed"]}
        asked = {keyid for row in before["signatures"] for keyid in (*row["signed"], *row["unsigned"])}
        fresh = [one for one in signers if one.public_key.keyid not in have or one.public_key.keyid not in asked]
        if fresh:
            if not yes:
                _ask(ids)
            found = found.with_files(add_signatures(state, found.files, fresh))
            write_event(found, event)
        else:
            say("You have signed it already.")
    from bundles.trust.signing.signatures import who_signs

    needed = [
        f"{one.name}: {quorum.missing} more of {quorum.title}"
        for one in who_signs(state, found.files)
        for quorum in one.quorums
        if quorum.missing
    ]
    facts = {
        "event": str(event),
        "signed_now": [one.public_key.keyid for one in fresh],
        "complete": not needed,
        "needed": needed,
        "changes": before["changes"],
        "warnings": before["warnings"],
    }
    show(facts, chosen(output, as_json), _SIGNED)
    say("Complete: publish it." if not needed else "Pass it on to the next holder.")


@app.command()
def merge(
    event: EventArgument,
    copies: Annotated[list[Path], typer.Argument(metavar="COPY...", help="Copies that others have signed.")],
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Add to EVENT the signatures on copies of it that travelled apart."""
    from bundles.trust.signing.eventfolder import merge_events, read_event, write_event
    from control_plane.cli.metadata import conflicts

    with conflicts():
        merged = read_event(event)
        for copy in copies:
            merged = merge_events(merged, read_event(copy))
    write_event(merged, event)
    facts = {"event": str(event), "copies": len(copies), "files": sorted(merged.files)}
    show(facts, chosen(output, as_json), {"Event": "event", "Copies": "copies", "Files": "files"})


def own_root(given: Path | None, keys: list[str]) -> bytes:
    """Return the root that the signer trusts: the one given, or root.json kept beside the folder of a key file.

    Raises:
        AskPerson: ``TRUST_ROOT_NEEDED``.
    """
    from control_plane.cli.metadata import read_root

    if given is not None:
        return read_root(given)
    for key in keys:
        for folder in list(Path(key.removeprefix("file:")).absolute().parents)[:2]:
            if (folder / "root.json").is_file():
                return read_root(folder / "root.json")
    raise AskPerson(
        "Whether this event is made on the real repository can be told only with a root you trust.",
        code="TRUST_ROOT_NEEDED",
        remedy="Give the root.json of your key ceremony with --root or WAVEGATE_ROOT.",
    )


def ground_of(ctx: typer.Context, event: Event, metadata: str, root: bytes) -> State:
    """Return the verified state that ``event`` changes: its own base, or what ``metadata`` has published now.

    Raises:
        AskPerson: ``TRUST_EVENT``: there is neither.
        TrustRefused: ``TRUST_EVENT_BASE``: the base is not what the root vouches for.
    """
    from bundles.trust.signing.base import event_state
    from control_plane.cli.metadata import root_file

    if metadata:
        with root_file(root) as path:
            return read_ground(ctx, metadata, path).state
    state = event_state(event, root)
    warn_of_age(state, now_ms())
    return state


def _ask(ids: list[str]) -> None:
    if not sys.stdin.isatty():
        raise AskPerson(
            "Nobody is there to be asked whether to sign this.",
            code="TRUST_CONFIRM",
            remedy="Read the change above; then add --yes.",
        )
    typer.confirm(f"Sign this with {', '.join(keyid[:12] for keyid in ids)}?", abort=True, err=True)
