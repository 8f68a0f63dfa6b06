"""What the device says of itself: heartbeat, presence, events and the status file, from plain values. Pure.

Leaves when to say it to ``device`` and how it travels to ``link``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agent.core import effects as fx
from agent.core.state import UpdaterState
from agent.room import Room
from agent.runner.edges import Running
from bundles.trust.device.summary import Level
from bundles.trust.revocation import Standing
from bundles.wire.messages import ModelReported, Presence, Reported


@dataclass(frozen=True)
class Self:
    """What does not change while the agent runs.

    Attributes:
        device: id.
        boot_epoch: of the spool.
        session: number of this start.
        started_ms: steady clock at the start.
        hardware: hardware class.
        runtimes: usable runtimes, in order of preference.
        labels: traits.
        agent_version: of this distribution.
        tier: ``real`` or ``virtual``.
    """

    device: str
    boot_epoch: str
    session: int
    started_ms: int
    hardware: str
    runtimes: tuple[str, ...]
    labels: Mapping[str, str]
    agent_version: str
    tier: Literal["real", "virtual"] = "real"


@dataclass(frozen=True)
class Backlog:
    """Rows of the spool: waiting for an application ack, and dropped for lack of room, ever."""

    pending: int
    dropped: int


def model_reported(
    state: UpdaterState, running: Running | None, floor: int, standing: Standing = "clear"
) -> ModelReported:
    """Say where one model stands.

    What answers is taken from the engine, not from the plan: a success is claimed only for what really answers.
    """
    previous = state.before_committed if state.step.is_rest else state.committed
    if previous is not None and running is not None and previous.sha256 == running.sha256:
        previous = state.before_committed
    counter = next(
        (r.counter for r in (state.target, *state.ways_back) if r and running and r.sha256 == running.sha256),
        0,
    )
    return ModelReported(
        sha256=running.sha256 if running else "",
        version=running.version if running else "",
        counter=counter,
        variant=running.variant if running else "",
        runtime=running.runtime if running else "",
        accelerator=running.accelerator if running else "",
        previous_sha256=previous.sha256 if previous else "",
        phase=state.phase,
        target_sha256=state.target.sha256 if state.target else "",
        reason=state.reason,
        detail=state.detail,
        attempt=state.attempts,
        since_ms=state.since_ms,
        floor=floor,
        healthy=running.is_healthy if running else True,
        safe_mode=state.safe_mode,
        revoked="" if standing == "clear" else standing,
    )


def reported(
    me: Self,
    *,
    beat: int,
    wall_ms: int,
    now_ms: int,
    models: Mapping[str, ModelReported],
    gen: int,
    backlog: Backlog,
    trust_age_s: int,
    trust_level: Level,
    room: Room,
) -> Reported:
    """Return the heartbeat."""
    return Reported(
        device=me.device,
        boot_epoch=me.boot_epoch,
        session=me.session,
        beat=beat,
        at_ms=wall_ms,
        uptime_ms=now_ms - me.started_ms,
        gen=gen,
        models=dict(models),
        hardware=me.hardware,
        runtimes=list(me.runtimes),
        labels=dict(me.labels),
        agent_version=me.agent_version,
        spool_pending=backlog.pending,
        spool_dropped=backlog.dropped,
        tier=me.tier,
        trust_age_s=trust_age_s,
        trust_level=trust_level,
        disk_free_bytes=room.disk_free_bytes,
        disk_reserve_bytes=room.disk_reserve_bytes,
        memory_available_bytes=room.memory_available_bytes,
    )


def presence(
    me: Self, state: Literal["online", "going_offline", "lost"], wall_ms: int, running: Mapping[str, Running | None]
) -> Presence:
    """Return birth, farewell or will."""
    digests = {model: r.sha256 for model, r in running.items() if r}
    return Presence(me.device, me.session, wall_ms, state, sha256=digests)


def phase_event(state: UpdaterState, model: str, report: fx.Report) -> dict[str, Any]:
    """Return the fields of the ``phase`` event of a report; the spool adds identity and time."""
    data = {
        "phase": report.phase,
        "reason": report.reason,
        "rollout": state.rollout,
        "attempt": state.attempts,
        "variant": state.target.variant if state.target else "",
    }
    return {
        "kind": "phase",
        "model": model,
        "sha256": report.sha256,
        "gen": state.gen,
        "code": report.code,
        "detail": report.detail,
        "data": {name: value for name, value in data.items() if value},
    }
