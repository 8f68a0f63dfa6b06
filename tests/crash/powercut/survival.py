"""A start of the agent after a power cut, and everything that must hold then; see ``survive``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.core.journal import decode_state
from agent.core.policy import DEFAULT_POLICY
from agent.store.slots import MANIFEST
from bundles.digest import sha256_hex
from bundles.manifest import parse_manifest
from powercut.device import Clock, Rig, Told
from powercut.disk import Op
from powercut.server import Server
from powercut.stories import HOUR_MS, Story
from powercut.world import MODEL, World


@dataclass(frozen=True)
class Ledger:
    """What the agent took for done when the power went, from the marks it left.

    Attributes:
        floors: generation, release floor, version of the timestamp.
        journals: digests of the journals that may be found: the last that was written, and what was being written.
        session: number of its start.
        attempts: activations of the target begun.
        told: the version whose success the control plane was told of last; empty = none.
    """

    floors: tuple[int, int, int] = (0, 0, 0)
    journals: frozenset[str] = frozenset()
    session: int = 0
    attempts: int = 0
    told: str = ""


def ledger_of(ops: list[Op], story: Story, before: str) -> Ledger:
    """Read the marks in ``ops``; ``before`` is the digest of the journal when they began, empty for none."""
    floors, journals, session, attempts, told = (0, 0, 0), frozenset({before}), 0, 0, ""
    for op in ops:
        word, _, rest = op.text.partition(" ")
        match word:
            case "floors":
                gen, release, version = map(int, rest.split())
                floors = (gen, release, version)
            case "journal-begin":
                journals |= {rest}
            case "journal-end":
                journals = frozenset({rest})
            case "session":
                session = int(rest)
            case "attempt":
                attempts += rest == story.target
            case "told":
                told = rest
    return Ledger(floors, journals, session, attempts, told)


def effects_of(ops: list[Op]) -> Iterator[tuple[str, int, int]]:
    """Yield each effect that was carried out, with the numbers of its first operation and the one behind its last."""
    begun: dict[str, int] = {}
    for number, op in enumerate(ops):
        word, _, rest = op.text.partition(" ")
        name = "Journal" if word.startswith("journal-") else rest
        if word in ("begin", "journal-begin"):
            begun[name] = number
        elif word in ("end", "journal-end"):
            yield name, begun.pop(name), number + 1


def survive(
    story: Story, world: World, ledger: Ledger, folder: Path, start_ms: int, *, starts_again: bool = False
) -> None:
    """Start the agent on what a power cut left, without a network at first, and let it come to the story's end.

    Args:
        story: that was interrupted.
        world: around the device.
        ledger: what it took for done.
        folder: what is left of its disk.
        start_ms: when the story began.
        starts_again: whether the end must also be found by one more start.

    Raises:
        AssertionError: something that must hold does not.
    """
    story.begin(world, folder)
    attempts = [ledger.attempts]

    def attempt(version: str) -> None:
        if version == story.target:
            attempts[0] += 1
            journalled = rig.journalled()
            counted = journalled.attempts if journalled is not None else 0
            assert counted >= attempts[0], "an attempt that was not counted"

    def raised(gen: int, release: int, version: int) -> None:
        found = (gen, release, version)
        assert all(a >= b for a, b in zip(found, ledger.floors, strict=True)), f"floors fell to {found}"

    clock = Clock(start_ms + HOUR_MS)
    server = Server(world, story.asked, **story.served)
    server.is_online = False
    rig = Rig(folder, server, clock, told=Told(attempt=attempt, floors=raised), **story.rig)
    try:
        _check_what_lasted(story, rig, ledger)
        rig.now()
        assert rig.answering in story.may, f"{rig.answering or 'nothing'} answers after the start"
        assert not ledger.told or rig.answering == ledger.told, f"{ledger.told} was told to be in force"
        server.is_online = True
        story.act(rig)
        version, step = story.end
        rig.settle(version, step=step)
        assert attempts[0] <= DEFAULT_POLICY.max_attempts, "more attempts than its owner allows"
        _check_end(story, rig)
    finally:
        rig.pull_the_plug()
    if starts_again:
        _check_next_start(story, world, folder, clock)


def _check_what_lasted(story: Story, rig: Rig, ledger: Ledger) -> None:
    floors, timestamp = rig.trust.floors, rig.trust.floors.roles.get("timestamp")
    found = (floors.gen, floors.release_floor(MODEL), timestamp.version if timestamp else 0)
    assert all(a >= b for a, b in zip(found, ledger.floors, strict=True)), f"floors {ledger.floors} fell to {found}"
    assert rig.device.me.session > ledger.session, "the number of a start was given twice"
    data = rig.store.load_journal(MODEL)
    digest = sha256_hex(data) if data is not None else ""
    assert digest in ledger.journals, f"the journal is not one that was written: {data!r}"
    if data is not None:
        decode_state(data)
    active = rig.store.active(MODEL)
    if active is not None and "damaged" not in story.name:
        rig.store.check_slot(active, parse_manifest(rig.world.blobs[active]).files)


def _check_end(story: Story, rig: Rig) -> None:
    store, world, version = rig.store, rig.world, story.end[0]
    if version == "withheld":
        return
    active = store.active(MODEL)
    assert active is not None, "there is no pointer"
    assert world.version_of(active) == version, "the pointer names another release"
    store.check_slot(active, parse_manifest(world.blobs[active]).files)
    kept = {digest: parse_manifest(world.blobs[digest]) for digest in rig.state.retained}
    needed = {*kept, *(entry.sha256 for manifest in kept.values() for entry in manifest.files)}
    held = {path.name for path in rig.folder.glob("blobs/*/*")}
    assert held <= needed, "blobs that nothing needs were left behind"
    slots = [sha256_hex((slot / MANIFEST).read_bytes()) for slot in rig.folder.glob("slots/*")]
    assert set(slots) <= set(kept), "slots that nothing needs were left behind"
    assert len(slots) == len(set(slots)), "a release has two slots"
    left = [*rig.folder.glob("current.*.tmp"), *rig.folder.glob("journal/*.tmp"), *rig.folder.glob("factory/*.part")]
    assert not left, f"what was half made was left behind: {left}"
    gone = {entry.sha256 for old in story.gone for entry in parse_manifest(_manifest(world, old)).files}
    assert not held & (gone - needed)
    for name, served in rig.server.served.items():
        length = len(world.blobs.get(name, b"")) or served
        assert served <= length, f"{name} was fetched more than once after one power cut"


def _manifest(world: World, version: str) -> bytes:
    return world.blobs[world.releases[version].sha256]


def _check_next_start(story: Story, world: World, folder: Path, clock: Clock) -> None:
    server = Server(world, story.asked, is_online=False)
    rig = Rig(folder, server, clock, **story.rig)
    try:
        rig.now()
        assert rig.answering == story.end[0], "the start after it does not find what it ended with"
    finally:
        rig.pull_the_plug()
