"""How a wave goes forward: offer, resolve, soak, be judged, be promoted, top up or wait for a person."""

from __future__ import annotations

import math
from dataclasses import replace

from control_plane.core.gates import INSTALL, GateResult, Verdict, judge_install, required_gates
from control_plane.core.rollout.effects import OfferWave, Record, RequestJudgement, TopUpWave
from control_plane.core.rollout.ending import Step, end, halt, pause
from control_plane.core.rollout.events import GateJudged
from control_plane.core.rollout.state import Halt, Rollout, WaveState
from control_plane.core.rollout.watch import close_block, test_of
from control_plane.core.states import PauseReason, RolloutPhase, WavePhase


def begin_block(state: Rollout, at_ms: int) -> Rollout:
    """Begin a new block of the halting statistic: whoever is offered now is judged together."""
    return replace(state, watches=close_block(state.watches, state.policy.install), block_began_ms=at_ms)


def begin_wave(state: Rollout, at_ms: int) -> Step:
    """Offer the current wave to its devices."""
    state = begin_block(state, at_ms)
    wave = replace(state.current, phase=WavePhase.OFFERING, began_ms=at_ms)
    state = replace(state.with_wave(wave), sweep_ms=at_ms + state.sweep_after_ms)
    return state, (OfferWave(wave.index),)


def offer_again(state: Rollout, at_ms: int) -> Step:
    """Offer recalled devices anew and watch the current wave from the start; its past looks are spent."""
    state = begin_block(state, at_ms)
    state = replace(state.with_wave(_rewatch(state.current)), sweep_ms=at_ms + state.sweep_after_ms)
    return state, tuple(OfferWave(index) for index in state.exposed)


def settle(state: Rollout, at_ms: int) -> Step:
    """Let a wave whose offers are taken or deferred soak once enough of its devices are resolved."""
    wave = state.current
    tally = wave.tally
    if wave.phase is not WavePhase.OFFERING or tally.queued or tally.offered:
        return state, ()
    if tally.engaged == 0 and not (state.is_last_wave and _is_proven(state, wave)):
        return hold(state, PauseReason.NO_DATA, "No device of the wave took the offer.", at_ms)
    if not has_quorum(state, wave):
        return state, ()
    wave = replace(wave, phase=WavePhase.SOAKING, soak_began_ms=at_ms, look=1, asked_ms=0)
    return state.with_wave(replace(wave, next_look_ms=look_at(state, wave, 1))), ()


def look_if_due(state: Rollout, at_ms: int) -> Step:
    """Ask for a judgement when a look is due, and again when an answer is overdue."""
    wave = state.current
    if wave.phase is not WavePhase.SOAKING:
        return state, ()
    due = wave.asked_ms + state.sweep_after_ms if wave.asked_ms else wave.next_look_ms
    if at_ms < due:
        return state, ()
    is_final = wave.look >= state.policy.looks
    if is_final and not has_quorum(state, wave):
        # Somebody is still inside a deadline of their own. That ends, and promotion waits for it.
        return state.with_wave(replace(wave, next_look_ms=at_ms + state.sweep_after_ms, asked_ms=0)), ()
    state = state.with_wave(replace(wave, asked_ms=at_ms))
    return state, (RequestJudgement(wave.index, wave.look, is_final, wave.began_ms),)


def take_judgement(state: Rollout, event: GateJudged) -> Step:
    """Follow what the gates said: halt, pause, look again, promote, or hold."""
    wave, at_ms = state.current, event.at_ms
    is_current = event.wave == wave.index and event.look == wave.look and wave.phase is WavePhase.SOAKING
    if state.phase is not RolloutPhase.RUNNING or not is_current or not wave.asked_ms:
        return state, ()
    results = _complete(state, wave, event.results)
    wave = replace(wave, results=results, evidence_sha256=event.evidence_sha256, asked_ms=0)
    state = state.with_wave(wave)
    record = Record(
        "gate",
        "judged",
        wave.index,
        _worst(results).sentence,
        at_ms,
        look=wave.look,
        results=results,
        evidence_sha256=event.evidence_sha256,
    )
    state, effects = _follow(state, wave, results, at_ms)
    return state, (record, *effects)


