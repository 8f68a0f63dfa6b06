"""How a rollout stops: pause, halt, roll back, end. Leaves going forward to ``waves``."""

from __future__ import annotations

from dataclasses import replace

from control_plane.core.policy import OnFail
from control_plane.core.rollout.effects import Effect, Notify, Record, RollBack, WithdrawOffers
from control_plane.core.rollout.state import Halt, Rollout
from control_plane.core.states import PauseReason, RolloutPhase, WavePhase

Step = tuple[Rollout, tuple[Effect, ...]]


def pause(state: Rollout, kind: PauseReason, reason: str, at_ms: int, actor: str = "") -> Step:
    """Wait for a person; recall offers nobody took yet. What is in flight is still watched and may still halt."""
    policy, wave = state.policy, state.current
    if kind is not PauseReason.MANUAL:
        wave = replace(wave, phase=WavePhase.HELD, asked_ms=0)
    state = replace(
        state.with_wave(wave),
        phase=RolloutPhase.PAUSED,
        pause=kind,
        reason=reason,
        deadline_ms=at_ms + int(policy.pause_expiry_s * 1000),
        remind_ms=at_ms + int(policy.remind_s * 1000),
    )
    return state, (
        WithdrawOffers(state.exposed),
        Record("decision", "pause", state.wave, reason, at_ms, actor),
        Notify(f"paused:{kind.value}", state.wave, reason),
    )


def halt(state: Rollout, cause: Halt) -> Step:
    """Fail the current wave for ``cause``; roll back at once unless the policy leaves that to a person."""
    frozen = tuple(replace(wave, at_halt=wave.tally) if wave.began_ms else wave for wave in state.waves)
    state = replace(state, waves=frozen, halt=cause, reason=cause.sentence, pause=PauseReason.NONE)
    if state.current.began_ms:
        failed = replace(state.current, phase=WavePhase.FAILED, ended_ms=cause.at_ms, asked_ms=0)
        state = state.with_wave(failed)
    effects: tuple[Effect, ...] = (
        Record("decision", "halt", cause.wave, cause.sentence, cause.at_ms, cause.actor, numbers=cause.numbers),
        Notify("halted", cause.wave, f"{cause.gate}:{cause.reason}"),
    )
    if state.policy.on_fail is OnFail.ROLLBACK_ALL or cause.actor:
        state, back = roll_back(state, cause.reason, cause.at_ms, cause.actor)
        return state, (*effects, *back)
    state = replace(
        state,
        phase=RolloutPhase.HALTED,
        deadline_ms=cause.at_ms + int(state.policy.pause_expiry_s * 1000),
        remind_ms=cause.at_ms + int(state.policy.remind_s * 1000),
    )
    return state, (*effects, WithdrawOffers(state.exposed))


def roll_back(state: Rollout, reason: str, at_ms: int, actor: str = "") -> Step:
    """Ask every exposed device back to what it ran before."""
    state = replace(
        state,
        phase=RolloutPhase.ROLLING_BACK,
        deadline_ms=at_ms + int(state.policy.rollback_s * 1000),
        remind_ms=0,
    )
    record = Record("decision", "roll_back", state.wave, reason, at_ms, actor)
    state, done = finish_rollback(state, at_ms)
    return state, (record, RollBack(state.exposed, reason), *done)


def finish_rollback(state: Rollout, at_ms: int) -> Step:
    """End the roll back when every exposed device is accounted for, or when its time is up."""
    missing = sum(state.waves[index].tally.unsettled for index in state.exposed)
    if missing == 0:
        return end(state, RolloutPhase.ROLLED_BACK, state.reason, at_ms)
    if at_ms >= state.deadline_ms:
        reason = f"{missing} devices have not confirmed the roll back."
        return end(state, RolloutPhase.ROLLBACK_INCOMPLETE, reason, at_ms)
    return state, ()


def end(state: Rollout, phase: RolloutPhase, reason: str, at_ms: int, actor: str = "") -> Step:
    """Enter a terminal phase."""
    state = replace(
        state, phase=phase, pause=PauseReason.NONE, reason=reason, ended_ms=at_ms, deadline_ms=0, remind_ms=0
    )
    return state, (
        Record("decision", phase.value, state.wave, reason, at_ms, actor),
        Notify(phase.value, state.wave, reason),
    )


def stop_forward(state: Rollout, phase: RolloutPhase, reason: str, at_ms: int, actor: str = "") -> Step:
    """End where it stands: offers nobody took are recalled, devices that moved stay."""
    state, effects = end(state, phase, reason, at_ms, actor)
    return state, (*((WithdrawOffers(state.exposed),) if state.exposed else ()), *effects)
