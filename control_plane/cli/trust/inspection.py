"""``wavegate trust status``: who may sign what, who has, what is revoked; of a repository, a server or an event."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from control_plane.cli.context import connect
from control_plane.cli.output import Format, Output, say, show
from control_plane.cli.trust.making import explain, now_ms, read_ground
from control_plane.cli.trust.online_keys import at, is_address
from control_plane.cli.trust.options import Json, Root, chosen
from control_plane.cli.trust.signing import ground_of, own_root, warn_of_founding

if TYPE_CHECKING:
    from bundles.trust.publishing.state import State

app = typer.Typer()
_ROLES = {
    "Role": "role",
    "Version": "version",
    "Expires": "expires_ms",
    "Threshold": "threshold",
    "Keys": "keys",
    "Signed by": "signed_by",
    "Listed": "listed",
}
_SIGNATURES = {
    "File": "file",
    "Signers": "who",
    "Needed": "threshold",
    "Signed": "signed",
    "Not yet": "unsigned",
}


@app.command()
def status(
    ctx: typer.Context,
    place: Annotated[
        str, typer.Argument(metavar="[FOLDER|EVENT|URL]", help="What to look at; default: the server of --url.")
    ] = "",
    root: Root = None,
    metadata: Annotated[str, typer.Option(help="For an event without a base: what to compare it with.")] = "",
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Show every role: its version, when it expires, who may sign and who has; or what an event changes."""
    form = chosen(output, as_json)
    if place and not is_address(place) and _is_event(Path(place)):
        _show_event(ctx, Path(place), metadata, root, form)
        return
    _show_repository(_describe(ctx, place, root), form)


def _describe(ctx: typer.Context, place: str, root: Path | None) -> dict[str, Any]:
    """Return the status of a folder, of a server as it says itself, or, with a root to check by, of its metadata."""
    from bundles.trust.publishing.status import describe

    if place and not is_address(place):
        found: dict[str, Any] = msgspec.to_builtins(describe(Path(place), now_ms()))
        return found
    if root is None:
        with connect(at(ctx, place)) as client:
            told: dict[str, Any] = client.get("/api/v1/trust")
        say("As the server says. With --root it would be checked.")
        return told
    with tempfile.TemporaryDirectory() as folder:
        for name, data in read_ground(ctx, place, root).base.items():
            (Path(folder) / name).write_bytes(data)
        checked: dict[str, Any] = msgspec.to_builtins(describe(Path(folder), now_ms()))
    return checked


def _show_repository(found: dict[str, Any], form: Format) -> None:
    if form is not Format.TABLE:
        show(found, form, {})
        return
    rows = [
        {**role, "keys": [k[:8] for k in role["keys"]], "signed_by": [k[:8] for k in role["signed_by"]]}
        for role in found["roles"]
    ]
    show(rows, form, _ROLES)
    say(f"Profile {found['profile']}.")
    for model, counter in found["floors"].items():
        say(f"Floor of {model}: release counter {counter}.")
    for digest, entry in found["revoked"].items():
        say(f"Revoked: bundle {digest[:12]}{': ' + entry['reason'] if entry.get('reason') else ''}.")
    for remark in found["remarks"]:
        say(remark)


def _show_event(ctx: typer.Context, place: Path, metadata: str, root: Path | None, form: Format) -> None:
    from bundles.trust.signing.base import is_founding
    from bundles.trust.signing.eventfolder import read_event

    event = read_event(place)
    state: State | None = None
    if is_founding(event):
        warn_of_founding(event, root, [])
    else:
        # Unlike before a signature, looking may go by the root in the event itself; then that is said.
        own = root is not None or bool(metadata)
        trusted = own_root(root, []) if root is not None else event.base.get("1.root.json", b"")
        state = ground_of(ctx, event, metadata, trusted)
        if not own:
            say("Checked with the root inside the event only; `trust sign` checks with yours.")
    if event.info.note:
        say(f"Note: {event.info.note}")
    facts = {"event": str(place), **msgspec.to_builtins(event.info), **explain(state, event.files)}
    if form is not Format.TABLE:
        show(facts, form, {})
        return
    rows = [
        {**row, "signed": [k[:8] for k in row["signed"]], "unsigned": [k[:8] for k in row["unsigned"]]}
        for row in facts["signatures"]
    ]
    show(rows, form, _SIGNATURES)
    for line in facts["needed"]:
        say(f"Still needed: {line}")
    if facts["complete"]:
        say("Complete.")
    for remark in facts["remarks"]:
        say(remark)
    if not facts["reviewed"]:
        say("One person: not reviewed. One signature suffices for a part of this.")


def _is_event(place: Path) -> bool:
    return place.suffix == ".zip" or (place / "event.json").is_file()
