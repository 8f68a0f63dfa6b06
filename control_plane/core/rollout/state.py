"""What a reconciler remembers of one rollout: phase, wave, tallies, deadlines. Small, whatever the fleet.

Stored as JSON with a version; fields may be added with defaults, never renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from control_plane.core.gates import GateResult, Installs
from control_plane.core.plan import Plan
from control_plane.core.policy import Policy
from control_plane.core.rollout.watch import WHOLE, HaltWatch, test_of
from control_plane.core.spec import RolloutSpec, spec_sha256
from control_plane.core.states import PauseReason, RolloutPhase, WavePhase
from control_plane.core.tally import Tally, add
from control_plane.errors import Conflict

STATE_VERSION = 1


@dataclass(frozen=True)
class Stratum:
    """What is known of one stratum.

    Attributes:
        name: of the stratum.
        confirmed: devices of the wave that confirmed.
        failures: devices of the wave that failed.
    """

    name: str
    confirmed: int = 0
    failures: int = 0


@dataclass(frozen=True)
class WaveState:
    """One wave.

    Attributes:
        index: from 0.
        soak_s: from the plan.
        min_resolved: from the plan.
        not_applicable: (gate, reason) the plan predicted.
        is_holdout: the lasting controls.
        phase: where it stands.
        tally: devices by state.
        strata: outcomes by stratum; kept when devices roll back.
        carried: log likelihood ratio brought from promoted waves.
        began_ms: first offered.
        soak_began_ms: resolved and being watched since; 0 = not yet.
        look: number of the next look, from 1; 0 = not soaking.
        next_look_ms: when it is due.
        asked_ms: when its judgement was requested; 0 = not requested.
        restarts: how often it was watched anew (after a top-up, an extension or a resume).
        is_extended: the soak was repeated once for lack of data.
        topped_up: devices added.
        results: of the last look.
        evidence_sha256: what they rest on.
        at_halt: the tally at the moment of the halt.
        ended_ms: promoted or failed at.
    """

    index: int
    soak_s: float
    min_resolved: int
    tally: Tally
    not_applicable: tuple[tuple[str, str], ...] = ()
    is_holdout: bool = False
    phase: WavePhase = WavePhase.PLANNED
    strata: tuple[Stratum, ...] = ()
    carried: float = 0.0
    began_ms: int = 0
    soak_began_ms: int = 0
    look: int = 0
    next_look_ms: int = 0
    asked_ms: int = 0
    restarts: int = 0
    is_extended: bool = False
    topped_up: int = 0
    results: tuple[GateResult, ...] = ()
    evidence_sha256: str = ""
    at_halt: Tally | None = None
    ended_ms: int = 0

    @property
    def installs(self) -> Installs:
        """What the install gate counts."""
        return Installs(
            confirmed=sum(stratum.confirmed for stratum in self.strata),
            failures=sum(stratum.failures for stratum in self.strata),
            carried=self.carried,
            by_stratum=tuple((s.name, s.confirmed, s.failures) for s in self.strata),
        )


@dataclass(frozen=True)
class Halt:
    """Why it was halted.

    Attributes:
        at_ms: when.
        wave: in which wave.
        gate: ``install``, ``install_cusum``, ``output``..., or ``operator``.
        reason: stable word.
        sentence: for people.
        numbers: that decided.
        actor: who asked, if a person did.
    """

    at_ms: int
    wave: int
    gate: str
    reason: str
    sentence: str
    numbers: tuple[tuple[str, float | int | str], ...] = ()
    actor: str = ""


@dataclass(frozen=True)
class Rollout:
    """One rollout as the reconciler knows it.

    Attributes:
        rollout: id.
        spec_sha256: what approvals are bound to.
        creator: may not approve.
        policy: gates and deadlines.
        heartbeat_s: how often deadlines are swept.
        waves: in order.
        phase: where it stands.
        pause: why it waits.
        reason: the same in words, or why it ended.
        wave: index of the current wave; never falls.
        approvals: who approved.
        watches: halting statistic, over the whole rollout and by stratum.
        block_began_ms: when its present block began.
        halt: set once halted.
        is_tail_closed: a completed rollout stopped taking in stragglers.
        deadline_ms: when the phase ends by itself; 0 = none.
        remind_ms: when people are reminded; 0 = none.
        sweep_ms: when device deadlines are next looked at; 0 = at once.
        created_ms: when it was created.
        started_ms: when the first wave was offered.
        ended_ms: when it became terminal.
        version: rises with every change; the shell compares and sets it.
    """

    rollout: str
    spec_sha256: str
    creator: str
    policy: Policy
    heartbeat_s: float
    waves: tuple[WaveState, ...]
    phase: RolloutPhase
    created_ms: int
    pause: PauseReason = PauseReason.NONE
    reason: str = ""
    wave: int = 0
    approvals: tuple[str, ...] = ()
    watches: tuple[HaltWatch, ...] = ()
    block_began_ms: int = 0
    halt: Halt | None = None
    is_tail_closed: bool = False
    deadline_ms: int = 0
    remind_ms: int = 0
    sweep_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    version: int = 1

    @property
    def current(self) -> WaveState:
        """The current wave."""
        return self.waves[self.wave]

    @property
    def exposed(self) -> tuple[int, ...]:
        """Indices of the waves that were offered: nobody else is ever asked to move."""
        return tuple(wave.index for wave in self.waves if wave.began_ms > 0)

    @property
    def halting_statistic(self) -> float:
        """The halting statistic over the whole rollout as it stands."""
        return next((one.statistic(test_of(self.policy.install)) for one in self.watches if one.stratum == WHOLE), 0.0)

    @property
    def total(self) -> Tally:
        """All waves together."""
        return add(tuple(wave.tally for wave in self.waves))

    @property
    def is_last_wave(self) -> bool:
        """Whether no later wave holds a device, lasting controls aside."""
        return all(wave.tally.total == 0 or wave.is_holdout for wave in self.waves[self.wave + 1 :])

    @property
    def next_timer_ms(self) -> int | None:
        """When ``Ticked`` has something to do next; None only where nothing is left to wait for."""
        times = [time for time in (self.deadline_ms, self.remind_ms) if time]
        if self.started_ms and self.is_anyone_due:
            times.append(self.sweep_ms)
        if self.phase is RolloutPhase.RUNNING and self.current.phase is WavePhase.SOAKING:
            wave = self.current
            times.append(wave.next_look_ms if not wave.asked_ms else wave.asked_ms + self.sweep_after_ms)
        if self.phase is RolloutPhase.RUNNING and not times:
            times.append(self.sweep_ms)  # nobody has been offered yet: look again, whatever the shell is doing
        return min(times) if times else None

    @property
    def is_anyone_due(self) -> bool:
        """Whether some device has a deadline running."""
        return any(self.waves[index].tally.offered + self.waves[index].tally.in_progress for index in self.exposed)

    @property
    def sweep_after_ms(self) -> int:
        """Milliseconds between two looks at device deadlines, and before a judgement is asked for again."""
        return max(1000, int(self.heartbeat_s * 1000))

    def with_wave(self, wave: WaveState) -> Rollout:
        """Return the state with one wave replaced."""
        return replace(self, waves=(*self.waves[: wave.index], wave, *self.waves[wave.index + 1 :]))


def new_rollout(spec: RolloutSpec, plan: Plan, at_ms: int) -> Rollout:
    """Return the state a planned rollout begins with: PENDING_APPROVAL, or SCHEDULED if nobody need approve."""
    policy = spec.policy
    return Rollout(
        rollout=spec.rollout,
        spec_sha256=spec_sha256(spec),
        creator=spec.creator,
        policy=policy,
        heartbeat_s=spec.profile.heartbeat_s,
        waves=tuple(
            WaveState(
                index=wave.index,
                soak_s=wave.soak_s,
                min_resolved=wave.min_resolved,
                tally=Tally(queued=wave.size),
                not_applicable=wave.not_applicable,
                is_holdout=wave.is_holdout,
            )
            for wave in plan.waves
        ),
        phase=RolloutPhase.PENDING_APPROVAL if policy.approvals_needed else RolloutPhase.SCHEDULED,
        created_ms=at_ms,
        deadline_ms=at_ms + int(policy.approval_expiry_s * 1000),
    )


def encode_state(state: Rollout) -> dict[str, Any]:
    """Return the state as plain JSON values."""
    return {"v": STATE_VERSION, **msgspec.to_builtins(state)}


def decode_state(document: Mapping[str, Any]) -> Rollout:
    """Return the state stored as ``document``.

    Raises:
        Conflict: ``ROLLOUT_STATE_VERSION``: written by a newer control plane, or not a state.
    """
    try:
        if document.get("v") == STATE_VERSION:
            return msgspec.convert(document, Rollout)
        found = f"version {document.get('v')}"
    except msgspec.ValidationError as error:
        found = str(error)
    raise Conflict(
        f"The stored rollout state cannot be read here: {found}.",
        code="ROLLOUT_STATE_VERSION",
        remedy="Run the control plane that wrote it, or a newer one.",
    )
