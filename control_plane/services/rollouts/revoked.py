"""Stops the rollouts of bundles that were revoked, by the paths that people stop rollouts with.

One signature on a revocation is enough to choose a bundle no more, and not enough to take it from devices that run it:
such a rollout is aborted where it stands. From two on it is halted and every exposed device asked back.
"""

from __future__ import annotations

import structlog
from sqlmodel import Session, col, select

from bundles.trust.revocation import RUNNING_THRESHOLD
from control_plane.core.rollout import AbortRequested, HaltRequested, OperatorEvent, refusal
from control_plane.core.states import RolloutPhase
from control_plane.db.tables import RevokedBundle, RolloutRow
from control_plane.errors import Conflict
from control_plane.services import audit
from control_plane.services.revocations import SYSTEM, Forbidden
from control_plane.services.rollouts.driving import DEFAULT_BUCKET_MS, drive
from control_plane.services.rollouts.effects import Run
from control_plane.services.rollouts.stored import Stored, load

_GOING = (
    RolloutPhase.PENDING_APPROVAL,
    RolloutPhase.SCHEDULED,
    RolloutPhase.RUNNING,
    RolloutPhase.PAUSED,
    RolloutPhase.HALTED,
)


def rollouts_of_revoked(session: Session) -> dict[str, Forbidden]:
    """Return the rollouts that are not over and whose bundle is revoked, oldest first."""
    rows = session.exec(
        select(RolloutRow.id, RolloutRow.phase, RevokedBundle)
        .join(RevokedBundle, col(RevokedBundle.sha256) == col(RolloutRow.bundle_sha256))
        .where(col(RolloutRow.phase).in_([phase.value for phase in _GOING]))
        .order_by(col(RolloutRow.created_ms), col(RolloutRow.id))
    ).all()
    return {
        rollout: Forbidden(row.reason, row.strength, row.at_ms)
        for rollout, phase, row in rows
        # A halted one offers nothing more; whether it goes back is for a person, or for a second signature.
        if phase != RolloutPhase.HALTED.value or row.strength >= RUNNING_THRESHOLD
    }


def stop_revoked(session: Session, now_ms: int) -> list[str]:
    """Stop every rollout whose bundle is revoked; return their ids. Doing it again changes nothing."""
    stopped = []
    for rollout, entry in rollouts_of_revoked(session).items():
        mark = audit.mark(session)
        try:
            with session.begin_nested():
                _stop(session, load(session, rollout), entry, now_ms)
            stopped.append(rollout)
        except Conflict as error:
            audit.forget_since(session, mark)
            structlog.get_logger(__name__).error("rollout_inconsistent", rollout=rollout, error=str(error))
    return stopped


def _stop(session: Session, stored: Stored, entry: Forbidden, now_ms: int) -> None:
    reason = f"The bundle was revoked: {entry.reason or 'no reason was given'}."
    event: OperatorEvent = HaltRequested(SYSTEM, reason, now_ms)
    if entry.strength < RUNNING_THRESHOLD or refusal(stored.state, event):
        event = AbortRequested(SYSTEM, reason, now_ms)
    verb = "rollback" if isinstance(event, HaltRequested) else "abort"
    body = {"reason": reason, "version": stored.row.version, "spec_sha256": stored.row.spec_sha256}
    audit.record(session, "audit", SYSTEM, f"rollout.{verb}", f"rollout:{stored.id}", body, now_ms)
    drive(Run(session, stored, now_ms, DEFAULT_BUCKET_MS), [event])
