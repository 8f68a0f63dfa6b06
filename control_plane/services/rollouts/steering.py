"""What people do to a rollout: approve, reject, pause, resume, promote, roll back, abort.

Each says which version it means (compare-and-set); what does not fit where the rollout stands is refused with the
reason. Going forward needs an approver who is not the creator; stopping and rolling back never need a second person.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlmodel import Session

from control_plane.core.rollout import (
    AbortRequested,
    Approved,
    HaltRequested,
    OperatorEvent,
    Overridden,
    PauseRequested,
    Rejected,
    Resumed,
    Started,
    refusal,
)
from control_plane.core.states import RolloutPhase
from control_plane.db.queries.rollouts import RolloutView, view_of
from control_plane.errors import Conflict, NotAllowed, PreconditionFailed
from control_plane.services import audit
from control_plane.services.revocations import check_clear
from control_plane.services.rollouts.driving import DEFAULT_BUCKET_MS, drive
from control_plane.services.rollouts.effects import Run
from control_plane.services.rollouts.stored import Stored, load

_FORWARD = ("approve", "resume", "promote")
"""Verbs after which devices are asked to take the bundle; a revoked one is refused."""


def approve(session: Session, rollout: str, *, actor: str, expected: int | None, now_ms: int) -> RolloutView:
    """Approve the spec as it is; the last approval needed starts the rollout.

    Raises:
        NotAllowed: ``FOUR_EYES`` where the creator approves.
        NotFound: as every verb: ``ROLLOUT_UNKNOWN``.
        PreconditionFailed: as every verb: ``VERSION_CHANGED``.
        Conflict: as every verb: ``ROLLOUT_PHASE``, it does not fit where the rollout stands; as every verb that goes
            forward: ``TRUST_REVOKED``.
    """

    def event(stored: Stored) -> OperatorEvent:
        if actor == stored.row.creator:
            raise NotAllowed(
                f"{actor!r} created this rollout and may not approve it.",
                code="FOUR_EYES",
                remedy="Ask another person with the role approver.",
            )
        return Approved(actor, stored.row.spec_sha256, now_ms)

    return _steer(session, rollout, "approve", event, actor, "", expected, now_ms)


def reject(
    session: Session, rollout: str, *, actor: str, reason: str, expected: int | None, now_ms: int
) -> RolloutView:
    """Refuse to approve, for good. Raises as ``approve``."""
    event = Rejected(actor, reason, now_ms)
    return _steer(session, rollout, "reject", lambda _: event, actor, reason, expected, now_ms)


def pause(session: Session, rollout: str, *, actor: str, reason: str, expected: int | None, now_ms: int) -> RolloutView:
    """Let it wait; offers nobody took yet are recalled. Raises as ``approve``."""
    event = PauseRequested(actor, reason, now_ms)
    return _steer(session, rollout, "pause", lambda _: event, actor, reason, expected, now_ms)


def resume(
    session: Session, rollout: str, *, actor: str, reason: str, expected: int | None, now_ms: int
) -> RolloutView:
    """Let a paused rollout go on with the wave it stands in. Raises as ``approve``."""
    event = Resumed(actor, now_ms)
    return _steer(session, rollout, "resume", lambda _: event, actor, reason, expected, now_ms)


def promote(
    session: Session, rollout: str, *, actor: str, reason: str, expected: int | None, now_ms: int
) -> RolloutView:
    """Promote a wave that the gates could not decide. Raises as ``approve``."""
    event = Overridden(actor, reason, now_ms)
    return _steer(session, rollout, "promote", lambda _: event, actor, reason, expected, now_ms)


def rollback(
    session: Session, rollout: str, *, actor: str, reason: str, expected: int | None, now_ms: int
) -> RolloutView:
    """Halt it and ask every exposed device back. Raises as ``approve``."""
    event = HaltRequested(actor, reason, now_ms)
    return _steer(session, rollout, "rollback", lambda _: event, actor, reason, expected, now_ms)


def abort(session: Session, rollout: str, *, actor: str, reason: str, expected: int | None, now_ms: int) -> RolloutView:
    """Stop it where it stands: nobody new, nobody back. Raises as ``approve``."""
    event = AbortRequested(actor, reason, now_ms)
    return _steer(session, rollout, "abort", lambda _: event, actor, reason, expected, now_ms)


def _steer(
    session: Session,
    rollout: str,
    verb: str,
    event_for: Callable[[Stored], OperatorEvent],
    actor: str,
    reason: str,
    expected: int | None,
    now_ms: int,
) -> RolloutView:
    stored = load(session, rollout)
    if expected is not None and stored.row.version != expected:
        raise PreconditionFailed(
            f"The rollout is at version {stored.row.version}, not {expected}: somebody or something moved it.",
            code="VERSION_CHANGED",
            remedy="Look at it again, then repeat the command if it still fits.",
            details={"version": stored.row.version},
        )
    event = event_for(stored)
    if why_not := refusal(stored.state, event):
        raise Conflict(
            why_not, code="ROLLOUT_PHASE", remedy="See `wavegate rollout explain`.", details={"phase": stored.row.phase}
        )
    if verb in _FORWARD:
        check_clear(session, stored.spec.bundle_sha256)
    body = {"reason": reason, "version": stored.row.version, "spec_sha256": stored.row.spec_sha256}
    audit.record(session, "audit", actor, f"rollout.{verb}", f"rollout:{rollout}", body, now_ms)
    run = Run(session, stored, now_ms, DEFAULT_BUCKET_MS)
    drive(run, [event])
    if stored.state.phase is RolloutPhase.SCHEDULED:
        drive(run, [Started(now_ms, actor)])
    return view_of(stored.row)
