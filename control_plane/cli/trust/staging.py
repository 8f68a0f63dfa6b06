"""``wavegate trust stage``: an event that lists bundles of a team, or withdraws them, for several holders to sign."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control_plane.cli.output import say
from control_plane.cli.trust.event_command import Making, makes_event
from control_plane.cli.trust.making import Ground

if TYPE_CHECKING:
    from bundles.archive import Archive
    from bundles.trust.publishing.state import State
    from bundles.trust.signing.eventfolder import Event

app = typer.Typer(help="List bundles, or withdraw them, in an event that several people sign.", no_args_is_help=True)
NewEvent = Annotated[Path, typer.Argument(metavar="EVENT", help="Event to make, or to put more into.")]


@app.command("add")
@makes_event
def add(
    making: Making,
    event: NewEvent,
    bundle: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".wgb files, of one team or several.")],
) -> None:
    """List bundles in their teams' roles. Putting more into an event drops the signatures it had."""
    from bundles.archive import open_archive
    from bundles.trust.drafting.release import add_release, team_state
    from bundles.verify import verify_content

    ground = making.ground()
    staged = _staged(event)
    files = dict(staged.files) if staged is not None else {}
    for path in bundle:
        archive = open_archive(path)
        say(f"Checking every file of {path}.")
        verify_content(archive)
        state = _ahead(ground.state, files)
        team = team_state(state, archive.manifest.team)
        check_history(ground.place, ground.state, archive)
        signed = add_release(team, archive.manifest_bytes, [], ground.now_ms)
        files[signed.name] = signed.data
    _write(making, ground, staged, event, files)


@app.command("retire")
@makes_event
def retire(
    making: Making,
    event: NewEvent,
    target: Annotated[list[str], typer.Argument(metavar="TEAM/MODEL/VERSION...", help="Bundles to withdraw.")],
) -> None:
    """Withdraw bundles: no device can be given them any more. What runs keeps running (see `trust revoke bundle`)."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.statements import retire as withdraw

    ground = making.ground()
    staged = _staged(event)
    files = dict(staged.files) if staged is not None else {}
    paths = [f"{name.removesuffix('/bundle.json')}/bundle.json" for name in target]
    files |= encode_drafts(withdraw(_ahead(ground.state, files), paths, ground.now_ms))
    _write(making, ground, staged, event, files)


def check_history(place: str, state: State, archive: Archive) -> None:
    """Check that neither the path nor the release counter of ``archive`` ever stood for another bundle.

    What was withdrawn is in the old versions of the metadata, which a folder holds; an address tells the newest only,
    and its server checks it again at the latest.

    Raises:
        TrustRefused: ``TRUST_ROLLBACK_TEAM``.
    """
    from bundles.trust.publishing.history import read_history
    from control_plane.cli.metadata import metadata_home
    from control_plane.cli.trust.online_keys import is_address

    if is_address(place):
        say("Counters of withdrawn bundles are not seen from here; the server refuses one that was used before.")
        return
    manifest = archive.manifest
    history = read_history(metadata_home(Path(place)), state)
    history.check(manifest.target_path, manifest.model_key, manifest.release_counter, archive.sha256)


def _staged(place: Path) -> Event | None:
    from bundles.trust.signing.eventfolder import read_event

    return read_event(place) if place.is_file() or (place.is_dir() and any(place.iterdir())) else None


def _ahead(state: State, files: dict[str, bytes]) -> State:
    """Return ``state`` as if what ``files`` list were there, at the version published: the next draft keeps it all."""
    from bundles.trust.roles import parse_targets, split_file

    ahead = state.copy()
    for name, data in files.items():
        role = split_file(name)[0]
        if role in ahead.roles:
            staged = parse_targets(name, data).signed
            staged.version = state.version(role)
            ahead.roles[role] = staged
    return ahead


def _write(making: Making, ground: Ground, staged: Event | None, place: Path, files: dict[str, bytes]) -> None:
    if staged is not None and any(b'"sig"' in data for data in staged.files.values()):
        say("The signatures it had are dropped: it says something else now.")
    note = staged.info.note if staged is not None else ""
    making.finish(ground, "stage", files, out=place, note=note, replace=staged is not None)
