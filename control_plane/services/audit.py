"""The one append-only, hash-chained log: audit rows, decisions and gate evaluations.

Records of a transaction are gathered and appended just before it commits: the chain has one writer at a time (SQLite's
write lock; an advisory lock on PostgreSQL), and holding that lock last and briefly cannot deadlock with row locks.
``hash`` = sha256 of the canonical JSON of every other field with ``previous_hash``; the first row follows 64 zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import text
from sqlmodel import Session, col, select

from bundles.digest import canonical_json, sha256_hex
from control_plane.db.engine import before_commit
from control_plane.db.tables import Decision

Kind = Literal["audit", "decision", "gate"]
GENESIS = "0" * 64
_PENDING = "wavegate_decisions"
_CHAIN_LOCK = 0x57617665  # "Wave": the advisory lock every writer of the chain takes
_PAGE = 1_000


@dataclass(frozen=True)
class ChainReport:
    """What ``verify`` found: ``first_bad`` is the id of the first row that does not follow, None if all do."""

    rows: int
    head: str
    first_bad: int | None

    @property
    def is_whole(self) -> bool:
        """Whether every row follows the one before it."""
        return self.first_bad is None


def record(
    session: Session, kind: Kind, actor: str, action: str, subject: str, body: dict[str, Any], now_ms: int
) -> None:
    """Append a row to the chain when the transaction of ``session`` commits.

    Args:
        session: of ``Database.write``.
        kind: what the row is.
        actor: principal, or ``system`` and a room such as ``system:reconciler``.
        action: a verb of the glossary, such as ``release.approve``.
        subject: ``rollout:<id>``, ``release:<sha256>``, ``device:<id>``...
        body: plain JSON values.
        now_ms: server clock.
    """
    session.info.setdefault(_PENDING, []).append(
        {
            "at_ms": now_ms,
            "kind": kind,
            "actor": actor,
            "action": action,
            "subject": subject,
            "body_json": canonical_json(body).decode(),
        }
    )
    before_commit(session, _PENDING, _append)


def mark(session: Session) -> int:
    """Return the place in this transaction's records, for ``forget_since``."""
    return len(session.info.get(_PENDING, ()))


def forget_since(session: Session, place: int) -> None:
    """Drop what was recorded since ``mark`` answered ``place``: its savepoint was rolled back."""
    del session.info.get(_PENDING, [])[place:]


def verify(session: Session) -> ChainReport:
    """Walk the whole chain and recompute every hash."""
    previous, rows, after = GENESIS, 0, 0
    while page := session.exec(
        select(Decision).where(col(Decision.id) > after).order_by(col(Decision.id)).limit(_PAGE)
    ).all():
        for row in page:
            assert row.id is not None
            fields = row.model_dump(exclude={"id", "hash", "previous_hash"})
            if row.previous_hash != previous or row.hash != _hash(previous, fields):
                return ChainReport(rows=rows, head=previous, first_bad=row.id)
            previous, rows, after = row.hash, rows + 1, row.id
        session.expunge_all()
    return ChainReport(rows=rows, head=previous, first_bad=None)


def _append(session: Session) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHAIN_LOCK})
    previous = session.exec(select(Decision.hash).order_by(col(Decision.id).desc()).limit(1)).first() or GENESIS
    for fields in session.info.pop(_PENDING, []):
        row = Decision(**fields, previous_hash=previous, hash=_hash(previous, fields))
        session.add(row)
        session.flush()
        previous = row.hash


def _hash(previous: str, fields: dict[str, Any]) -> str:
    return sha256_hex(canonical_json({**fields, "previous_hash": previous}))
