"""Why a rollout stands where it stands, with the numbers: a plain structure for programs, sentences for people.

Reads state only; every number shown is one a decision was made with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from control_plane.core.gates import GateResult, judge_install, required_gates
from control_plane.core.rollout.state import Halt, Rollout, WaveState
from control_plane.core.states import RolloutPhase, WavePhase
from control_plane.core.tally import Tally


@dataclass(frozen=True)
class WaveStory:
    """One wave as it stands.

    Attributes:
        wave: from 1, as people count.
        phase: where it stands.
        devices: in the wave.
        engaged: took the offer.
        confirmed: seen with the new digest throughout probation.
        failed: counted against the release.
        waiting: offered or on their way.
        deferred: absent or busy; in no denominator.
        rolled_back: back on the previous bundle.
        rolling_back: asked back, not yet seen there.
        strata: (stratum, confirmed, failed).
        gates: results of the last look.
        look: which look comes next; 0 = not soaking.
        evidence_sha256: what the results rest on.
        topped_up: devices added because the wave could not be decided.
        tally: every state's count.
    """

    wave: int
    phase: str
    devices: int
    engaged: int
    confirmed: int
    failed: int
    waiting: int
    deferred: int
    rolled_back: int
    rolling_back: int
    strata: tuple[tuple[str, int, int], ...]
    gates: tuple[GateResult, ...]
    look: int
    evidence_sha256: str
    topped_up: int
    tally: Tally


@dataclass(frozen=True)
class Diagnosed:
    """A device that was asked for a support bundle because it was among the first to fail for a reason.

    Attributes:
        device: id.
        command: id of the command that asked.
        wave: from 1.
        failure: the reason.
        state: of the command: waiting | done | failed | expired | withdrawn.
        bundle_bytes: of the support bundle that is kept, 0 = none is.
    """

    device: str
    command: str
    wave: int
    failure: str
    state: str
    bundle_bytes: int

    @property
    def sentence(self) -> str:
        """What there is to look at."""
        whose = f"{self.device} (wave {self.wave}, {self.failure or 'no reason told'})"
        if self.bundle_bytes:
            return f"Diagnosis of {whose}: wavegate device diagnosis {self.device} {self.command} --show"
        return f"Diagnosis of {whose}: {self.state}."


@dataclass(frozen=True)
class Story:
    """The whole answer.

    Attributes:
        rollout: id.
        phase: where it stands.
        pause: why it waits, if it does.
        headline: the answer in one sentence.
        sentences: the same in full.
        waits_for: what would change it.
        next_timer_ms: when time alone would change it; None if nothing is waited for.
        halting_statistic: (name, value, limit): the CUSUM over the rollout.
        required_gates: what each wave must pass.
        harmed: devices that failed on the new bundle, ever.
        exposed: devices that took the offer, ever.
        halt: why it was halted.
        waves: each one.
        diagnoses: support bundles of the first devices of each failure reason in each wave.
    """

    rollout: str
    phase: str
    pause: str
    headline: str
    sentences: tuple[str, ...]
    waits_for: str
    next_timer_ms: int | None
    halting_statistic: tuple[str, float, float]
    required_gates: tuple[str, ...]
    harmed: int
    exposed: int
    halt: Halt | None
    waves: tuple[WaveStory, ...]
    diagnoses: tuple[Diagnosed, ...] = ()

    def encode(self) -> dict[str, Any]:
        """Return the story as plain JSON values."""
        encoded: dict[str, Any] = msgspec.to_builtins(self)
        return encoded

    @property
    def text(self) -> str:
        """The story for a terminal."""
        diagnoses = (one.sentence for one in self.diagnoses)
        return "\n".join(
            (self.headline, *self.sentences, *diagnoses, *((f"Waits for: {self.waits_for}",) if self.waits_for else ()))
        )


def explain(state: Rollout) -> Story:
    """Tell why ``state`` is what it is."""
    waves = tuple(_wave(wave) for wave in state.waves)
    sentences = [_wave_sentence(wave) for wave in waves if wave.phase != WavePhase.PLANNED]
    current = state.current
    if current.results:
        shown = " (before the halt)" if state.halt else ""
        sentences += [f"Gate {one.gate}{shown}: {one.verdict.value}. {one.sentence}" for one in current.results]
    elif current.installs.confirmed + current.installs.failures:
        install = judge_install(state.policy.install, current.installs)
        sentences.append(f"Gate install so far: {install.verdict.value}. {install.sentence}")
    limit = state.policy.install.halt_threshold
    sentences.append(f"Halting statistic {state.halting_statistic:.2f}; it halts at {limit:.2f}.")
    return Story(
        rollout=state.rollout,
        phase=state.phase.value,
        pause=state.pause.value,
        headline=_headline(state),
        sentences=tuple(sentences),
        waits_for=_waits_for(state),
        next_timer_ms=state.next_timer_ms,
        halting_statistic=("cusum", round(state.halting_statistic, 4), limit),
        required_gates=required_gates(state.policy),
        harmed=sum(wave.failed for wave in waves),
        exposed=sum(wave.engaged for wave in waves),
        halt=state.halt,
        waves=waves,
    )


def _wave(wave: WaveState) -> WaveStory:
    tally, installs = wave.tally, wave.installs
    engaged = tally.engaged + tally.rolling_back + tally.rolled_back
    return WaveStory(
        wave=wave.index + 1,
        phase=wave.phase.value,
        devices=tally.total,
        engaged=engaged,
        confirmed=installs.confirmed,
        failed=installs.failures,
        waiting=tally.offered + tally.in_progress,
        deferred=tally.deferred,
        rolled_back=tally.rolled_back,
        rolling_back=tally.rolling_back,
        strata=installs.by_stratum,
        gates=wave.results,
        look=wave.look,
        evidence_sha256=wave.evidence_sha256,
        topped_up=wave.topped_up,
        tally=tally,
    )


def _wave_sentence(wave: WaveStory) -> str:
    parts = [
        f"{wave.engaged} of {wave.devices} devices engaged",
        f"{wave.confirmed} confirmed",
        f"{wave.failed} failed",
    ]
    if wave.waiting:
        parts.append(f"{wave.waiting} on their way")
    if wave.deferred:
        parts.append(f"{wave.deferred} deferred")
    if wave.topped_up:
        parts.append(f"{wave.topped_up} added to decide")
    if wave.rolled_back or wave.rolling_back:
        parts.append(f"{wave.rolled_back} rolled back")
    if wave.rolling_back:
        parts.append(f"{wave.rolling_back} not yet back")
    failed = ", ".join(f"{name} {bad} of {well + bad}" for name, well, bad in wave.strata if bad)
    return f"Wave {wave.wave} is {wave.phase}: {', '.join(parts)}{f' (failures in {failed})' if failed else ''}."


def _headline(state: Rollout) -> str:
    where = f"wave {state.wave + 1} of {len(state.waves)}"
    match state.phase:
        case RolloutPhase.PENDING_APPROVAL:
            missing = state.policy.approvals_needed - len(state.approvals)
            return f"It waits for {missing} more approval(s) by people other than {state.creator or 'its creator'}."
        case RolloutPhase.SCHEDULED:
            return "It is approved and not started."
        case RolloutPhase.RUNNING:
            return f"It runs: {where} is {state.current.phase.value}."
        case RolloutPhase.PAUSED:
            return f"It is paused in {where} ({state.pause.value}): {state.reason}"
        case RolloutPhase.HALTED | RolloutPhase.ROLLING_BACK | RolloutPhase.ROLLED_BACK:
            cause = state.halt
            done = {"halted": "halted", "rolling_back": "halted and is rolling back"}.get(
                state.phase.value, "halted and rolled back"
            )
            why = f" by gate {cause.gate}: {cause.sentence}" if cause and not cause.actor else f": {state.reason}"
            by = f" by {cause.actor}" if cause and cause.actor else ""
            return f"It was {done} in wave {cause.wave + 1 if cause else state.wave + 1}{by}{why}"
        case RolloutPhase.ROLLBACK_INCOMPLETE:
            why = state.halt.sentence if state.halt else ""
            return f"It was halted and its roll back is incomplete. {state.reason} Halted because: {why}"
        case _:
            return f"It is {state.phase.value.replace('_', ' ')}: {state.reason}"


def _waits_for(state: Rollout) -> str:
    wave = state.current
    if state.phase is RolloutPhase.PAUSED:
        return "a person: resume watches the wave again, promote overrides, roll back returns every exposed device."
    if state.phase is RolloutPhase.HALTED:
        return "a person: roll back or abort; a failed wave cannot be resumed."
    if state.phase is RolloutPhase.ROLLING_BACK:
        missing = sum(state.waves[index].tally.unsettled for index in state.exposed)
        return f"{missing} devices to be seen on their previous bundle."
    if state.phase is not RolloutPhase.RUNNING:
        return ""
    if wave.phase is WavePhase.OFFERING:
        tally = wave.tally
        return (
            f"{tally.queued + tally.offered} offers to be taken or deferred, and {state.policy.quorum:.0%} of "
            f"{tally.engaged} engaged devices to be resolved ({tally.resolved} are)."
        )
    if wave.asked_ms:
        return f"the judgement of look {wave.look} of {state.policy.looks}."
    return f"look {wave.look} of {state.policy.looks}."
