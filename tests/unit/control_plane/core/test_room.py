"""Who cannot hold two releases: from what a device said it has, and never guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control_plane.core.plan import Plan, PlanDevice, make_plan
from control_plane.core.room import Room, is_unknown, room_notes, shortages
from control_plane.core.spec import WaveSpec
from control_plane.simulation.scenarios import BASELINE, demo_spec

MIB = 2**20
NEEDS = Room(disk_needed_bytes=100 * MIB, memory_needed_bytes=80 * MIB)


def has(disk_mib, memory_mib):
    return replace(
        NEEDS,
        disk_left_bytes=None if disk_mib is None else disk_mib * MIB,
        memory_left_bytes=None if memory_mib is None else memory_mib * MIB,
    )


@pytest.mark.parametrize(
    ("room", "is_swap_cold", "lacking"),
    [
        (has(100, 80), False, []),
        (has(99, 80), False, ["disk"]),
        (has(-5, 80), False, ["disk"]),
        (has(100, 79), False, ["memory"]),
        (has(99, 79), False, ["disk", "memory"]),
        (has(99, 79), True, ["disk"]),
        (has(None, None), False, []),
        (has(None, 79), False, ["memory"]),
    ],
)
def test_what_is_lacking_beside_the_release_that_runs(room, is_swap_cold, lacking):
    found = shortages("cam-1", room, runs_something=True, is_swap_cold=is_swap_cold)
    assert [one.resource for one in found] == lacking
    assert all("beside the one it runs" in one.sentence and one.sentence.startswith("cam-1") for one in found)


def test_a_first_release_must_fit_into_memory_whatever_its_swap():
    (found,) = shortages("cam-1", has(500, 79), runs_something=False, is_swap_cold=True)
    assert (found.resource, found.needed_bytes, found.left_bytes) == ("memory", 80 * MIB, 79 * MIB)
    assert "beside" not in found.sentence


@pytest.mark.parametrize(
    ("room", "is_swap_cold", "unknown"),
    [
        (has(None, 80), False, True),
        (has(100, None), False, True),
        (has(100, None), True, False),
        (has(1, 1), False, False),
    ],
)
def test_silence_is_unknown_and_never_enough(room, is_swap_cold, unknown):
    assert is_unknown(room, is_swap_cold=is_swap_cold) is unknown


def test_notes_name_a_few_devices_and_count_the_rest():
    ids = [f"cam-{number}" for number in range(7)]
    found = [one for name in ids for one in shortages(name, has(1, 1), runs_something=True, is_swap_cold=False)]
    notes = room_notes(found, ["cam-9"], is_swap_cold=True)
    assert notes[0].startswith("The bundle says swap: cold")
    assert notes[1].startswith("7 devices (cam-0, cam-1, cam-2, cam-3, cam-4 and 2 more) cannot hold two copies")
    assert notes[2].startswith("Whether 1 device (cam-9) can hold two copies is unknown")
    assert room_notes([], [], is_swap_cold=False) == ()


def test_a_plan_names_devices_without_room_and_leaves_them_in_their_waves():
    devices = [
        PlanDevice("roomy", "cam-a", current_sha256=BASELINE, room=has(500, 500)),
        PlanDevice("cramped", "cam-a", current_sha256=BASELINE, room=has(5, 500)),
        PlanDevice("silent", "cam-a", current_sha256=BASELINE, room=NEEDS),
    ]
    spec = replace(demo_spec(1, has_incumbent=True), waves=(WaveSpec(soak_s=12, rest=True),))
    plan = make_plan(replace(spec, policy=replace(spec.policy, holdout_pct=0)), devices, "cold")
    assert sorted(plan.waves[0].device_ids) == ["cramped", "roomy", "silent"]
    assert [(one.device, one.resource) for one in plan.short] == [("cramped", "disk")]
    assert plan.room_unknown == ("silent",)
    assert plan.swap == "cold"
    assert Plan.decode(plan.encode()) == plan


def test_a_plan_stored_before_room_was_told_is_read():
    spec = replace(demo_spec(1, has_incumbent=True), waves=(WaveSpec(soak_s=12, rest=True),))
    devices = [PlanDevice("cam-1", "cam-a", current_sha256=BASELINE, room=has(500, 500))]
    stored = make_plan(spec, devices).encode()
    for added in ("short", "room_unknown", "swap"):
        del stored[added]
    assert Plan.decode(stored) == make_plan(spec, devices)
