"""One device: the updater's core, its edges and the control plane, tied together on one line of calls.

Real and virtual devices are this same class on other edges. Everything here runs on the schedule's line and waits for
nothing but the disk. Leaves connecting to ``link``, slow effects to ``steps``, wording to ``reporting``.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.conditions import Admission, NoConditions
from agent.core import effects as fx
from agent.core import events as ev
from agent.core.journal import decode_state
from agent.core.policy import Policy
from agent.core.route import Way
from agent.core.state import Asked, Release, Step, UpdaterState
from agent.mqtt import PresenceState, Transport
from agent.room import with_memory
from agent.runner import reporting
from agent.runner.assurance import Assurance
from agent.runner.edges import Models, ServerDoor
from agent.runner.inbox import Inbox
from agent.runner.link import Hooks, Link
from agent.runner.rehash import Rehash
from agent.runner.reporting import Self
from agent.runner.schedule import Schedule
from agent.runner.steps import BlobFetch, Steps
from agent.runner.story import story
from agent.runner.stream import Accuracy
from agent.runner.trustwatch import TrustWatch
from agent.runner.updates import Updates
from agent.runner.voice import Voice
from agent.spool import Spool
from agent.store import Store
from bundles.errors import Refused, WavegateError
from bundles.wire.messages import Desired, Profile

_log = logging.getLogger(__name__)

TransportOf = Callable[
    [Callable[[str, bytes], None], Callable[[bool, str], None], Callable[[PresenceState], bytes]], Transport
]
"""(on_down, on_state, presence) -> a connection to the broker."""
BEAT_SOON_S = 0.2
"""Transitions within this time share one heartbeat."""
STATUS_S = 2.0
DESIRED_AGAIN_S = 5.0


@dataclass(frozen=True)
class Parts:
    """The edges of one device; closed by the device, ``models`` last.

    Attributes:
        store: its disk, opened.
        spool: its queue.
        assurance: its trust.
        models: its models.
        fetch: brings blobs.
        door: HTTPS.
        transport: makes its connection to the broker from (on_down, on_state, presence); None = HTTPS only.
        accuracy: labelled predictions, where a stream counts them.
        conditions: what speaks against an update.
        ways: to the broker, in order of preference.
        on_command: takes a command of the control plane; None = this device takes none.
    """

    store: Store
    spool: Spool
    assurance: Assurance
    models: Models
    fetch: BlobFetch
    door: ServerDoor
    transport: TransportOf | None
    accuracy: Accuracy
    conditions: Admission = field(default_factory=NoConditions)
    ways: tuple[Way, ...] = ("mqtt",)
    on_command: Callable[[bytes], None] | None = None


class Device:
    """One running device.

    Args:
        me: who it is.
        parts: its edges.
        schedule: its line, which others may share.
        policy: bounds set by its owner.
        profile: timing until a desired document brings its own.
        status_path: where its status is written.
        wall_ms: the system's clock.
        rng: for jitter.
    """

    def __init__(
        self,
        me: Self,
        parts: Parts,
        schedule: Schedule,
        policy: Policy,
        profile: Profile,
        status_path: Path,
        wall_ms: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self.me, self.parts = me, parts
        self._schedule, self._profile, self._rng = schedule, profile, rng
        self._is_canary = False
        self.is_closed = False
        self._refused = ""
        self._rehash = Rehash(schedule.background, time.monotonic, time.sleep)
        self.steps = Steps(
            parts.assurance,
            parts.store,
            parts.fetch,
            parts.models,
            me.hardware,
            rng.random,
            self._retained,
            self._spare,
            self._delta_failed,
            parts.conditions,
            self._rehash,
            self._damaged,
        )
        self.updates = Updates(
            schedule,
            policy,
            parts.store.save_journal,
            quick={
                fx.Report: self._report,
                fx.SetTimer: self._set_timer,
                fx.Cancel: self._cancel,
                fx.TellSafeMode: self._tell_safe_mode,
            },
            slow=self.steps.handlers(),
            failed=self._failed,
            changed=self._changed,
            key=me.device,
        )
        self.voice = Voice(
            me,
            parts.spool,
            parts.models,
            parts.assurance,
            parts.accuracy,
            self.updates.states,
            wall_ms,
            schedule.now_ms,
            status_path,
            lambda: with_memory(parts.store.room()),
        )
        self.trust = TrustWatch(
            schedule, me.device, parts.assurance, parts.store, self.updates, self._tell, self._note, rng.random
        )
        self.voice.standings = self.trust.standings
        self.inbox = Inbox(
            schedule,
            parts.assurance.accept,
            self._judged,
            self._take,
            self._refuse_desired,
            lambda call: self._after("desired", DESIRED_AGAIN_S, call),
        )
        hooks = Hooks(
            self.inbox.put, self._contact, self._conflict, self.voice.heartbeat, parts.on_command, self._broker_trouble
        )
        transport = parts.transport(self._on_down, self._on_state, self.voice.presence) if parts.transport else None
        self.link = Link(
            schedule, me.device, parts.door, transport, parts.spool, hooks, rng, wall_ms, profile.poll_s, parts.ways
        )

    def start(self) -> None:
        """Take up what the journal tells, then get in touch. On the line."""
        for model in self.parts.store.models():
            self.updates.states[model] = self._journalled(model)
            store = self.parts.store
            self.updates.offer(model, ev.Booted(0, store.active_release(model), store.factory(model)))
        self.trust.start()
        self.link.start()
        self._after("beat", self._profile.heartbeat_s * self._rng.random(), self._beat_again)
        self._after("report", self._report_s() * self._rng.random(), self._report_again)
        self._after("status", 0, self._write_status_again)

    def close(self) -> None:
        """Cut the windows into the spool, say goodbye and end everything. On the line; being told twice is normal."""
        if self.is_closed:
            return
        self.is_closed = self.inbox.is_closed = True
        self._rehash.close()
        for name in ("beat", "report", "status", "desired"):
            self._schedule.cancel((self.me.device, name))
        self.trust.close()
        self.voice.tell_windows()
        self.link.close(self.voice.presence("going_offline"))
        self.write_status()
        self.parts.models.close()
        self.parts.assurance.close()
        self.parts.spool.close()

    def summary(self) -> dict[str, Any]:
        """Return in a few words where the device stands."""
        return {"route": self.link.route, **self.voice.summary()}

    # --- desired state ---

    def _judged(self, found: Desired | BaseException) -> None:
        self._note("desired", None if isinstance(found, Desired) else found)
        self.trust.ask()

    def _take(self, desired: Desired) -> None:
        self.voice.gen = desired.gen
        is_faster = desired.profile != self._profile or desired.canary != self._is_canary
        self._profile, self._is_canary = desired.profile, desired.canary
        if is_faster:
            self._after("beat", self._jittered(self._profile.heartbeat_s), self._beat_again)
            self._after("report", self._jittered(self._report_s()), self._report_again)
            self.link.set_poll(self._profile.poll_s)
        wanted = {model: entry for model, entry in desired.models.items() if entry.stage == "run"}
        for model in sorted({*self.updates.states, *wanted}):
            release = Release.from_desired(wanted[model]) if model in wanted else None
            asked = Asked(desired.gen, release, desired.rollout, desired.profile)
            self.updates.offer(model, ev.DesiredChanged(0, asked))
        self._beat_soon()

    def _refuse_desired(self, digest: str, error: WavegateError) -> None:
        self.link.forget_etag()
        if digest == self._refused:
            return  # told already; it will be brought again and again
        self._refused = digest
        _log.warning("a desired document is refused: %s", error)
        self._tell("refused", code=error.code, detail=error.sentence, data={"document_sha256": digest})

    def _contact(self) -> None:
        self.updates.offer_all(ev.ContactSeen(0))

    def _broker_trouble(self, error: WavegateError | None) -> None:
        self._note("broker", error)

    def _conflict(self) -> None:
        detail = "It seems that another agent uses this identity."
        self._tell("identity_conflict", code="IDENTITY_CONFLICT", detail=detail)

    # --- effects ---

    def _report(self, model: str, effect: fx.Effect) -> None:
        assert isinstance(effect, fx.Report)
        state = self.updates.states[model]
        self._tell(**reporting.phase_event(state, model, effect))
        self._beat_soon()

    def _tell_safe_mode(self, model: str, effect: fx.Effect) -> None:
        assert isinstance(effect, fx.TellSafeMode)
        code = "TRUST_REVOKED" if effect.mode else ""
        detail = f"It is revoked, and in its safe mode {effect.mode}." if effect.mode else "It may run again."
        self._tell("safe_mode", model=model, sha256=effect.sha256, code=code, detail=detail, data={"mode": effect.mode})
        self._beat_soon()

    def _set_timer(self, model: str, effect: fx.Effect) -> None:
        assert isinstance(effect, fx.SetTimer)
        self._schedule.at((self.me.device, "tick", model), effect.at_ms, lambda: self._ticked(model))

    def _ticked(self, model: str) -> None:
        if not self.is_closed:
            self.updates.offer(model, ev.Ticked(0))

    def _cancel(self, model: str, effect: fx.Effect) -> None:
        assert isinstance(effect, fx.Cancel)
        self.steps.cancel(effect.sha256)

    def _failed(self, effect: fx.Effect, error: Exception) -> ev.Event | None:
        answer = self.steps.failed(effect, error)
        self._note("update", error)
        if isinstance(error, WavegateError) and error.code == "STORE_CORRUPT":
            # Mended by itself, and told all the same: a failing disk, or somebody who has been at it.
            sha256 = getattr(answer, "sha256", "")
            self._tell("degraded", sha256=sha256, code=error.code, detail=error.sentence)
        if isinstance(answer, ev.Refused) and isinstance(effect, fx.Authorize):
            self._tell(
                "refused",
                model="/".join(effect.release.target.split("/")[:2]),
                sha256=effect.release.sha256,
                code=answer.code,
                detail=answer.detail,
            )
        return answer

    def _delta_failed(self, model: str, sha256: str, error: WavegateError) -> None:
        """Tell of a file that is fetched whole because its delta was no good; from any thread."""
        _log.info("the delta to %s is of no use: %s", sha256, error)
        fields = {"model": model, "sha256": sha256, "code": error.code, "detail": error.sentence}
        self._schedule.soon(lambda: self._tell("delta_failed", **fields))

    def _changed(self, model: str) -> None:
        if self.updates.states[model].step is Step.CONFIRMED:
            self._note("update", None)
        self.trust.state_changed(model)
        self._after("status", BEAT_SOON_S, self._write_status_again)

    def _damaged(self, model: str, release: Release, error: Exception) -> None:
        """A large slot that answers already was found damaged behind that: as if it could not be served."""
        if not self.is_closed:
            answer = self._failed(fx.Serve(release), error)
            if answer is not None:
                self.updates.offer(model, answer)

    def _spare(self, model: str) -> str:
        """Return the digest of the release kept to return to, where nothing else needs it. From any thread."""
        state = self.updates.states[model]
        others = (state.target, state.committed, state.revert_to, state.factory)
        digest = state.previous.sha256 if state.previous else ""
        return "" if digest in {release.sha256 for release in others if release} else digest

    def _retained(self) -> frozenset[str]:
        return frozenset().union(*(state.retained for state in list(self.updates.states.values())))

    # --- telling ---

    def _tell(self, kind: str, **fields: Any) -> None:
        self.voice.tell(kind, **fields)
        self.link.flush()

    def _note(self, area: str, error: BaseException | None) -> None:
        """Remember the newest trouble of an area for the status file, until the area succeeds."""
        if error is None:
            self.voice.troubles.pop(area, None)
        else:
            self.voice.troubles[area] = error.code if isinstance(error, WavegateError) else type(error).__name__

    def _beat_again(self) -> None:
        self._after("beat", self._jittered(self._profile.heartbeat_s), self._beat_again)
        for model, state in self.updates.states.items():
            running = self.parts.models.running(model)
            if running is not None and state.step.is_rest and not running.is_healthy:
                self.updates.carry_out(model, fx.Judge(running.sha256))
        self.trust.tell_level()
        self.link.heartbeat()

    def _beat_soon(self) -> None:
        self._after("beat", BEAT_SOON_S, self._beat_again)

    def _report_again(self) -> None:
        self._after("report", self._jittered(self._report_s()), self._report_again)
        self.voice.tell_windows()
        self.link.flush()

    def _write_status_again(self) -> None:
        self._after("status", STATUS_S, self._write_status_again)
        self.write_status()

    def write_status(self) -> None:
        """Write the status as it is now. On the line."""
        self.voice.write_status(
            {
                "route": self.link.route,
                "state": "stopped" if self.is_closed else "running",
                "failures": self._schedule.failures,
                "updates": {
                    model: story(state, self.updates.policy, self.steps.progress(model))
                    for model, state in self.updates.states.items()
                },
                "downloads": self.steps.traffic.counts(),
            }
        )

    # --- inner parts ---

    def _on_down(self, leaf: str, payload: bytes) -> None:
        self.link.on_down(leaf, payload)

    def _on_state(self, is_up: bool, reason: str) -> None:
        if is_up:  # perhaps over another network than the one that was metered
            self._schedule.soon(lambda: self.updates.offer_all(ev.ConditionsChanged(0)))
        self.link.on_state(is_up, reason)

    def _journalled(self, model: str) -> UpdaterState:
        data = self.parts.store.load_journal(model)
        try:
            state = decode_state(data) if data else UpdaterState(model)
        except Refused as error:
            self._tell("degraded", model=model, code=error.code, detail=error.sentence)
            return UpdaterState(model)
        return state if state.model == model else replace(state, model=model)

    def _report_s(self) -> float:
        return self._profile.canary_report_s if self._is_canary else self._profile.report_s

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.9 + 0.2 * self._rng.random())

    def _after(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        if not self.is_closed:
            self._schedule.at((self.me.device, name), self._schedule.now_ms() + round(seconds * 1000), call)
