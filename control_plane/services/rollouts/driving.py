"""Feeding events to a rollout until nothing follows, and the two that feed it by themselves: reports and time.

Level-triggered: events are made from rows in the database, in the transaction that changes them, so a crash anywhere
leaves either the whole step or none of it, and the next report or tick goes on from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec
import structlog
from sqlmodel import Session, col, select

from bundles.wire.messages import Reported
from control_plane.core.execution import decode_execution, observe_device, report_of
from control_plane.core.rollout import Event, Started, Ticked, reconcile
from control_plane.core.states import DeviceState, RolloutPhase
from control_plane.db.engine import Database
from control_plane.db.tables import DeviceExecution, RolloutRow
from control_plane.errors import Conflict
from control_plane.services import audit
from control_plane.services.rollouts.cadence import calm_down, watched_for_nothing
from control_plane.services.rollouts.devices import Moves, execution_of
from control_plane.services.rollouts.effects import Run, carry_out
from control_plane.services.rollouts.stored import Stored, load, read_spec, save
from control_plane.services.rollouts.takeover import with_state

DEFAULT_BUCKET_MS = 3_600_000
MAX_EVENTS = 10_000
"""A run that makes more events than this is going in circles; it is undone and says so."""
TICKS_A_ROUND = 64


def drive(run: Run, events: Iterable[Event]) -> bool:
    """Apply ``events`` and all that follows from them; save the state. Return whether anything changed.

    Raises:
        Conflict: ``ROLLOUT_MOVE``: rows and tallies disagree, or ``ROLLOUT_LOOP``. The caller's transaction is undone.
    """
    waiting = deque(events)
    for _ in range(MAX_EVENTS):
        if not waiting:
            return save(run.session, run.stored, run.now_ms)
        run.stored.state, effects = reconcile(run.stored.state, waiting.popleft())
        for effect in effects:
            waiting.extend(carry_out(run, effect))
    raise Conflict(
        f"The rollout {run.stored.id} does not come to rest.", code="ROLLOUT_LOOP", remedy="Abort it and report this."
    )


def observe_reported(session: Session, reported: Reported, now_ms: int) -> None:
    """Advance the rollouts of a device by its heartbeat, inside the transaction that stores it.

    A rollout whose rows and tallies disagree is left as it was and logged: it must not make the fleet's reports bounce.
    """
    rows = session.exec(
        select(DeviceExecution.rollout, DeviceExecution.execution_json, RolloutRow.spec_json)
        .join(RolloutRow, col(RolloutRow.id) == col(DeviceExecution.rollout))
        .where(DeviceExecution.device == reported.device, col(DeviceExecution.active))
        .order_by(col(DeviceExecution.rollout))
    ).all()
    for rollout, execution, spec in rows:
        if not _says_something(execution, spec, reported, now_ms):
            continue  # most heartbeats: nothing is locked for them
        mark = audit.mark(session)
        try:
            with session.begin_nested():
                _observe(session, rollout, reported, now_ms)
        except Conflict as error:
            audit.forget_since(session, mark)
            structlog.get_logger(__name__).error("rollout_inconsistent", rollout=rollout, error=str(error))


def tick(db: Database, now_ms: int, *, bucket_ms: int = DEFAULT_BUCKET_MS) -> int:
    """Let time pass for every rollout whose timer is due, each in its own transaction.

    Args:
        db: the database.
        now_ms: server clock.
        bucket_ms: length of a roll-up bucket.

    Returns:
        How many rollouts changed, and how many devices were asked to report at the everyday cadence again.
    """
    with db.read() as session:
        due = session.exec(
            select(RolloutRow.id)
            .where(col(RolloutRow.next_timer_ms) <= now_ms)
            .order_by(col(RolloutRow.next_timer_ms))
            .limit(TICKS_A_ROUND)
        ).all()
        ready = session.exec(select(RolloutRow.id).where(RolloutRow.phase == RolloutPhase.SCHEDULED.value)).all()
        is_quiet = not watched_for_nothing(session)
    changed = 0
    for rollout in dict.fromkeys([*ready, *due]):
        try:
            with db.write() as session:
                run = Run(session, load(session, rollout), now_ms, bucket_ms)
                changed += drive(run, _due_events(run.stored, now_ms))
        except Conflict as error:
            structlog.get_logger(__name__).error("rollout_inconsistent", rollout=rollout, error=str(error))
    if not is_quiet:
        with db.write() as session:
            changed += calm_down(session, now_ms)
    return changed


def device_ended(session: Session, device: str, state: str, now_ms: int) -> None:
    """Stop waiting for a roll back on a device that was retired or revoked. What it proved before stays counted."""
    rows = session.exec(
        select(DeviceExecution)
        .where(
            DeviceExecution.device == device,
            col(DeviceExecution.active),
            DeviceExecution.state == DeviceState.ROLLING_BACK.value,
        )
        .order_by(col(DeviceExecution.rollout))
    ).all()
    for row in rows:
        run, moves = Run(session, load(session, row.rollout), now_ms, DEFAULT_BUCKET_MS), Moves(now_ms)
        moved = with_state(execution_of(row), DeviceState.SUPERSEDED, f"device_{state}", now_ms)
        moves.add(row, DeviceState.ROLLING_BACK, moved)
        run.put(row, moved)
        drive(run, moves.events())


def _due_events(stored: Stored, now_ms: int) -> list[Event]:
    starts = [Started(now_ms)] if stored.state.phase is RolloutPhase.SCHEDULED else []
    return [*starts, Ticked(now_ms)]


def _says_something(execution_json: str, spec_json: str, reported: Reported, now_ms: int) -> bool:
    spec = read_spec(spec_json)
    before = decode_execution(msgspec.json.decode(execution_json))
    report = report_of(reported, spec.model, now_ms)
    return observe_device(before, report, probation_s=spec.profile.probation_s) != before


def _observe(session: Session, rollout: str, reported: Reported, now_ms: int) -> None:
    stored = load(session, rollout)
    row = session.exec(
        select(DeviceExecution)
        .where(DeviceExecution.rollout == rollout, DeviceExecution.device == reported.device)
        .execution_options(populate_existing=True)
    ).one()
    before, moves = execution_of(row), Moves(now_ms)
    report = report_of(reported, stored.model_key, now_ms)
    after = observe_device(before, report, probation_s=stored.spec.profile.probation_s)
    if after == before:
        return
    run = Run(session, stored, now_ms, DEFAULT_BUCKET_MS)
    said = reported.models.get(stored.model_key)
    if said is not None and said.variant and said.sha256 == after.target_sha256:
        row.variant = said.variant
    moves.add(row, before.state, after)
    run.put(row, after)
    drive(run, moves.events())
