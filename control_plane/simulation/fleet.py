"""The shell of the rollout core, in virtual time: rows, desired generations, heartbeats, a clock that jumps.

Carries out every effect as the real shell does, in one thread and without a database, so that what is measured is the
core itself. Everything random was drawn into fates beforehand or comes from the seeded generator handed in.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from control_plane.core.execution import DeviceReport, Execution, expire, observe_device, offer, roll_back, withdraw
from control_plane.core.gates import judge
from control_plane.core.plan import Plan, PlanDevice, make_plan
from control_plane.core.rollout import (
    DeviceMoved,
    Effect,
    Event,
    ExpireDevices,
    GateJudged,
    Notify,
    OfferWave,
    Record,
    RequestJudgement,
    RollBack,
    Rollout,
    Started,
    Ticked,
    TopUpWave,
    WithdrawOffers,
    new_rollout,
    reconcile,
)
from control_plane.core.rollout.events import Approved
from control_plane.core.spec import RolloutSpec
from control_plane.core.states import DeviceState, RolloutPhase
from control_plane.simulation.answers import evidence_for
from control_plane.simulation.fates import BLAMELESS, NEVER_MS, Fate, Illness

START_MS = 1_000_000_000


@dataclass
class Device:
    """One device: its row, and what it really does."""

    id: str
    stratum: str
    wave: int
    fate: Fate
    execution: Execution
    active: str
    gen: int = 0
    beat: int = 0
    is_dead: bool = False
    is_harmed: bool = False
    last_seen_ms: int = START_MS
    asked: list[str] = field(default_factory=list)


class Fleet:
    """A rollout being played. ``run`` plays it to its end; the state and devices can be read at any time.

    Args:
        spec: what is rolled out.
        devices: the fleet as planned.
        fates: by device id.
        rng: seeded; used for message lag and answers only.
        watch: called with (before, event, after, effects) after every reconciled event.
    """

    def __init__(
        self,
        spec: RolloutSpec,
        devices: Sequence[PlanDevice],
        fates: Mapping[str, Fate],
        rng: random.Random,
        watch: Callable[[Rollout, Event, Rollout, tuple[Effect, ...]], None] | None = None,
    ) -> None:
        self.spec, self.rng, self.watch = spec, rng, watch
        self.plan: Plan = make_plan(spec, devices)
        self.state = new_rollout(spec, self.plan, START_MS)
        self.now_ms = START_MS
        self.effects: list[Effect] = []
        self._gen = 1
        self._queue: list[tuple[int, int, str, DeviceReport]] = []
        self._sent = 0
        strata = dict(self.plan.device_strata)
        current = {device.id: device.current_sha256 for device in devices}
        self.devices: dict[str, Device] = {}
        self.by_wave: list[list[Device]] = []
        for wave in self.plan.waves:
            members = []
            for device_id in wave.device_ids:
                row = Execution(target_sha256=spec.bundle_sha256, previous_sha256=current[device_id])
                device = Device(device_id, strata[device_id], wave.index, fates[device_id], row, current[device_id])
                self.devices[device_id] = device
                members.append(device)
            self.by_wave.append(members)

    # ---- time

    def run(self, until_ms: int | None = None) -> RolloutPhase:
        """Play until the rollout has ended, waits for a person with nothing in flight, or ``until_ms``."""
        limit = until_ms if until_ms is not None else START_MS + 400 * 86_400_000
        self.begin()
        while not self._is_over():
            at_ms = self._next_ms()
            if at_ms is None or at_ms > limit:
                self.now_ms = min(limit, at_ms or limit)
                break
            self.now_ms = max(self.now_ms, at_ms)
            if self._queue and self._queue[0][0] <= self.now_ms:
                _, _, device_id, report = heapq.heappop(self._queue)
                self._observe(self.devices[device_id], report)
            else:
                self.apply(Ticked(self.now_ms))
        return self.state.phase

    def begin(self) -> None:
        """Approve and start the rollout, unless that was done."""
        for number in range(self.spec.policy.approvals_needed):
            self.apply(Approved(f"approver-{number}", self.state.spec_sha256, self.now_ms))
        self.apply(Started(self.now_ms))

    def apply(self, event: Event) -> None:
        """Reconcile one event, and everything that follows from carrying out its effects."""
        pending: deque[Event] = deque([event])
        while pending:
            one = pending.popleft()
            before = self.state
            self.state, effects = reconcile(before, one)
            if self.watch:
                self.watch(before, one, self.state, effects)
            for effect in effects:
                self.effects.append(effect)
                pending.extend(self._carry_out(effect))

    def _next_ms(self) -> int | None:
        times = [self._queue[0][0]] if self._queue else []
        timer = self.state.next_timer_ms
        if timer is not None:
            times.append(max(timer, self.now_ms))
        return min(times) if times else None

    def _is_over(self) -> bool:
        if self.state.phase.is_terminal:
            return True
        return self.state.phase is RolloutPhase.PAUSED and not self._queue and not self.state.is_anyone_due

    # ---- effects

    def _carry_out(self, effect: Effect) -> list[Event]:
        match effect:
            case OfferWave(wave):
                return self._move_all(
                    [wave], lambda device: offer(device.execution, self._ask(device, True), self.now_ms)
                )
            case WithdrawOffers(waves):
                return self._move_all(waves, self._withdraw)
            case RollBack(waves, _):
                return self._move_all(waves, self._roll_back)
            case ExpireDevices(waves, now_ms):
                return self._move_all(waves, lambda device: self._expire(device, now_ms))
            case TopUpWave(wave, takes):
                self._top_up(wave, takes)
            case RequestJudgement(wave, look, _, since_ms):
                return [self._judge(wave, look, since_ms)]
            case Record() | Notify():
                pass
        return []

    def _move_all(self, waves: Sequence[int], change: Callable[[Device], Execution]) -> list[Event]:
        moves: list[Event] = []
        for wave in waves:
            for device in self.by_wave[wave]:
                moves += self._moved(device, change(device))
        return moves

    def _moved(self, device: Device, after: Execution) -> list[Event]:
        before, device.execution = device.execution, after
        if after.state is before.state:
            return []
        return [
            DeviceMoved(device.wave, device.stratum, before.state, after.state, self.now_ms, after.reason, device.id)
        ]

    def _ask(self, device: Device, is_forward: bool) -> int:
        """Set desired; return its generation. The device reacts in its own time."""
        if is_forward and device.execution.state is not DeviceState.QUEUED:
            return device.execution.generation
        self._gen += 1
        device.gen = self._gen
        device.asked.append("target" if is_forward else "previous")
        self._plan_reaction(device, is_forward)
        return self._gen

    def _withdraw(self, device: Device) -> Execution:
        if device.execution.state in (DeviceState.OFFERED, DeviceState.DEFERRED):
            self._ask(device, is_forward=False)
        return withdraw(device.execution, self.now_ms)

    def _roll_back(self, device: Device) -> Execution:
        row = device.execution
        gen = self._ask(device, is_forward=False) if row.offered_at_ms else row.generation
        return roll_back(row, gen, self.now_ms)

    def _expire(self, device: Device, now_ms: int) -> Execution:
        return expire(
            device.execution,
            self.spec.policy.deadlines,
            now_ms,
            last_seen_ms=device.last_seen_ms if device.is_dead or self._is_away(device) else now_ms,
            heartbeat_s=self.spec.profile.heartbeat_s,
        )

    def _top_up(self, wave: int, takes: tuple[tuple[int, int], ...]) -> None:
        for source, count in takes:
            queued = [device for device in self.by_wave[source] if device.execution.state is DeviceState.QUEUED]
            queued.sort(key=self._is_away)  # stable: online first, then in plan order
            for device in queued[:count]:
                self.by_wave[source].remove(device)
                device.wave = wave
                self.by_wave[wave].append(device)

    def _judge(self, wave: int, look: int, since_ms: int) -> GateJudged:
        state, spec = self.state, self.spec
        evidence = evidence_for(
            spec, self.devices.values(), wave=wave, look=look, at_ms=self.now_ms, since_ms=since_ms, rng=self.rng
        )
        current = state.waves[wave]
        results = judge(spec.policy, current.installs, evidence, dict(current.not_applicable), current.restarts)
        return GateJudged(wave, look, results, evidence.sha256, self.now_ms)

    # ---- devices

    def _is_away(self, device: Device) -> bool:
        return self.now_ms - START_MS < device.fate.reachable_ms

    def _plan_reaction(self, device: Device, is_forward: bool) -> None:
        fate, beat_ms = device.fate, int(self.spec.profile.heartbeat_s * 1000)
        if device.is_dead or fate.reachable_ms >= NEVER_MS:
            return
        heard = max(self.now_ms, START_MS + fate.reachable_ms)
        heard += (fate.phase_ms - heard) % beat_ms + 1
        target = self.spec.bundle_sha256 if is_forward else device.execution.previous_sha256
        if not is_forward:
            delay = fate.activate_ms if device.active != target else 0
            self._say(device, heard + delay, "confirmed", target, target)
            return
        self._say(device, heard, "downloading", device.active, target)
        if fate.illness is Illness.VANISHES:
            self._say(device, heard + beat_ms, "vanish", device.active, target)
            return
        staged = heard + fate.download_ms
        if fate.illness is Illness.NO_DISK:
            self._say(device, staged, "failed", device.active, target, "disk")
            return
        self._say(device, staged, "staged", device.active, target)
        self._activate(device, staged + fate.activate_ms, target, beat_ms)

    def _activate(self, device: Device, at_ms: int, target: str, beat_ms: int) -> None:
        old, probation_ms = device.active, int(self.spec.profile.probation_s * 1000)
        settled = at_ms + (probation_ms // beat_ms + 1) * beat_ms
        match device.fate.illness:
            case Illness.SILENT:
                self._say(device, at_ms, "brick", target, target)
            case Illness.REPORTS:
                self._say(device, at_ms, "probation", target, target)
                self._say(device, at_ms + beat_ms, "rolled_back", old, target, "health")
            case Illness.CLAIMS:
                for beat in range(8):
                    self._say(device, at_ms + beat * beat_ms, "confirmed", old, target)
            case Illness.FLAPS:
                for beat in range(8):
                    self._say(device, at_ms + beat * beat_ms, "probation", (target, old)[beat % 2], target)
            case _:
                self._say(device, at_ms, "probation", target, target)
                # Idle heartbeats change nothing and are left out, unless lag lets them overtake one another.
                for beat in range(4 if device.fate.lag_ms else 1):
                    self._say(device, settled + beat * beat_ms, "confirmed", target, target)
                if device.fate.illness is Illness.REVERTS_LATER:
                    self._say(device, settled + 2 * beat_ms, "rolled_back", old, target, "health")

    def _say(self, device: Device, at_ms: int, phase: str, active: str, target: str, reason: str = "") -> None:
        """Let the device speak at ``at_ms``; the message may be late, and may come twice."""
        device.beat += 1
        report = DeviceReport(device.gen, active, at_ms, phase, target, reason, 1, 1, device.beat)
        copies = 2 if device.fate.duplicates and self.rng.random() < device.fate.duplicates else 1
        for _ in range(copies):
            lag = self.rng.randrange(device.fate.lag_ms + 1) if device.fate.lag_ms else 0
            self._sent += 1
            heapq.heappush(self._queue, (at_ms + lag, self._sent, device.id, report))

    def _observe(self, device: Device, report: DeviceReport) -> None:
        if device.is_dead or report.generation != device.gen:
            if report.generation < device.gen and not device.is_dead and report.phase not in ("brick", "vanish"):
                self._receive(device, report)  # said before the device heard of the newer generation, and late
            return
        if report.phase in ("brick", "vanish"):
            device.is_dead = True
            device.is_harmed |= device.fate.illness not in BLAMELESS
            device.active = report.active_sha256
            return
        device.active = report.active_sha256
        if report.active_sha256 == self.spec.bundle_sha256 and device.fate.illness not in BLAMELESS:
            device.is_harmed = True
        self._receive(device, report)

    def _receive(self, device: Device, report: DeviceReport) -> None:
        device.last_seen_ms = self.now_ms
        stamped = DeviceReport(
            report.generation,
            report.active_sha256,
            self.now_ms,
            report.phase,
            report.target_sha256,
            report.reason,
            report.attempt,
            report.session,
            report.beat,
        )
        row = observe_device(device.execution, stamped, probation_s=self.spec.profile.probation_s)
        for event in self._moved(device, row):
            self.apply(event)

    @property
    def harmed(self) -> int:
        """Devices the release did harm to."""
        return sum(device.is_harmed for device in self.devices.values())
