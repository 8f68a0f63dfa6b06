"""``wavegate trust sign`` and ``merge``: a holder looks at an event, and adds a signature."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundles.errors import AskPerson
from control_plane.cli.output import Format, Output, say, show
from control_plane.cli.trust.at_hand import open_keys, sign_noted
from control_plane.cli.trust.making import explain, now_ms, read_ground, warn_of_age
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
    instead: Annotated[
        bool, typer.Option("--instead", help="Although your key signed this version before: that one was thrown away.")
    ] = False,
    journal: Annotated[
        Path | None, typer.Option(help="What your key signed before; default: signed.json in its folder.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Show what an event changes, ask, and add your signature. Signing twice changes nothing.

    The event's base is verified with your own root: --root, WAVEGATE_ROOT, or root.json beside your key's folder.
    What your key signs is noted in signed.json in its folder, so that it never signs two contents of one version.
    """
    from bundles.trust.signing.base import is_founding
    from bundles.trust.signing.eventfolder import read_event, write_event
    from control_plane.cli.metadata import conflicts

    with conflicts():
        found = read_event(event)
        state: State | None = None
        if is_founding(found):
            warn_of_founding(found, root, signer)
        else:
            state = ground_of(ctx, found, metadata, own_root(root, signer))
        if found.info.note:
            say(f"Note: {found.info.note}")
        say(f"{found.info.kind}: this is what your signature would change.")
        before = explain(state, found.files)
        keys = open_keys(signer, public, passphrase_file, pin_file, journal)
        ids = [one.public_key.keyid for one in keys]
        have = {keyid for row in before["signatures"] for keyid in row["signed"]}
        asked = {keyid for row in before["signatures"] for keyid in (*row["signed"], *row["unsigned"])}
        fresh = [one for one in keys if one.public_key.keyid not in have or one.public_key.keyid not in asked]
        if fresh:
            if not yes:
                _ask(ids)
            found = found.with_files(sign_noted(state, found.files, fresh, instead=instead))
            write_event(found, event)
        else:
            say("You have signed it already.")
    from bundles.trust.signing.signatures import who_signs

    signings = who_signs(state, found.files)
    needed = [
        f"{one.name}: {quorum.missing} more of {quorum.title}"
        for one in signings
        for quorum in one.quorums
        if quorum.missing
    ]
    facts = {
        "event": str(event),
        "signed_now": [one.public_key.keyid for one in fresh],
        "complete": not needed,
        "needed": needed,
        "remarks": [one.remark for one in signings if one.remark],
        "changes": before["changes"],
        "warnings": before["warnings"],
    }
    show(facts, chosen(output, as_json), _SIGNED)
    done = "Complete: found the repository with it (`trust found`)." if state is None else "Complete: publish it."
    say(done if not needed else "Pass it on to the next holder.")
    for remark in facts["remarks"]:
        say(remark)


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

    place = _kept_root(given, keys)
    if place is not None:
        return read_root(place)
    raise AskPerson(
        "Whether this event is made on the real repository can be told only with a root you trust.",
        code="TRUST_ROOT_NEEDED",
        remedy="Give the root.json of your key ceremony with --root or WAVEGATE_ROOT.",
    )


def warn_of_founding(event: Event, root: Path | None, keys: list[str]) -> None:
    """Warn whoever looks at the first metadata of a repository: no root vouches for it, so the other holders must.

    Raises:
        TrustRefused: ``TRUST_EVENT_BASE``: the signer has a root already, and it is another one.
    """
    from bundles.trust.signing.base import check_own_root
    from control_plane.cli.metadata import read_root

    place = _kept_root(root, keys)
    if place is not None:
        check_own_root(event, read_root(place))
    say("This founds a repository: nothing vouches for it yet. Compare the key ids below with the other holders'.")


def _kept_root(given: Path | None, keys: list[str]) -> Path | None:
    if given is not None:
        return given
    folders = [folder for key in keys for folder in list(Path(key.removeprefix("file:")).absolute().parents)[:2]]
    return next((folder / "root.json" for folder in folders if (folder / "root.json").is_file()), None)


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
