"""Faults that other updaters have had, by name: each has its test here, on the real agent over a folder.

The process ends as by kill -9 at the point said; what unsynced writes do is ``test_every_power_cut``'s.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from powercut.device import Clock, PowerOff, Rig
from powercut.server import Server
from powercut.stories import STORIES, make_device

from agent.core.policy import DEFAULT_POLICY
from agent.core.state import Step

START_LIMIT = 40
LIFE_S = 200.0
"""So long a start that is not killed is watched; every wait of an update here is shorter."""


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time_ns() // 1_000_000)


@pytest.fixture
def folder(world, clock) -> Iterator[Path]:
    """A device that runs 1.0.0 and was made with 0.9.0."""
    place = Path(tempfile.mkdtemp(prefix="wg-peers-"))
    story = next(story for story in STORIES if story.name == "plain update")
    make_device(story, world, place / "device", clock)
    yield place / "device"
    shutil.rmtree(place)


def always_killed(
    folder: Path, server: Server, clock: Clock, point: str, *, seconds: float = 0.0
) -> tuple[Rig, Counter[str]]:
    """Start the agent again and again; each time it is killed at ``point``, until it lives for ``LIFE_S``.

    Args:
        folder: of the device.
        server: its control plane.
        clock: goes on from start to start.
        point: edge and name of an effect.
        seconds: how long it lives after that edge.

    Returns:
        The start that lived, and how often each edge was passed in all of them.
    """
    passed: Counter[str] = Counter()
    for _ in range(START_LIMIT):

        def passing(name: str, edge: str) -> None:
            passed[f"{edge} {name}"] += 1
            if f"{edge} {name}" == point and not seconds:
                raise PowerOff

        rig = Rig(folder, server, clock, effects=passing)
        before = passed[point]
        try:
            if seconds:
                rig.until(lambda rig=rig, before=before: passed[point] > before or rig.state.step.is_rest, point)
                if passed[point] > before:
                    rig.pass_time(seconds)
                    raise PowerOff
            rig.pass_time(LIFE_S)
        except PowerOff:
            rig.pull_the_plug()
            clock.now += 30_000
            continue
        return rig, passed
    raise AssertionError(f"the agent was killed at {point!r} {START_LIMIT} times, and would have gone on")


@pytest.mark.parametrize("point", ["begin Activate", "end Activate"])
def test_the_same_power_cut_in_every_activation_ends_in_a_denial_and_on_the_old_release(folder, world, clock, point):
    server = Server(world, "1.1.0")
    rig, passed = always_killed(folder, server, clock, point)
    assert passed["begin Activate"] <= DEFAULT_POLICY.max_attempts
    rig.settle("1.0.0", step="rolled_back")
    assert rig.state.reason == "reboot_loop"
    denied = [tried.sha256 for tried in rig.state.tried if tried.attempts >= DEFAULT_POLICY.max_attempts]
    assert denied == [world.releases["1.1.0"].sha256]
    rig.pull_the_plug()
    rig = Rig(folder, server, clock)  # the instruction stands: it is not taken up again
    rig.pass_time(3 * LIFE_S)
    assert (rig.answering, rig.state.step) == ("1.0.0", Step.ROLLED_BACK)
    rig.pull_the_plug()


def test_the_same_power_cut_in_every_probation_ends_on_the_old_release(folder, world, clock):
    rig, passed = always_killed(folder, Server(world, "1.1.0"), clock, "end Activate", seconds=0.5)
    assert passed["begin Activate"] <= DEFAULT_POLICY.max_attempts
    rig.settle("1.0.0", step="rolled_back")
    rig.pull_the_plug()


@pytest.mark.parametrize("point", ["begin Download", "end Download", "end Verify", "begin Stage", "end Stage"])
def test_the_same_power_cut_before_every_activation_ends_in_a_bounded_number_of_starts(folder, world, clock, point):
    server = Server(world, "1.1.0")
    rig, passed = always_killed(folder, server, clock, point)
    assert passed[point] <= DEFAULT_POLICY.max_recoveries + 1
    rig.settle("1.0.0", step="failed")
    assert rig.state.reason == "reboot_loop"
    rig.pull_the_plug()
    # What had arrived was never fetched a second time, whatever was begun anew.
    for name, served in server.served.items():
        assert served <= len(world.blobs[name]), f"{name} was downloaded again and again"


@pytest.mark.parametrize("point", ["begin Revert", "end Revert"])
def test_the_same_power_cut_on_every_way_back_leaves_the_old_release_answering(folder, world, clock, point):
    server = Server(world, "1.1.0")
    rig = Rig(folder, server, clock, dead=("1.1.0",), effects=stop_at(point))
    with pytest.raises(PowerOff):
        rig.pass_time(LIFE_S)
    rig.pull_the_plug()
    rig, passed = always_killed(folder, server, clock, point)
    assert passed[point] <= DEFAULT_POLICY.max_recoveries + 1
    assert rig.answering in ("1.0.0", "0.9.0")
    rig.pull_the_plug()


def stop_at(point: str) -> Callable[[str, str], None]:
    def passing(name: str, edge: str) -> None:
        if f"{edge} {name}" == point:
            raise PowerOff

    return passing


@pytest.mark.parametrize("point", ["end Activate", "begin Judge", "end Judge", "begin Commit"])
def test_success_of_the_new_is_never_claimed_while_the_old_one_answers(folder, world, clock, point):
    """Killed between the pointer and the commit, and from then on the new release cannot be loaded any more."""
    new, server = world.releases["1.1.0"].sha256, Server(world, "1.1.0")
    rig = Rig(folder, server, clock, effects=stop_at(point))
    with pytest.raises(PowerOff):
        rig.pass_time(LIFE_S)
    has_committed = point == "begin Commit"  # the journal said so before the effect: the new one is in force
    rig.pull_the_plug()
    assert not claims(server, new), "claimed before it was committed"
    rig = Rig(folder, server, clock, dead=("1.1.0",))
    rig.settle("1.0.0", step="rolled_back")
    rig.pull_the_plug()
    for message in claims(server, new):
        assert has_committed, f"success was claimed: {message}"
        assert message.models["vision/digits"].sha256 != new, "it was said to answer, and does not"
    last = server.heartbeats[-1].models["vision/digits"]
    assert (last.phase, last.version) == ("rolled_back", "1.0.0")


def claims(server: Server, sha256: str) -> list:
    """Return the heartbeats that call a release confirmed, or say in that phase that it answers."""
    said = [beat for beat in server.heartbeats if beat.models.get("vision/digits")]
    return [
        beat
        for beat in said
        if beat.models["vision/digits"].phase == "confirmed"
        and sha256 in (beat.models["vision/digits"].target_sha256, beat.models["vision/digits"].sha256)
    ]
