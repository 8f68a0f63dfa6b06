"""Single events in any order, sense or nonsense: finds broken replay and impossible states."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from control_plane.core.gates import GateResult, Verdict, required_gates
from control_plane.core.plan import make_plan
from control_plane.core.rollout import (
    AbortRequested,
    Approved,
    DeviceMoved,
    GateJudged,
    HaltRequested,
    Overridden,
    PauseRequested,
    Rejected,
    Resumed,
    Started,
    SupersededBy,
    Ticked,
    new_rollout,
    reconcile,
)
from control_plane.core.states import MOVES, DeviceState, RolloutPhase
from control_plane.errors import Conflict
from control_plane.simulation.invariants import broken_rules
from control_plane.simulation.scenarios import BASELINE, demo_spec, make_devices

START_MS = 1_000_000
REACHED: Counter = Counter()


@pytest.fixture(scope="module", autouse=True)
def phases_reached():
    yield
    print("phases reached by single events:", dict(sorted(REACHED.items())))


S = DeviceState
FORWARD = {
    (S.QUEUED, S.OFFERED),
    (S.OFFERED, S.PROBATION),
    (S.OFFERED, S.DEFERRED),
    (S.PROBATION, S.CONFIRMED),
    (S.ROLLING_BACK, S.ROLLED_BACK),
}


def fresh_rollout(devices=24, approvals=True):
    spec = demo_spec(3, has_incumbent=True, wave_1=8)
    plan = make_plan(spec, make_devices(devices, ("cam-a", "cam-b"), BASELINE, frozenset()))
    state = new_rollout(spec, plan, START_MS)
    if approvals:
        state, _ = reconcile(state, Approved("second person", state.spec_sha256, START_MS))
        state, _ = reconcile(state, Started(START_MS))
    return state


def in_second_wave():
    """Return a rollout whose first wave was promoted by a person."""
    state, size = fresh_rollout(), 8
    for previous, new in ((S.QUEUED, S.OFFERED), (S.OFFERED, S.PROBATION), (S.PROBATION, S.CONFIRMED)):
        state, _ = reconcile(state, DeviceMoved(0, "cam-a", previous, new, START_MS, count=size))
    state = replace(state, policy=replace(state.policy, top_up_limit=0))
    while state.phase is RolloutPhase.RUNNING:
        at_ms = state.next_timer_ms
        state, _ = reconcile(state, Ticked(at_ms))
        passed = tuple(GateResult(gate, Verdict.PASS, "x", "x") for gate in required_gates(state.policy))
        state, _ = reconcile(state, GateJudged(0, state.current.look, passed, "0" * 64, at_ms))
    return reconcile(state, Overridden("second person", "sure", START_MS + 50_000))[0]


@st.composite
def judgements(draw, state, at_ms):
    kinds = [Verdict.PASS] * 20 + list(Verdict)
    results = tuple(
        GateResult(gate, draw(st.sampled_from(kinds)), draw(st.sampled_from(["x", "no_controls"])), "said so")
        for gate in required_gates(state.policy)
        if draw(st.integers(0, 30)) > 0
    )
    wave = draw(st.sampled_from([state.wave, state.wave, 0]))
    look = draw(st.sampled_from([state.current.look, state.current.look, 1, 7]))
    return GateJudged(wave, look, results, "0" * 64, at_ms)


def operator_event(draw, state, at_ms):
    who = draw(st.sampled_from(["author", "second person", "third person"]))
    return draw(
        st.sampled_from(
            [
                Approved(who, state.spec_sha256, at_ms),
                Approved(who, "stale", at_ms),
                Rejected(who, "no", at_ms),
                Started(at_ms),
                PauseRequested(who, "wait", at_ms),
                Resumed(who, at_ms),
                Resumed(who, at_ms),
                Overridden(who, "sure", at_ms),
                HaltRequested(who, "stop", at_ms),
                AbortRequested(who, "enough", at_ms),
                SupersededBy("newer", at_ms),
            ]
        )
    )


def possible_moves(state):
    for wave in state.waves:
        for previous in DeviceState:
            if wave.tally.of(previous):
                for new in MOVES[previous]:
                    if wave.began_ms or new in (DeviceState.CANCELED, DeviceState.SKIPPED):
                        yield wave.index, previous, new


@st.composite
def histories(draw):
    """Play 10 to 80 events; mostly what a shell would send, sometimes nonsense."""
    state, at_ms = draw(st.sampled_from([fresh_rollout(approvals=False), fresh_rollout(), in_second_wave()])), START_MS
    at_ms += 60_000 if state.wave else 0
    for _ in range(draw(st.integers(10, 80))):
        at_ms += draw(st.sampled_from([0, 1, 400, 1000, 3000, 5000, 20_000, 90_000]))
        kind = draw(st.integers(0, 59))
        if kind < 30:
            moves = sorted(possible_moves(state))
            if not moves:
                continue
            good = [m for m in moves if (m[1], m[2]) in FORWARD]
            wave, previous, new = draw(st.sampled_from(good if good and draw(st.integers(0, 5)) else moves))
            here = state.waves[wave].tally.of(previous)
            count = draw(st.sampled_from([here, here, 1]))
            one = DeviceMoved(wave, draw(st.sampled_from(["cam-a", "cam-b"])), previous, new, at_ms, count=count)
        elif kind < 45:
            one = Ticked(at_ms)
        elif kind < 57:
            one = draw(judgements(state, at_ms))
        else:
            one = operator_event(draw, state, at_ms)
        before = state
        state, effects = reconcile(before, one)
        broken = broken_rules(before, one, state, effects)
        assert not broken, (one, broken)
        REACHED[state.phase.value] += 1
        REACHED[f"wave {state.current.phase.value}"] += 1
    return state


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories())
def test_any_order_of_events_keeps_every_rule(state):
    event(state.phase.value)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(list(DeviceState)),
    st.sampled_from(list(DeviceState)),
    st.integers(0, 1),
    st.integers(1, 30),
)
def test_a_move_the_tallies_do_not_know_is_refused_and_changes_nothing(previous, new, wave, count):
    state = fresh_rollout()
    known = previous is DeviceState.QUEUED and new in MOVES[previous] and count <= state.waves[wave].tally.queued
    move = DeviceMoved(wave, "cam-a", previous, new, START_MS + 1, count=count)
    if known:
        after, _ = reconcile(state, move)
        assert after.waves[wave].tally.of(new) == count
        return
    with pytest.raises(Conflict) as refused:
        reconcile(state, move)
    assert refused.value.code == "ROLLOUT_MOVE"


@settings(max_examples=60, deadline=None)
@given(st.permutations(["author", "second person", "third person", "author", "second person"]))
def test_only_another_person_can_approve_in_any_order(people):
    state = fresh_rollout(approvals=False)
    for number, person in enumerate(people):
        state, _ = reconcile(state, Approved(person, state.spec_sha256, START_MS + number))
    assert state.phase is RolloutPhase.SCHEDULED
    assert state.approvals == tuple(person for person in people if person != "author")[:1]
