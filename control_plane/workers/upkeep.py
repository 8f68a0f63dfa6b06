"""Housekeeping: online trust roles signed again in time, what expires told, old raw rows and spent proofs removed."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import delete
from sqlmodel import Session, col, select

from bundles.trust.drafting.expiry import Deadline
from control_plane import metrics
from control_plane.db.engine import Database
from control_plane.db.tables import IdempotencyKey, RawMessage, SequenceMark, UsedProof
from control_plane.services.trust import ServedTrust
from control_plane.services.trust_view import due_soon
from control_plane.services.trust_watch import watch

IDEMPOTENCY_LIFE_MS = 24 * 3600 * 1000


class Upkeep:
    """The upkeep worker.

    Args:
        db: the database.
        trust: the trust repository being served.
        raw_retention_h: hours raw rows are kept.
        now_ms: server clock.
        deadlines: returns what else expires, by name.
    """

    def __init__(
        self,
        db: Database,
        trust: ServedTrust,
        raw_retention_h: float,
        now_ms: Callable[[], int],
        deadlines: Callable[[], dict[str, Deadline]] = dict,
    ) -> None:
        self._db, self._trust, self._now_ms, self._deadlines = db, trust, now_ms, deadlines
        self._retention_ms = int(raw_retention_h * 3600 * 1000)
        self._measured: set[str] = set()

    def round(self) -> None:
        """Do what is due. Where signing fails, people are told and the rest is done, before the failure is raised."""
        now_ms = self._now_ms()
        try:
            self._trust.repository.resign()
            self._trust.settle()
        finally:
            self._tell_expiries(now_ms)
            with self._db.write() as session:
                self._clean(session, now_ms)

    def _tell_expiries(self, now_ms: int) -> None:
        extra = self._deadlines()
        expires = self._trust.repository.expiries() | {name: one.expires_ms for name, one in extra.items()}
        for name, expires_ms in expires.items():
            metrics.METADATA_EXPIRY.labels(role=name).set(expires_ms / 1000)
        for name in self._measured - expires.keys():  # a role that is no longer delegated
            metrics.METADATA_EXPIRY.remove(name)
        self._measured = set(expires)
        with self._db.write() as session:
            watch(session, due_soon(self._trust, now_ms, extra), self._trust.repository, now_ms)

    def _clean(self, session: Session, now_ms: int) -> None:
        session.exec(delete(UsedProof).where(col(UsedProof.expires_ms) < now_ms))
        session.exec(delete(IdempotencyKey).where(col(IdempotencyKey.created_ms) < now_ms - IDEMPOTENCY_LIFE_MS))
        # A row above its spool's watermark must stay: the ack still counts on it.
        acknowledged = (
            select(SequenceMark.device)
            .where(
                col(SequenceMark.device) == col(RawMessage.device),
                col(SequenceMark.boot_epoch) == col(RawMessage.boot_epoch),
                col(SequenceMark.upto_seq) >= col(RawMessage.seq),
            )
            .correlate(RawMessage)
        )
        session.exec(
            delete(RawMessage).where(col(RawMessage.received_ms) < now_ms - self._retention_ms, acknowledged.exists())
        )
