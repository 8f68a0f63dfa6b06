"""Housekeeping: online trust roles re-signed in time, old raw rows and spent proofs removed."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import delete
from sqlmodel import col, select

from bundles.trust.repository import OnlineRepository
from control_plane import metrics
from control_plane.db.engine import Database
from control_plane.db.tables import IdempotencyKey, RawMessage, SequenceMark, UsedProof

IDEMPOTENCY_LIFE_MS = 24 * 3600 * 1000


class Upkeep:
    """The upkeep worker.

    Args:
        db: the database.
        metadata: the online half of the trust repository.
        raw_retention_h: hours raw rows are kept.
        now_ms: server clock.
    """

    def __init__(
        self, db: Database, metadata: OnlineRepository, raw_retention_h: float, now_ms: Callable[[], int]
    ) -> None:
        self._db, self._metadata, self._now_ms = db, metadata, now_ms
        self._retention_ms = int(raw_retention_h * 3600 * 1000)

    def round(self) -> None:
        """Do what is due."""
        now_ms = self._now_ms()
        self._metadata.resign()
        for role, expires_ms in self._metadata.expiries().items():
            metrics.METADATA_EXPIRY.labels(role=role).set(expires_ms / 1000)
        with self._db.write() as session:
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
                # A row above its spool's watermark must stay: the ack still counts on it.
                delete(RawMessage).where(
                    col(RawMessage.received_ms) < now_ms - self._retention_ms, acknowledged.exists()
                )
            )
