"""Whole rollouts in simulated time, a fate drawn for each device: finds what only happens in the third wave."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from control_plane.core.policy import Caps, OnFail, OutputGate
from control_plane.core.rollout import HaltRequested, PauseRequested, Resumed, Ticked
from control_plane.core.spec import WaveSpec
from control_plane.core.states import DeviceState, RolloutPhase, WavePhase
from control_plane.simulation.fates import Illness, draw_fate
from control_plane.simulation.fleet import START_MS, Fleet
from control_plane.simulation.invariants import broken_rules
from control_plane.simulation.scenarios import BASELINE, DEMO_PROFILE, TARGET, demo_spec, make_devices

SEEDS = range(60)
ODD = [one for one in Illness if one not in (Illness.NONE, Illness.SILENT, Illness.REPORTS)]
REACHED: Counter = Counter()


def draw_fleet(seed):
    """Return a fleet of 20 to 120 devices whose release, network and policy are drawn from ``seed``."""
    rng = random.Random(seed)
    count = rng.randrange(20, 120)
    has_incumbent = rng.random() < 0.8
    spec = demo_spec(seed, has_incumbent=has_incumbent)
    policy = replace(
        spec.policy,
        output=OutputGate() if rng.random() < 0.5 else None,
        caps=Caps(error_rate=0.05, latency_p95_ms=50.0, min_requests=100) if rng.random() < 0.7 else Caps(None),
        on_fail=OnFail.PAUSE if rng.random() < 0.2 else OnFail.ROLLBACK_ALL,
        holdout_pct=rng.choice([0, 0, 10]),
        pause_expiry_s=600,
    )
    waves = rng.choice(
        [
            (WaveSpec(soak_s=12, count=6), WaveSpec(soak_s=12, count=8), WaveSpec(soak_s=12, rest=True)),
            (WaveSpec(soak_s=12, percent=10), WaveSpec(soak_s=12, percent=30), WaveSpec(soak_s=12, percent=60)),
            (WaveSpec(soak_s=12, count=16), WaveSpec(soak_s=12, rest=True)),
            (WaveSpec(soak_s=12, percent=100),),
        ]
    )
    spec = replace(spec, policy=policy, waves=waves)
    bad, silent, offline = rng.choice([0, 0, 0, 0, 0.02, 0.2, 0.6]), rng.random(), rng.choice([0, 0.1, 0.4])
    odd, lag, twice = rng.choice([0, 0, 0, 0.05, 0.3]), rng.choice([0, 500, 3000]), rng.choice([0, 0.3])
    shifted, slow, errors = (rng.choice([0] * 7 + [share]) for share in (60, 30, 40))
    devices = make_devices(count, ("cam-a", "cam-b"), BASELINE if has_incumbent else "", frozenset())
    fates = {}
    for device in devices:
        fate = draw_fate(rng, DEMO_PROFILE, bad=bad, silent=silent, offline=offline)
        if rng.random() < odd:
            fate = replace(fate, illness=rng.choice(ODD))
        fates[device.id] = replace(fate, lag_ms=lag, duplicates=twice, shifted=shifted, slow=slow, errors=errors)
    return spec, devices, fates, rng


def play(seed, watch=lambda *_: None):
    spec, devices, fates, rng = draw_fleet(seed)

    def check(before, event, after, effects):
        broken = broken_rules(before, event, after, effects)
        assert not broken, (seed, event, broken)
        REACHED[after.phase.value] += after.phase is not before.phase
        REACHED[f"wave {after.current.phase.value}"] += after.current.phase is not before.current.phase
        for effect in effects:
            REACHED[type(effect).__name__] += 1
        watch(before, event, after, effects)

    fleet = Fleet(spec, devices, fates, rng, check)
    if seed % 3 == 0:  # what is wrong shows in later waves only
        for device in fleet.devices.values():
            illness = rng.choice([Illness.NONE, Illness.SILENT, Illness.REPORTS]) if device.wave else Illness.NONE
            device.fate = replace(device.fate, illness=illness)
    fleet.run()
    REACHED["halted after wave 1"] += fleet.state.halt is not None and fleet.state.wave > 0
    return fleet


def tallies_agree(fleet):
    for wave, members in zip(fleet.state.waves, fleet.by_wave, strict=True):
        rows = Counter(device.execution.state for device in members)
        assert {state: wave.tally.of(state) for state in DeviceState} == {s: rows[s] for s in DeviceState}


@pytest.mark.parametrize("seed", SEEDS)
def test_every_rollout_ends_and_leaves_devices_where_it_says(seed):
    fleet = play(seed)
    state = fleet.state
    tallies_agree(fleet)
    while state.phase is RolloutPhase.PAUSED:  # nobody comes: it ends by itself
        fleet.apply(Ticked(state.next_timer_ms))
        state = fleet.state
    assert state.phase.is_terminal
    for device in fleet.devices.values():
        row = device.execution
        is_exposed = state.waves[device.wave].began_ms > 0
        if not is_exposed:
            assert not device.asked, f"{device.id} of a wave that never began was asked to move"
        if row.state is DeviceState.CONFIRMED:
            assert device.active == TARGET or device.is_dead
        if state.halt and state.phase is not RolloutPhase.EXPIRED and row.offered_at_ms:
            assert device.asked[-1] == "previous", f"{device.id} was exposed and never asked back"
        if row.state is DeviceState.ROLLED_BACK:
            assert device.active == row.previous_sha256
    if state.phase is RolloutPhase.ROLLED_BACK:
        assert not any(device.active == TARGET and not device.is_dead for device in fleet.devices.values())
    if state.phase is RolloutPhase.COMPLETED:
        assert all(wave.phase is WavePhase.PROMOTED for wave in state.waves)


def test_whole_rollouts_reach_every_phase_of_running():
    if not REACHED:
        for seed in SEEDS:
            play(seed)
    print("reached by whole rollouts:", dict(sorted(REACHED.items())))
    wanted = {"running", "completed", "rolling_back", "rolled_back", "rollback_incomplete", "paused", "halted"}
    wanted |= {"wave offering", "wave soaking", "wave failed", "wave held"}
    wanted |= {"OfferWave", "TopUpWave", "WithdrawOffers", "RollBack", "ExpireDevices", "RequestJudgement"}
    wanted |= {"halted after wave 1"}
    assert wanted <= {name for name, count in REACHED.items() if count}


@pytest.mark.parametrize("seed", range(8))
def test_pause_recalls_resume_goes_on_and_halt_brings_everyone_back(seed):
    spec, devices, fates, rng = draw_fleet(seed)
    fates = {
        name: replace(fate, illness=Illness.NONE, reachable_ms=0, shifted=0, slow=0, errors=0)
        for name, fate in fates.items()
    }
    fleet = Fleet(spec, devices, fates, rng)
    fleet.run(START_MS + rng.randrange(1, 6000))
    fleet.apply(PauseRequested("operator", "wait", fleet.now_ms))
    assert fleet.state.phase is RolloutPhase.PAUSED
    assert fleet.state.total.offered == 0
    wave = fleet.state.wave
    fleet.run(fleet.now_ms + 30_000)
    assert fleet.state.wave == wave
    fleet.apply(Resumed("operator", fleet.now_ms))
    fleet.run(fleet.now_ms + 5000)
    assert fleet.state.phase is RolloutPhase.RUNNING
    fleet.apply(HaltRequested("operator", "stop", fleet.now_ms))
    fleet.run()
    assert fleet.state.phase is RolloutPhase.ROLLED_BACK
    assert all(device.active != TARGET for device in fleet.devices.values())
    tallies_agree(fleet)


def test_the_same_seed_plays_the_same_rollout():
    first, second = play(7), play(7)
    assert first.state == second.state
    assert first.effects == second.effects
