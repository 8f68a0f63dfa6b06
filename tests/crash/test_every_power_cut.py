"""The power is cut at every point of every story, and the device survives it on every disk that may be left.

What the real agent does to its folder is recorded system call by system call. For each operation and each fsync the
disks are built that a power cut there may leave (see ``powercut.disk``): all of them, none sampled. On each the real
agent starts, without a network at first; see ``powercut.survival`` for what must hold.
"""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from powercut.disk import crashes
from powercut.record import Recording, record_stories
from powercut.stories import STORIES, Story
from powercut.survival import effects_of, ledger_of, survive
from powercut.world import MODEL, World

from agent.core import effects as fx
from bundles.digest import sha256_hex


@pytest.fixture(scope="module")
def recordings(world, scratch, start_ms) -> dict[str, Recording]:
    return record_stories(world, scratch, start_ms)


@pytest.fixture(autouse=True)
def nothing_else() -> Iterator[None]:
    """A thousand starts: neither their logs nor the collector of their cycles is worth half of the time."""
    logging.disable(logging.CRITICAL)
    gc.disable()
    yield
    gc.enable()
    logging.disable(logging.NOTSET)


def survive_all(
    story: Story, world: World, recording: Recording, scratch: Path, start_ms: int, *, singles: bool
) -> tuple[int, list[str]]:
    """Survive every power cut of a story; return how many different disks there were, and what went wrong."""
    node = recording.before.find(f"journal/{MODEL.replace('/', '+')}")
    before = sha256_hex(recording.before.files[node]) if node is not None else ""
    disks, failures = 0, []
    for crash in crashes(recording.before, recording.ops, singles=singles):
        disks += 1
        folder = scratch / "device"
        folder.mkdir()
        crash.disk.write_out(folder)
        ledger = ledger_of(recording.ops[: crash.after], story, before)
        try:
            survive(story, world, ledger, folder, start_ms, starts_again=singles)
        except Exception as error:
            last = recording.ops[max(0, crash.after - 4) : crash.after]
            failures.append(f"after {crash.after} operations ({crash.how}): {error!r}\n    the last were {last}")
        shutil.rmtree(folder)
    return disks, failures


def say(capsys, text: str) -> None:
    with capsys.disabled():
        print(f"\n{text}", end="")


def points(recording: Recording) -> int:
    return sum(op.kind != "mark" for op in recording.ops) + 1


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_old_or_new_answers_and_the_update_ends_whenever_the_power_fails(
    story, world, recordings, scratch, start_ms, capsys
):
    recording, began = recordings[story.name], time.monotonic()
    disks, failures = survive_all(story, world, recording, scratch, start_ms, singles=False)
    took = time.monotonic() - began
    say(capsys, f"{story.name}: {points(recording)} points, {disks} different disks, {took:.1f} s")
    assert not failures, f"{len(failures)} of {disks}\n" + "\n".join(failures[:5])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_each_unsynced_operation_alone_may_be_lost_or_kept(
    story, world, recordings, scratch, start_ms, capsys, record_property
):
    recording = recordings[story.name]
    disks, failures = survive_all(story, world, recording, scratch, start_ms, singles=True)
    figures = f"{story.name}: {points(recording)} points, {disks} different disks, {len(failures)} not survived"
    record_property("figures", figures)
    say(capsys, figures)
    assert not failures, f"{len(failures)} of {disks}\n" + "\n".join(failures[:5])


def test_the_power_was_cut_in_every_effect_there_is(recordings, capsys):
    effects = {effect.__name__ for effect in get_args(fx.Effect)}
    carried_out, cuts = Counter(), Counter()
    for recording in recordings.values():
        for name, first, behind in effects_of(recording.ops):
            carried_out[name] += 1
            cuts[name] += behind - first
    total = sum(map(points, recordings.values()))
    lines = [f"  {name:<16} {carried_out[name]:>5} {cuts[name]:>5}" for name in sorted(effects)]
    heading = f"{total} points at which the power was cut; by effect (times carried out, points within and around it):"
    say(capsys, "\n".join([heading, *lines]))
    assert set(carried_out) == effects
    assert total > 100
