"""What a device lives through while its power may fail: each story is told once under the recorder, on a device of its
own, and then survived from every disk that a power cut may leave of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.core.state import Step
from agent.runner.factory import fitting_files
from agent.runner.owner import request_rollback
from agent.store import LocalFileSystem, Store
from bundles.digest import sha256_hex
from bundles.manifest import parse_manifest
from powercut.device import HARDWARE, Clock, Rig, Told
from powercut.server import Server
from powercut.tracing import mark
from powercut.world import MODEL, World

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Story:
    """One story.

    Attributes:
        name: of it.
        before: versions installed before it begins, in order.
        has_factory: whether the device was made with 0.9.0.
        asked: what the control plane asks for in the story.
        may: versions that may answer at a start in the middle of it.
        end: version and step in which it ends, whatever happened.
        served: how the server is while it goes on, as fields of ``Server``.
        rig: how the device is, as arguments of ``Rig``.
        begin: done to the folder before the agent starts, in the story; done again after a power cut.
        act: done while the agent runs; done again after a power cut, where it may be too late for it.
        damage: done to the folder before the story; not again.
        gone: versions of which nothing is left on the device in the end.
    """

    name: str
    before: tuple[str, ...]
    asked: str
    may: frozenset[str]
    end: tuple[str, Step]
    has_factory: bool = True
    served: dict[str, Any] = field(default_factory=dict)
    rig: dict[str, Any] = field(default_factory=dict)
    begin: Callable[[World, Path], None] = lambda _world, _folder: None
    act: Callable[[Rig], None] = lambda _rig: None
    damage: Callable[[World, Path], None] = lambda _world, _folder: None
    gone: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """The version whose activations are counted."""
        return self.asked


def place_factory(world: World, folder: Path) -> None:
    """Make the device with 0.9.0, as ``wavegate-agent factory install`` does after it has asked trust."""
    store = Store(LocalFileSystem(folder), 0)
    store.open()
    data = world.blobs[world.releases["0.9.0"].sha256]
    manifest = parse_manifest(data)
    store.place_factory(data, fitting_files(manifest, HARDWARE), lambda entry: [world.blobs[entry.sha256]])


def flip(world: World, folder: Path, *versions: str) -> None:
    """Damage the model file in the slot of each version; its blob is the same file."""
    wanted = {sha256_hex(world.blobs[world.releases[version].sha256]) for version in versions}
    for manifest in folder.glob("slots/*/bundle.json"):
        if sha256_hex(manifest.read_bytes()) in wanted:
            with (manifest.parent / "nested/model.onnx").open("r+b") as stream:
                stream.write(b"\0")


def _revoke_twice(rig: Rig) -> None:
    """First what answers is revoked, then everything the revocation role may revoke."""
    for published, version in (("1.1.0 revoked", "1.0.0"), ("all revoked", "0.9.0")):
        rig.server.published = published
        if rig.answering not in (version, "0.9.0"):
            rig.device.trust.refresh()
            rig.settle(version, step="rolled_back")
    rig.device.trust.refresh()


def _revoke_all(rig: Rig) -> None:
    rig.server.published = "all revoked"
    rig.device.trust.refresh()


def _change_of_mind(rig: Rig) -> None:
    """The next release is asked for while the one before it cannot be had."""
    if rig.trust.floors.gen < 4:
        rig.server.missing.add("1.1.0")
        rig.until(lambda: rig.state.step is Step.DOWNLOADING and rig.state.retry_ms > 0, "a download that waits")
    rig.server.version = "1.2.0"


def _ask_back(rig: Rig) -> None:
    rig.now()
    if rig.answering == "1.1.0" and rig.state.step.is_rest:
        request_rollback(rig.device.updates, MODEL, "grace", rig.world.releases["1.1.0"].sha256)


def _versions(*versions: str) -> frozenset[str]:
    return frozenset(versions)


STORIES = (
    Story(
        "made with a factory bundle, first update", (), "1.0.0", _versions("0.9.0", "1.0.0"),
        ("1.0.0", Step.CONFIRMED), has_factory=False, begin=place_factory,
    ),
    Story(
        "plain update", ("1.0.0",), "1.1.0", _versions("1.0.0", "1.1.0"), ("1.1.0", Step.CONFIRMED),
    ),
    Story(
        "delta update", ("1.0.0",), "1.1.0", _versions("1.0.0", "1.1.0"), ("1.1.0", Step.CONFIRMED),
        served={"has_deltas": True},
    ),
    Story(
        "update that collects garbage", ("1.0.0", "1.1.0"), "1.2.0", _versions("1.1.0", "1.2.0"),
        ("1.2.0", Step.CONFIRMED), gone=("1.0.0",),
    ),
    Story(
        "sick in probation, rolled back", ("1.0.0",), "1.1.0", _versions("1.0.0", "1.1.0"),
        ("1.0.0", Step.ROLLED_BACK), rig={"sick": ("1.1.0",)}, gone=("1.1.0",),
    ),
    Story(
        "cannot be loaded, rolled back", ("1.0.0",), "1.1.0", _versions("1.0.0"),
        ("1.0.0", Step.ROLLED_BACK), rig={"dead": ("1.1.0",)}, gone=("1.1.0",),
    ),
    Story(
        "damaged slots, back to the factory bundle and fetched anew", ("1.0.0", "1.1.0"), "1.1.0",
        _versions("0.9.0", "1.0.0", "1.1.0"), ("1.1.0", Step.CONFIRMED),
        damage=lambda world, folder: flip(world, folder, "1.0.0", "1.1.0"),
    ),
    Story(
        "revoked while it runs, and what it returned to as well", ("1.0.0", "1.1.0"), "1.1.0",
        _versions("0.9.0", "1.0.0", "1.1.0"), ("0.9.0", Step.ROLLED_BACK), act=_revoke_twice, gone=("1.0.0", "1.1.0"),
    ),
    Story(
        "revoked, with nothing else on the device", ("1.0.0",), "1.0.0", _versions("1.0.0", "withheld"),
        ("withheld", Step.CONFIRMED), has_factory=False, act=_revoke_all,
    ),
    Story(
        "asked for another release in the middle of a download", ("1.0.0",), "1.1.0", _versions("1.0.0", "1.2.0"),
        ("1.2.0", Step.CONFIRMED), act=_change_of_mind, gone=("1.1.0",),
    ),
    Story(
        "rolled back by a person", ("1.0.0", "1.1.0"), "1.1.0", _versions("1.0.0", "1.1.0"),
        ("1.0.0", Step.ROLLED_BACK), act=_ask_back, gone=("1.1.0",),
    ),
)  # fmt: skip


def make_device(story: Story, world: World, folder: Path, clock: Clock) -> None:
    """Make the device as it is when the story begins."""
    folder.mkdir()
    if story.has_factory:
        place_factory(world, folder)
    server = Server(world)
    for version in story.before:
        server.version = version
        rig = Rig(folder, server, clock)
        rig.settle(version)
        rig.pull_the_plug()
    story.damage(world, folder)


def tell(story: Story, world: World, folder: Path, clock: Clock) -> None:
    """Let the story happen to the end, marking in the trace what the agent took for done."""
    told = Told(
        floors=lambda *floors: mark(f"floors {' '.join(map(str, floors))}"),
        journal=lambda edge, data: mark(f"journal-{edge} {sha256_hex(data)}"),
        attempt=lambda version: mark(f"attempt {version}"),
        session=lambda session: mark(f"session {session}"),
    )
    story.begin(world, folder)
    server = Server(world, story.asked, **story.served)
    rig = Rig(folder, server, clock, told=told, **story.rig)
    story.act(rig)
    rig.settle(story.end[0], step=story.end[1])
    if server.has_deltas:
        assert rig.device.steps.traffic.counts()["deltas"], "the story is of deltas, and none was used"
    rig.pull_the_plug()