def _follow(state: Rollout, wave: WaveState, results: tuple[GateResult, ...], at_ms: int) -> Step:
    worst = _worst(results)
    if worst.verdict is Verdict.FAIL:
        return halt(state, Halt(at_ms, wave.index, worst.gate, worst.reason, worst.sentence, worst.numbers))
    if worst.verdict is Verdict.ENV_SHIFT:
        return pause(state, PauseReason.ENV_SHIFT, worst.sentence, at_ms)
    if wave.look < state.policy.looks:
        number = wave.look + 1
        return state.with_wave(replace(wave, look=number, next_look_ms=look_at(state, wave, number))), ()
    if not has_quorum(state, wave):
        return state.with_wave(replace(wave, next_look_ms=at_ms + state.sweep_after_ms)), ()
    if worst.verdict is Verdict.NO_DATA:
        return hold(state, PauseReason.NO_DATA, worst.sentence, at_ms)
    if worst.verdict is Verdict.INCONCLUSIVE:
        return hold(state, PauseReason.INCONCLUSIVE, worst.sentence, at_ms)
    # Nobody follows the last wave, so absent devices may not hold it for ever: they become the tail.
    needed = min(wave.min_resolved, wave.tally.engaged) if state.is_last_wave else wave.min_resolved
    if wave.tally.resolved < needed:
        sentence = f"{wave.tally.resolved} devices are resolved and {needed} are needed."
        return hold(state, PauseReason.NO_DATA, sentence, at_ms)
    return promote(state, "Every required gate passed.", at_ms)


def hold(state: Rollout, kind: PauseReason, reason: str, at_ms: int) -> Step:
    """Answer a wave that cannot be decided: watch once more, add devices, or wait for a person."""
    wave = state.current
    is_large_enough = wave.tally.resolved >= max(wave.min_resolved, _devices_wanted(state))
    if kind is PauseReason.NO_DATA and is_large_enough and not wave.is_extended:
        # Enough devices, too little from them: more devices would only be exposed unseen. Give it time once.
        wave = replace(_rewatch(wave), is_extended=True)
        record = Record("decision", "extend", wave.index, reason, at_ms)
        state, effects = settle(state.with_wave(wave), at_ms)
        return state, (record, *effects)
    takes = () if kind is PauseReason.NO_DATA and is_large_enough else _takes(state)
    if not takes:
        return pause(state, kind, reason, at_ms)
    return top_up(state, takes, reason, at_ms)


def top_up(state: Rollout, takes: tuple[tuple[int, int], ...], reason: str, at_ms: int) -> Step:
    """Grow the current wave by queued devices of later waves and offer it to them."""
    state = begin_block(state, at_ms)
    for index, count in takes:
        other = state.waves[index]
        state = state.with_wave(replace(other, tally=replace(other.tally, queued=other.tally.queued - count)))
    extra = sum(count for _, count in takes)
    wave = _rewatch(state.current)
    wave = replace(wave, tally=replace(wave.tally, queued=wave.tally.queued + extra), topped_up=wave.topped_up + extra)
    state = replace(state.with_wave(wave), sweep_ms=at_ms + state.sweep_after_ms)
    record = Record("decision", "top_up", wave.index, reason, at_ms, numbers=(("devices", extra),))
    return state, (record, TopUpWave(wave.index, takes), OfferWave(wave.index))


