"""``wavegate trust publish`` and ``advance``: hand a signed event to the server; have it skip versions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from control_plane.cli.context import connect
from control_plane.cli.output import Format, Output, say, show
from control_plane.cli.trust.making import now_ms, read_ground
from control_plane.cli.trust.online_keys import at, data_folder, is_address, open_repository, stopped
from control_plane.cli.trust.options import Json, Root, Server, chosen

if TYPE_CHECKING:
    from bundles.trust.signing.eventfolder import Event

app = typer.Typer()
_PUBLISHED = {"Published": "published", "Releases": "releases", "Timestamp": "timestamp_version"}


@app.command()
def publish(
    ctx: typer.Context,
    event: Annotated[Path, typer.Argument(help="Folder or .zip of a signed event.", exists=True)],
    server: Server = "",
    root: Root = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Publish an event. It is checked here as a new and as a present device would, and again by the server."""
    from bundles.trust.signing.eventfolder import read_event
    from control_plane.cli.metadata import conflicts

    with conflicts():
        if server and not is_address(server):
            folder = data_folder(server)
            with stopped(folder):
                facts = _into_folder(folder, read_event(event))
        else:
            facts = _to_server(ctx, server, read_event(event), root)
    show(facts, chosen(output, as_json), _PUBLISHED)
    if not facts["published"]:
        say("Nothing changed: it was published before.")


@app.command()
def advance(
    ctx: typer.Context,
    to: Annotated[int, typer.Option(help="Version to go on from: above the highest a device was ever shown.", min=1)],
    role: Annotated[Literal["timestamp", "snapshot"], typer.Option(help="The role whose version is raised.")] = (
        "timestamp"
    ),
    server: Server = "",
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Have the server go on from a higher version: after somebody with a stolen online key showed devices a higher one.

    Rotate the online keys first (`trust rotate online`): this alone does not take the thief's away.
    """
    from control_plane.cli.metadata import conflicts

    with conflicts():
        if server and not is_address(server):
            folder = data_folder(server)
            with stopped(folder):
                repository = open_repository(folder, now_ms())
                repository.advance(**{f"to_{role}": to})
                facts = {
                    "timestamp_version": repository.timestamp_version,
                    "snapshot_version": repository.snapshot_version,
                }
        else:
            with connect(at(ctx, server)) as client:
                facts = client.post("/api/v1/trust/advance", {"to": to, "role": role})
    show(facts, chosen(output, as_json), {"Timestamp": "timestamp_version", "Snapshot": "snapshot_version"})


def _into_folder(folder: Path, event: Event) -> dict[str, Any]:
    say("Checking it as a new device and as one that has the present state.")
    done = open_repository(folder, now_ms()).publish(event.files)
    return {"published": done.names, "releases": done.releases, "timestamp_version": done.timestamp_version}


def _to_server(ctx: typer.Context, server: str, event: Event, root: Path | None) -> dict[str, Any]:
    from bundles.trust.signing.eventfolder import zip_event

    if root is not None:
        _check(ctx, server, event, root)
    else:
        say("Not checked here: with --root it would be. The server checks it in any case.")
    with connect(at(ctx, server)) as client:
        answer: dict[str, Any] = client.upload("/api/v1/trust/events", io.BytesIO(zip_event(event)))
    return answer


def _check(ctx: typer.Context, server: str, event: Event, root: Path) -> None:
    """Walk from the trusted root to what is served now (a new device), and from there to the event (a present one)."""
    from bundles.trust.publishing.event import apply_event
    from bundles.trust.publishing.history import History
    from bundles.trust.roles import utc

    ground = read_ground(ctx, server, root)
    new = {name: data for name, data in event.files.items() if ground.base.get(name) != data}
    say("Checking it as a new device and as one that has the present state.")
    apply_event(ground.state, new, utc(ground.now_ms), History())
