"""``wavegate trust verify``: what a device would say to a repository. Its state is copied; nothing changes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from control_plane.cli.context import address
from control_plane.cli.output import Format, Output, say, show
from control_plane.cli.trust.making import now_ms
from control_plane.cli.trust.options import Json, Metadata, Root, chosen

if TYPE_CHECKING:
    from bundles.trust.device.client import TrustStore
    from bundles.trust.publishing.state import State

app = typer.Typer()
_VERDICT = {
    "Accepted": "accepted",
    "Timestamp": "timestamp_version",
    "Root": "root_version",
    "Bundles": "bundles",
    "Refused": "refused",
    "Floors": "floors",
}


@app.command()
def verify(
    ctx: typer.Context,
    as_device: Annotated[
        Path | None,
        typer.Option(help="Folder of a device, or its trust folder: check as that device; default: as a new one."),
    ] = None,
    hardware: Annotated[str, typer.Option(help="Hardware class to check as; default: any.")] = "",
    pin: Annotated[str, typer.Option(help="Channel pin: dev, canary or prod.")] = "prod",
    metadata: Metadata = "",
    root: Root = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Walk a repository as a device does, with a copy of its state: floors, cache and all. Changes nothing.

    A device's folder must not be in use by its agent at that moment, or be a copy. Refusals leave with 6.
    """
    from bundles.manifest import Channel
    from bundles.trust.device.client import TrustStore
    from bundles.trust.publishing.reading import read_state
    from control_plane.cli.metadata import open_metadata

    fetch, trusted = open_metadata(metadata or address(ctx)[0], root)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "trust"
        if as_device is not None:
            shutil.copytree(_trust_folder(as_device), folder, ignore=shutil.ignore_patterns("lock", "scratch"))
            say(f"Checking as the device whose state is in {as_device}.")
        try:
            channel = msgspec.convert(pin, Channel)
        except msgspec.ValidationError as error:
            raise typer.BadParameter(f"{pin!r} is none of dev, canary and prod.") from error
        with TrustStore(folder, trusted, device="verify", fetch=fetch, pin=channel, allow_demo=True) as store:
            summary = store.refresh(now_ms())
            say("The metadata is accepted. Now every bundle it lists.")
            facts = _judge(store, read_state(fetch, trusted), hardware)
    facts = {**facts, "timestamp_version": summary.timestamp_version, "root_version": summary.root_version}
    show(facts, chosen(output, as_json), _VERDICT)


def _judge(store: TrustStore, state: State, hardware: str) -> dict[str, Any]:
    """Ask ``store`` about every bundle that ``state`` lists, as if the director chose it."""
    from bundles.errors import TrustRefused
    from bundles.trust.roles import read_custom
    from bundles.wire.messages import DesiredModel

    allowed: list[str] = []
    refused: dict[str, str] = {}
    for role in state.roles.values():
        for path, target in role.targets.items():
            custom = read_custom(path, target.custom)
            wanted = DesiredModel(path, target.hashes["sha256"], target.length, custom.release_counter)
            kind = hardware or next(iter(custom.hardware), "any")
            try:
                store.authorize(custom.model, wanted, hardware=kind, now_ms=now_ms())
                allowed.append(path.removesuffix("/bundle.json"))
            except TrustRefused as error:
                refused[path.removesuffix("/bundle.json")] = error.code
    floors = store.floors
    return {
        "accepted": True,
        "bundles": allowed,
        "refused": refused,
        "floors": {model: floors.release_floor(model) for model in sorted({*floors.releases, *floors.signed})},
    }


def _trust_folder(place: Path) -> Path:
    """Return the trust folder of the device in ``place``.

    Raises:
        AskPerson: ``TRUST_REPOSITORY``: there is none.
    """
    from bundles.errors import AskPerson

    for folder in (place, place / "trust"):
        if (folder / "floors.json").is_file():
            return folder
    raise AskPerson(
        f"{place} is no device's trust folder.",
        code="TRUST_REPOSITORY",
        remedy="Give the --dir of an agent, or the folder `trust` in it.",
    )
