"""Which devices fall in which wave, why not the others, and what that can prove."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from bundles.digest import order_hash
from control_plane.core.cohorts import Selector
from control_plane.core.plan import Plan, PlanDevice, make_plan, wave_sizes
from control_plane.core.policy import Caps
from control_plane.core.spec import WaveSpec
from control_plane.errors import PlanRefused
from control_plane.simulation.scenarios import BASELINE, TARGET, demo_spec, make_devices


def fleet(count=60, strata=("cam-a", "cam-b")):
    return make_devices(count, strata, BASELINE, frozenset())


def spec_with(*waves, **policy):
    spec = demo_spec(1, has_incumbent=True)
    return replace(spec, waves=waves or spec.waves, policy=replace(spec.policy, **policy))


def percent(value):
    return WaveSpec(soak_s=12, percent=value)


def count(value):
    return WaveSpec(soak_s=12, count=value)


REST = WaveSpec(soak_s=12, rest=True)


@pytest.mark.parametrize(
    ("waves", "devices", "sizes"),
    [
        ((percent(1), percent(9), percent(90)), 10, (1, 0, 9)),
        ((percent(1), percent(9), percent(90)), 1000, (10, 90, 900)),
        ((percent(33), percent(33), percent(34)), 10, (4, 3, 3)),
        ((percent(100),), 1, (1,)),
        ((percent(10), REST), 60, (6, 54)),
        ((count(16), REST), 60, (16, 44)),
        ((count(16), REST), 10, (10, 0)),
        ((count(10), count(50)), 60, (10, 50)),
    ],
)
def test_percent_waves_are_ceilings_of_cumulative_counts(waves, devices, sizes):
    assert wave_sizes(waves, devices) == sizes
    assert sum(sizes) == devices


@pytest.mark.parametrize("devices", [59, 61])
def test_counts_that_do_not_add_up_to_the_fleet_are_refused(devices):
    with pytest.raises(PlanRefused) as refused:
        make_plan(spec_with(count(16), count(44)), fleet(devices))
    assert refused.value.code == "PLAN_WAVES_SUM"
    assert refused.value.details == {"asked": 60, "devices": devices}


def test_every_device_is_in_exactly_one_wave_and_the_plan_repeats():
    spec = spec_with(percent(5), percent(20), percent(75))
    plan = make_plan(spec, fleet())
    placed = [device for wave in plan.waves for device in wave.device_ids]
    assert sorted(placed) == [device.id for device in fleet()]
    assert plan == make_plan(spec, reversed(fleet()))
    assert Plan.decode(plan.encode()) == plan
    assert make_plan(replace(spec, seed="another"), fleet()).waves[0].device_ids != plan.waves[0].device_ids


def test_order_within_a_stratum_is_the_order_hash():
    plan = make_plan(spec_with(REST), fleet())
    placed = [device for device in plan.waves[0].device_ids if dict(plan.device_strata)[device] == "cam-a"]
    assert placed == sorted(placed, key=lambda device: order_hash("1", device))


def test_every_wave_holds_strata_in_proportion():
    devices = fleet(90, ("cam-a", "cam-a", "cam-b"))
    plan = make_plan(spec_with(percent(10), percent(30), percent(60)), devices)
    for wave in plan.waves:
        assert dict(wave.strata)["cam-b"] == pytest.approx(wave.size / 3, abs=1)


def test_wave_1_holds_at_least_one_device_of_every_class():
    devices = (*fleet(97, ("cam-a",)), PlanDevice(id="odd-1", hardware="odd"), PlanDevice(id="rare-1", hardware="rare"))
    plan = make_plan(spec_with(count(5), REST), devices)
    assert {stratum for stratum, _ in plan.waves[0].strata} == {"cam-a", "odd", "rare"}
    with pytest.raises(PlanRefused) as refused:
        make_plan(spec_with(count(2), REST), devices)
    assert refused.value.code == "PLAN_WAVE_TOO_SMALL"


def test_online_devices_come_first():
    plan = make_plan(demo_spec(1, has_incumbent=True), make_devices(60, ("cam-a",), BASELINE, frozenset(range(30))))
    numbers = [int(device.removeprefix("device-")) for device in plan.waves[0].device_ids]
    assert all(number >= 30 for number in numbers)


def test_everybody_left_out_is_named_with_the_reason():
    devices = (
        *fleet(20),
        PlanDevice(id="out", hardware="cam-a"),
        PlanDevice(id="unfit", hardware="cam-z", variant=""),
        PlanDevice(id="done", hardware="cam-a", current_sha256=TARGET),
        PlanDevice(id="taken", hardware="cam-a", busy_with="rollout-7"),
    )
    spec = replace(spec_with(), selector=Selector(all=True, exclude=("out",)))
    plan = make_plan(spec, devices)
    assert dict(plan.excluded) == {
        "out": "excluded",
        "unfit": "no_variant",
        "done": "already_running",
        "taken": "busy:rollout-7",
    }
    assert sum(wave.size for wave in plan.waves) == 20


def test_a_selector_that_leaves_nobody_is_refused_with_the_reasons():
    with pytest.raises(PlanRefused) as refused:
        make_plan(spec_with(), [PlanDevice(id="done", hardware="a", current_sha256=TARGET)])
    assert refused.value.code == "PLAN_SELECTOR_EMPTY"
    assert refused.value.details == {"excluded": {"done": "already_running"}}


def test_the_plan_foresees_which_gates_cannot_judge():
    plan = make_plan(spec_with(count(16), count(41), REST), fleet())
    assert [dict(wave.not_applicable) for wave in plan.waves] == [
        {},
        {"output": "no_controls"},  # three devices left are no control group
        {"output": "no_controls"},
    ]
    first = make_plan(demo_spec(1, has_incumbent=False), make_devices(60, ("a",), "", frozenset()))
    assert [dict(wave.not_applicable) for wave in first.waves] == [{"output": "no_incumbent"}] * 2
    without = make_plan(spec_with(output=None), fleet())
    assert all(wave.not_applicable == () for wave in without.waves)


def test_lasting_controls_form_the_last_wave_and_serve_the_one_before():
    plan = make_plan(spec_with(holdout_pct=10), fleet())
    assert [wave.size for wave in plan.waves] == [16, 38, 6]
    assert [wave.is_holdout for wave in plan.waves] == [False, False, True]
    assert plan.waves[1].not_applicable == ()
    assert Counter(dict(plan.waves[2].strata)) == {"cam-a": 3, "cam-b": 3}


def test_the_plan_says_in_words_what_it_can_prove():
    plan = make_plan(spec_with(), fleet())
    assert plan.waves[0].proves == "Zero failures in 16 proves that fewer than 17.1% fail (95 % sure)."
    small = make_plan(spec_with(count(3), REST), fleet(5))
    assert "a person will be asked" in " ".join(small.notes)
    growing = make_plan(spec_with(count(6), REST), fleet())
    assert "it will grow" in " ".join(growing.notes)
    bare = make_plan(spec_with(caps=Caps(error_rate=None)), fleet())
    assert "only installs decide" in " ".join(bare.notes)
    assert plan.shortest_s == 2 * (2 + 3 + 12)
    assert plan.longest_s > plan.shortest_s
    assert math.isclose(plan.longest_s, 2 * (8 + 10 + 10 + 9 + 12))
