"""The demo's rollouts in virtual time: 60 devices of two classes, seconds where the field has minutes."""

import random
from dataclasses import replace

import pytest

from control_plane.core.explain import explain
from control_plane.core.rollout import RequestJudgement, RollBack, TopUpWave
from control_plane.core.states import DeviceState, RolloutPhase, WavePhase
from control_plane.simulation.fates import Fate, Illness, draw_fate
from control_plane.simulation.fleet import START_MS, Fleet
from control_plane.simulation.scenarios import BASELINE, DEMO_PROFILE, TARGET, demo_spec, make_devices

STRATA = ("cam-a", "cam-b")


def demo_fleet(seed, *, has_incumbent, bad=None):
    rng = random.Random(seed)
    spec = demo_spec(seed, has_incumbent=has_incumbent)
    devices = make_devices(60, STRATA, BASELINE if has_incumbent else "", frozenset())
    fates = {}
    for device in devices:
        fate = draw_fate(rng, DEMO_PROFILE, bad=0, silent=0)
        fates[device.id] = replace(fate, **(bad or {}).get(device.hardware, {}))
    return Fleet(spec, devices, fates, rng)


@pytest.mark.parametrize("seed", range(5))
def test_a_first_release_completes_with_outputs_not_applicable(seed):
    fleet = demo_fleet(seed, has_incumbent=False)
    assert fleet.run() is RolloutPhase.COMPLETED
    for wave in fleet.state.waves:
        answers = {one.gate: (one.verdict.value, one.reason) for one in wave.results}
        assert answers["output"] == ("not_applicable", "no_incumbent")
        assert [answers[gate][0] for gate in ("install", "error_rate", "latency_p95")] == ["pass"] * 3
    assert all(device.active == TARGET for device in fleet.devices.values())
    assert fleet.now_ms - START_MS < 60_000, "two waves of the demo take less than a minute"


@pytest.mark.parametrize("seed", range(5))
def test_a_second_good_release_passes_against_its_controls(seed):
    fleet = demo_fleet(seed, has_incumbent=True)
    assert fleet.run() is RolloutPhase.COMPLETED
    first, last = fleet.state.waves
    assert {one.gate: one.verdict.value for one in first.results}["output"] == "pass"
    assert {one.gate: one.reason for one in last.results}["output"] == "no_controls"


BAD = {"cam-a": {"shifted": 60}, "cam-b": {"slow": 40}}


@pytest.mark.parametrize("seed", range(10))
def test_a_silently_wrong_and_slow_release_halts_in_wave_1_and_everyone_returns(seed):
    fleet = demo_fleet(seed, has_incumbent=True, bad=BAD)
    assert fleet.run() is RolloutPhase.ROLLED_BACK
    state = fleet.state
    assert state.wave == 0
    assert state.halt.gate in ("output", "latency_p95")
    verdicts = {one.gate: one.verdict.value for one in state.waves[0].results}
    assert verdicts["output"] == "fail"
    assert verdicts["latency_p95"] == "fail"
    asked = [device for device in fleet.devices.values() if device.asked]
    assert len(asked) == 16
    assert all(device.active == BASELINE for device in fleet.devices.values())
    assert all(device.execution.state is DeviceState.ROLLED_BACK for device in asked)
    told = explain(state)
    assert "cam-" in told.headline
    assert told.halt.numbers
    assert any("rolled back" in sentence for sentence in told.sentences)


def test_a_variant_that_crashes_on_one_class_halts_naming_the_class():
    fleet = demo_fleet(3, has_incumbent=True, bad={"cam-b": {"illness": Illness.REPORTS}})
    fleet.run()
    assert fleet.state.phase is RolloutPhase.ROLLED_BACK
    assert "cam-b" in fleet.state.halt.sentence
    assert "cam-a" not in fleet.state.halt.sentence
    assert sum(bool(device.asked) for device in fleet.devices.values()) == 16


def test_absent_devices_top_the_canary_up_until_it_can_decide():
    fleet = demo_fleet(4, has_incumbent=True)
    for device in fleet.by_wave[0][:4]:
        device.fate = Fate(reachable_ms=1 << 60)
    assert fleet.run() is RolloutPhase.COMPLETED
    top_ups = [effect for effect in fleet.effects if isinstance(effect, TopUpWave)]
    assert top_ups[0].takes == ((1, 8),)
    assert fleet.state.waves[0].tally.deferred == 4
    assert fleet.state.waves[0].installs.confirmed >= 16


def test_a_wave_is_never_judged_final_before_its_soak_is_over():
    fleet = demo_fleet(6, has_incumbent=True)
    promoted = {}

    def watch(before, event, after, _):
        for old, new in zip(before.waves, after.waves, strict=True):
            if new.phase is WavePhase.PROMOTED and old.phase is not WavePhase.PROMOTED:
                promoted[new.index] = event.at_ms - old.soak_began_ms

    fleet.watch = watch
    fleet.run()
    assert set(promoted) == {0, 1}
    assert all(soaked >= 12_000 for soaked in promoted.values())
    looks = [effect for effect in fleet.effects if isinstance(effect, RequestJudgement)]
    assert [effect.is_final for effect in looks] == [False, False, False, True] * 2
    assert not any(isinstance(effect, RollBack) for effect in fleet.effects)
