"""``state + event -> new state + effects``: the one function that moves rollouts.

Rules it keeps: an event told twice changes nothing; terminal stays terminal; the wave index never falls; a failed wave
is never resumed or promoted; every waiting state has a timer; what is unknown never passes. Illegal device moves raise
and leave the state as it was. Leaves storing and acting to ``control_plane.services``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from control_plane.core.rollout import ending, waves
from control_plane.core.rollout.effects import Effect, ExpireDevices, Notify, Record, WithdrawOffers
from control_plane.core.rollout.ending import Step
from control_plane.core.rollout.events import (
    AbortRequested,
    Approved,
    DeviceMoved,
    Event,
    GateJudged,
    HaltRequested,
    OperatorEvent,
    Overridden,
    PauseRequested,
    Rejected,
    Resumed,
    Started,
    SupersededBy,
    Ticked,
)
from control_plane.core.rollout.state import Halt, Rollout, Stratum
from control_plane.core.rollout.watch import WHOLE, find_alarm, score
from control_plane.core.states import FAILURES, DeviceState, PauseReason, RolloutPhase, is_legal
from control_plane.errors import Conflict

_WAITING = (RolloutPhase.PENDING_APPROVAL, RolloutPhase.SCHEDULED)
_OPEN = (*_WAITING, RolloutPhase.RUNNING, RolloutPhase.PAUSED, RolloutPhase.HALTED)
_UNDECIDED = (PauseReason.INCONCLUSIVE, PauseReason.NO_DATA, PauseReason.ENV_SHIFT)


def reconcile(state: Rollout, event: Event) -> tuple[Rollout, tuple[Effect, ...]]:
    """Return the state after ``event`` and what should be done about it.

    An operator's event that does not fit the state changes nothing; ask ``refusal`` first for the reason.

    Raises:
        Conflict: ``ROLLOUT_MOVE``: a device move that is not legal or that the tallies know nothing of. The shell's
            rows and this state disagree; neither is changed.
    """
    after, effects = _apply(state, event)
    if after != state:
        after = replace(after, version=state.version + 1)
    return after, effects


def refusal(state: Rollout, event: OperatorEvent) -> str:
    """Return why ``event`` does not fit the state, in a sentence; empty if it does."""
    match event:
        case Approved():
            if state.phase is not RolloutPhase.PENDING_APPROVAL:
                return f"The rollout is {state.phase.value}: there is nothing to approve."
            if event.actor == state.creator:
                return "A rollout is approved by another person than its creator."
            if event.spec_sha256 != state.spec_sha256:
                return "The approval is for another version of the spec."
            return "This person has approved already." if event.actor in state.approvals else ""
        case Rejected():
            allowed: tuple[RolloutPhase, ...] = (RolloutPhase.PENDING_APPROVAL,)
        case Started():
            allowed = (RolloutPhase.SCHEDULED,)
        case PauseRequested():
            allowed = (RolloutPhase.RUNNING,)
        case Resumed():
            allowed = (RolloutPhase.PAUSED,)
        case Overridden():
            if state.phase is RolloutPhase.PAUSED and state.pause in _UNDECIDED:
                return ""
            return "Only a wave that the gates could not decide can be promoted by a person."
        case HaltRequested():
            allowed = (RolloutPhase.RUNNING, RolloutPhase.PAUSED, RolloutPhase.HALTED)
        case AbortRequested() | SupersededBy():
            allowed = _OPEN
        case _:
            assert_never(event)
    return "" if state.phase in allowed else f"The rollout is {state.phase.value}: that cannot be done now."


def _apply(state: Rollout, event: Event) -> Step:
    match event:
        case DeviceMoved():
            return _moved(state, event)
        case Ticked():
            return _ticked(state, event.at_ms)
        case GateJudged():
            return waves.take_judgement(state, event)
        case _:
            return (state, ()) if refusal(state, event) else _operated(state, event)


def _operated(state: Rollout, event: OperatorEvent) -> Step:
    match event:
        case Approved():
            approvals = (*state.approvals, event.actor)
            is_enough = len(approvals) >= state.policy.approvals_needed
            phase = RolloutPhase.SCHEDULED if is_enough else state.phase
            record = Record("decision", "approve", 0, event.spec_sha256, event.at_ms, event.actor)
            return replace(state, approvals=approvals, phase=phase), (record,)
        case Rejected():
            return ending.end(state, RolloutPhase.REJECTED, event.reason, event.at_ms, event.actor)
        case Started():
            state = replace(state, phase=RolloutPhase.RUNNING, started_ms=event.at_ms, deadline_ms=0)
            state, effects = waves.begin_wave(state, event.at_ms)
            return state, (Record("decision", "start", 0, "", event.at_ms, event.actor), *effects)
        case PauseRequested():
            return ending.pause(state, PauseReason.MANUAL, event.reason, event.at_ms, event.actor)
        case Resumed():
            state, effects = waves.offer_again(_running(state), event.at_ms)
            return state, (Record("decision", "resume", state.wave, "", event.at_ms, event.actor), *effects)
        case Overridden():
            return waves.promote(_running(state), f"override: {event.reason}", event.at_ms, event.actor)
        case HaltRequested():
            if state.halt is not None:
                return ending.roll_back(state, event.reason, event.at_ms, event.actor)
            cause = Halt(event.at_ms, state.wave, "operator", "requested", event.reason, (), event.actor)
            return ending.halt(state, cause)
        case AbortRequested():
            return ending.stop_forward(state, RolloutPhase.ABORTED, event.reason, event.at_ms, event.actor)
        case SupersededBy():
            reason = f"Superseded by {event.rollout}."
            return ending.stop_forward(state, RolloutPhase.SUPERSEDED, reason, event.at_ms)
        case _:
            assert_never(event)


def _running(state: Rollout) -> Rollout:
    return replace(state, phase=RolloutPhase.RUNNING, pause=PauseReason.NONE, reason="", deadline_ms=0, remind_ms=0)


def _ticked(state: Rollout, at_ms: int) -> Step:
    effects: tuple[Effect, ...] = ()
    if state.started_ms and at_ms >= state.sweep_ms and state.is_anyone_due:
        state = replace(state, sweep_ms=at_ms + state.sweep_after_ms)
        effects = (ExpireDevices(state.exposed, at_ms),)
    state, more = _timed(state, at_ms)
    return state, (*effects, *more)


def _timed(state: Rollout, at_ms: int) -> Step:
    if state.phase is RolloutPhase.RUNNING:
        state, first = waves.settle(state, at_ms)
        state, then = waves.look_if_due(state, at_ms) if state.phase is RolloutPhase.RUNNING else (state, ())
        return state, (*first, *then)
    if state.phase is RolloutPhase.ROLLING_BACK:
        return ending.finish_rollback(state, at_ms)
    if state.deadline_ms and at_ms >= state.deadline_ms:
        if state.phase is RolloutPhase.HALTED:
            # A failed gate that nobody answers ends on the safe side.
            return ending.roll_back(state, "Nobody decided about the halted rollout.", at_ms)
        return ending.stop_forward(state, RolloutPhase.EXPIRED, "Nobody acted in time.", at_ms)
    if state.remind_ms and at_ms >= state.remind_ms:
        state = replace(state, remind_ms=at_ms + int(state.policy.remind_s * 1000))
        return state, (Notify(f"reminder:{at_ms}", state.wave, state.reason),)
    return state, ()


def _moved(state: Rollout, event: DeviceMoved) -> Step:
    if not 0 <= event.wave < len(state.waves) or not is_legal(event.previous, event.new):
        raise _bad_move(event, "is not a legal move")
    wave = state.waves[event.wave]
    try:
        tally = wave.tally.move(event.previous, event.new, event.count)
    except ValueError as error:
        raise _bad_move(event, f"does not fit the tallies: {error}") from error
    state = state.with_wave(replace(wave, tally=tally, strata=_outcomes(wave.strata, event)))
    state = _watched(state, event)
    if state.phase.is_exposing and state.phase is not RolloutPhase.HALTED:
        alarm = _alarm(state, event)
        if alarm is not None:
            return ending.halt(state, alarm)
    if state.phase is RolloutPhase.RUNNING:
        return waves.settle(state, event.at_ms)
    if state.phase is RolloutPhase.ROLLING_BACK:
        return ending.finish_rollback(state, event.at_ms)
    if state.phase is RolloutPhase.COMPLETED and not state.is_tail_closed:
        alarm = _alarm(state, event)
        if alarm is not None:
            closed = (WithdrawOffers(state.exposed), Notify("tail_failing", state.wave, alarm.sentence))
            return replace(state, is_tail_closed=True), closed
    return state, ()


def _outcomes(strata: tuple[Stratum, ...], event: DeviceMoved) -> tuple[Stratum, ...]:
    """Return outcomes by stratum; what a device proved stays counted when it rolls back."""
    if event.new is not DeviceState.CONFIRMED and event.new not in FAILURES:
        return strata
    by_name = {stratum.name: stratum for stratum in strata}
    one = by_name.get(event.stratum, Stratum(event.stratum))
    gained = event.count if event.new is DeviceState.CONFIRMED else 0
    lost = event.count if event.previous is DeviceState.CONFIRMED else 0
    failed = event.count if event.new in FAILURES else 0
    cleared = event.count if event.previous in FAILURES else 0
    by_name[event.stratum] = replace(
        one, confirmed=one.confirmed + gained - lost, failures=one.failures + failed - cleared
    )
    return tuple(by_name[name] for name in sorted(by_name))


def _watched(state: Rollout, event: DeviceMoved) -> Rollout:
    block_ms = int(state.policy.deadlines.total_s * 1000)
    if event.at_ms >= state.block_began_ms + block_ms:
        state = waves.begin_block(state, event.at_ms)
    return replace(state, watches=score(state.watches, event.stratum, event.previous, event.new, event.count))


def _alarm(state: Rollout, event: DeviceMoved) -> Halt | None:
    if event.new not in FAILURES:
        return None
    alarm = find_alarm(state.watches, state.policy.install, event.stratum)
    if alarm is None:
        return None
    where = f"stratum {alarm.stratum}" if alarm.stratum != WHOLE else "the rollout"
    failures = sum(wave.installs.failures for wave in state.waves)
    confirmed = sum(wave.installs.confirmed for wave in state.waves)
    named = ", ".join(sorted({one.name for wave in state.waves for one in wave.strata if one.failures}))
    sentence = (
        f"{failures} of {failures + confirmed} resolved devices failed ({named}), the last for '{event.reason}': in "
        f"{where} the halting statistic {alarm.statistic:.2f} is past {alarm.limit:.2f}."
    )
    numbers: tuple[tuple[str, float | int | str], ...] = (
        ("failed", failures),
        ("confirmed", confirmed),
        ("statistic", round(alarm.statistic, 4)),
        ("halt_at", round(alarm.limit, 4)),
        ("strata", named),
    )
    return Halt(event.at_ms, state.wave, "install_cusum", "failures", sentence, numbers)


def _bad_move(event: DeviceMoved, why: str) -> Conflict:
    return Conflict(
        f"Device move {event.previous.value} -> {event.new.value} in wave {event.wave} {why}.",
        code="ROLLOUT_MOVE",
        remedy="Compare the device rows with the rollout's tallies: they were not written in one transaction.",
        details={"device": event.device},
    )
