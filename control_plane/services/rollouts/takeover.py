"""Whether a rollout may have its devices, and taking them from rollouts that are over.

A device follows one open rollout of a model at a time. What a finished rollout still waited for (a straggler of its
tail, a roll back not yet seen) is superseded by the newer one; its outcomes stay as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlmodel import Session, col, select

from control_plane.core.execution import Execution
from control_plane.core.rollout import reconcile
from control_plane.core.states import DeviceState, RolloutPhase, is_legal
from control_plane.db.tables import Device, DeviceExecution, RolloutRow
from control_plane.services.rollouts.devices import Moves, execution_of, put
from control_plane.services.rollouts.stored import Stored, load, save

OPEN_PHASES = tuple(phase.value for phase in RolloutPhase if not phase.is_terminal)
ENROLLED = "enrolled"


def take_over(session: Session, stored: Stored, devices: Sequence[str], now_ms: int) -> dict[str, str]:
    """Free ``devices`` from rollouts that are over; return device -> reason for those that cannot be had."""
    hindered = {
        device: f"device_{state}"
        for device, state in session.exec(select(Device.id, Device.state).where(col(Device.id).in_(devices)))
        if state != ENROLLED
    }
    others = session.exec(
        select(DeviceExecution, RolloutRow.phase)
        .join(RolloutRow, col(RolloutRow.id) == col(DeviceExecution.rollout))
        .where(
            col(DeviceExecution.device).in_(devices),
            col(DeviceExecution.active),
            col(DeviceExecution.rollout) != stored.id,
            RolloutRow.team == stored.row.team,
            RolloutRow.model == stored.row.model,
        )
        .order_by(col(DeviceExecution.rollout), col(DeviceExecution.device))
    ).all()
    over: dict[str, list[DeviceExecution]] = {}
    for row, phase in others:
        if phase not in OPEN_PHASES:
            over.setdefault(row.rollout, []).append(row)
        elif row.state != DeviceState.QUEUED.value:
            hindered[row.device] = f"busy:{row.rollout}"
    for rollout, rows in over.items():
        supersede(session, load(session, rollout), rows, f"superseded:{stored.id}", now_ms)
    return hindered


def supersede(session: Session, ended: Stored, rows: Sequence[DeviceExecution], reason: str, now_ms: int) -> None:
    """End what an ended rollout still waits for on ``rows``. It decides nothing any more, so no effects follow."""
    moves = Moves(now_ms)
    for row in rows:
        execution = execution_of(row)
        if is_legal(execution.state, DeviceState.SUPERSEDED):
            moved = with_state(execution, DeviceState.SUPERSEDED, reason, now_ms)
            moves.add(row, execution.state, moved)
            put(row, moved, None, now_ms)
        row.active = False
        session.add(row)
    for event in moves.events():
        ended.state, effects = reconcile(ended.state, event)
        assert not effects, effects
    save(session, ended, now_ms)


def with_state(execution: Execution, state: DeviceState, reason: str, now_ms: int) -> Execution:
    """Return ``execution`` moved by the control plane itself, not by anything the device said."""
    return replace(execution, state=state, reason=reason, stage_at_ms=now_ms)