def promote(state: Rollout, reason: str, at_ms: int, actor: str = "") -> Step:
    """End the current wave well and begin the next, or complete the rollout."""
    wave = state.current
    test = test_of(state.policy.install)
    carried = test.clamp(test.ratio(wave.installs.confirmed, wave.installs.failures, wave.carried))
    state = state.with_wave(replace(wave, phase=WavePhase.PROMOTED, ended_ms=at_ms, asked_ms=0))
    record = Record("decision", "promote", wave.index, reason, at_ms, actor)
    for index in range(wave.index + 1, len(state.waves)):
        later = state.waves[index]
        if later.tally.total == 0:  # its devices were taken by top-ups
            state = state.with_wave(replace(later, phase=WavePhase.PROMOTED, ended_ms=at_ms))
            continue
        state = replace(state.with_wave(replace(later, carried=carried)), wave=index)
        state, effects = begin_wave(state, at_ms)
        return state, (record, *effects)
    deferred = state.total.deferred
    tail = f" {deferred} absent devices may still follow." if deferred else ""
    state, last = end(state, RolloutPhase.COMPLETED, f"Every wave was promoted.{tail}", at_ms)
    return state, (record, *last)


def has_quorum(state: Rollout, wave: WaveState) -> bool:
    """Whether enough of the engaged devices are resolved."""
    return wave.tally.resolved >= math.ceil(state.policy.quorum * wave.tally.engaged - 1e-9)


def look_at(state: Rollout, wave: WaveState, number: int) -> int:
    """Return when look ``number`` is due: looks share the soak evenly, and the last is at its end."""
    return wave.soak_began_ms + int(wave.soak_s * 1000 * number / state.policy.looks)


def _rewatch(wave: WaveState) -> WaveState:
    return replace(
        wave,
        phase=WavePhase.OFFERING,
        soak_began_ms=0,
        look=0,
        next_look_ms=0,
        asked_ms=0,
        is_extended=False,
        restarts=wave.restarts + (1 if wave.look else 0),
    )


def _complete(state: Rollout, wave: WaveState, given: tuple[GateResult, ...]) -> tuple[GateResult, ...]:
    """Return one result for each required gate; what is absent, or claims too much, is NO_DATA."""
    predicted = dict(wave.not_applicable)
    by_gate = {result.gate: result for result in given}
    results = []
    for gate in required_gates(state.policy):
        result = by_gate.get(gate)
        if gate == INSTALL:  # from the tally as it stands now, not as it stood when the evidence was gathered
            result = judge_install(state.policy.install, wave.installs)
        if result is None:
            result = GateResult(gate, Verdict.NO_DATA, "not_judged", f"The {gate} gate gave no answer.")
        elif result.verdict is Verdict.NOT_APPLICABLE and predicted.get(gate) != result.reason:
            sentence = f"The {gate} gate does not apply ({result.reason}), which the plan had not foreseen."
            result = GateResult(gate, Verdict.NO_DATA, "not_foreseen", sentence)
        results.append(result)
    return tuple(results)


_SEVERITY = (
    Verdict.NOT_APPLICABLE,
    Verdict.PASS,
    Verdict.INCONCLUSIVE,
    Verdict.NO_DATA,
    Verdict.ENV_SHIFT,
    Verdict.FAIL,
)


def _worst(results: tuple[GateResult, ...]) -> GateResult:
    return max(results, key=lambda result: _SEVERITY.index(result.verdict))


def _takes(state: Rollout) -> tuple[tuple[int, int], ...]:
    """Return what a top-up takes from which later wave: at most half the wave again, within the limit."""
    wave, policy = state.current, state.policy
    size = wave.tally.total
    wanted = min(math.ceil(size * policy.top_up_factor), policy.top_up_limit - size)
    takes: list[tuple[int, int]] = []
    for later in state.waves[wave.index + 1 :]:
        count = min(wanted, later.tally.queued)
        if count > 0 and not later.is_holdout:
            takes.append((later.index, count))
            wanted -= count
    return tuple(takes)


def _devices_wanted(state: Rollout) -> int:
    output, caps = state.policy.output, state.policy.caps
    return max(output.min_devices if output else 0, caps.min_devices)


def _is_proven(state: Rollout, wave: WaveState) -> bool:
    return wave.carried <= test_of(state.policy.install).accept
