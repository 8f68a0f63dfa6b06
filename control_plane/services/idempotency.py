"""A repeated request gets the first answer: unique per principal and key, bound to the request's hash, kept a day."""

from __future__ import annotations

from sqlalchemy import delete
from sqlmodel import Session, col

from control_plane.db.tables import IdempotencyKey
from control_plane.errors import Conflict

KEPT_MS = 24 * 3600 * 1000


def recall(session: Session, principal: str, key: str, request_sha256: str) -> tuple[int, bytes] | None:
    """Return the (status, body) answered before under ``key``, None where it is new.

    Raises:
        Conflict: ``IDEMPOTENCY_KEY_REUSED``: it was used for another request.
    """
    row = session.get(IdempotencyKey, (principal, key))
    if row is None:
        return None
    if row.request_sha256 != request_sha256:
        raise Conflict(
            "This Idempotency-Key was used for another request.",
            code="IDEMPOTENCY_KEY_REUSED",
            remedy="Use a fresh key for a new request.",
        )
    return row.status, row.body


def keep(
    session: Session, principal: str, key: str, request_sha256: str, *, status: int, body: bytes, now_ms: int
) -> None:
    """Keep an answer in the transaction that made it true; forget those older than a day."""
    session.exec(delete(IdempotencyKey).where(col(IdempotencyKey.created_ms) < now_ms - KEPT_MS))
    session.add(
        IdempotencyKey(
            principal=principal, key=key, request_sha256=request_sha256, status=status, body=body, created_ms=now_ms
        )
    )
