"""Which sequence numbers of a device's spool are stored: inserting them once, and the ack that says so.

(device, boot_epoch, seq) is what makes a redelivery no event: a row is *fresh* only if this transaction inserted it.
Leaves what a message means to ``reports``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from bundles.wire.messages import Ack
from control_plane.db.tables import RawMessage, SequenceMark

DROPPED_LEAF = "dropped"
"""Leaf of a tombstone: the device declared that it dropped this row after it may have been sent."""
ROWS_A_STATEMENT = 500
ACK_LIST_LIMIT = 1_000

SpoolKey = tuple[str, str]
"""(device, boot_epoch)."""


@dataclass(frozen=True)
class Row:
    """One exactly-once message, or a tombstone."""

    device: str
    boot_epoch: str
    seq: int
    leaf: str
    payload: bytes

    @property
    def key(self) -> tuple[str, str, int]:
        """What is unique for ever."""
        return self.device, self.boot_epoch, self.seq


def insert_fresh(session: Session, rows: Iterable[Row], now_ms: int) -> set[tuple[str, str, int]]:
    """Store ``rows`` that are not stored yet; return the keys of those this call inserted."""
    # A row that came in one batch with the word that it was dropped did come; the tombstone is for those that did not.
    tombstones_first = sorted(rows, key=lambda row: row.leaf != DROPPED_LEAF)
    unique = list({row.key: row for row in tombstones_first}.values())
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    fresh: set[tuple[str, str, int]] = set()
    for start in range(0, len(unique), ROWS_A_STATEMENT):
        values = [
            {
                "device": row.device,
                "boot_epoch": row.boot_epoch,
                "seq": row.seq,
                "leaf": row.leaf,
                "received_ms": now_ms,
                "payload": row.payload,
            }
            for row in unique[start : start + ROWS_A_STATEMENT]
        ]
        statement = (
            insert(RawMessage)
            .values(values)
            .on_conflict_do_nothing()
            .returning(col(RawMessage.device), col(RawMessage.boot_epoch), col(RawMessage.seq))
        )
        fresh.update((device, epoch, seq) for device, epoch, seq in session.exec(statement))
    return fresh


def advance(session: Session, spools: Iterable[SpoolKey], fresh: Sequence[tuple[str, str, int]]) -> dict[str, Ack]:
    """Move the contiguous watermarks of ``spools``; return what to acknowledge, by device.

    Only the newest spool of a device named here is acknowledged when it appears with two (a device that lost its
    spool file between two messages of one batch); the other is acknowledged with its next message.
    """
    stored: dict[SpoolKey, int] = {}
    for device, epoch, _seq in fresh:
        stored[device, epoch] = stored.get((device, epoch), 0) + 1
    acks: dict[str, Ack] = {}
    for device, epoch in sorted(set(spools)):
        mark = session.get(SequenceMark, (device, epoch), with_for_update=True)
        if mark is None:
            mark = SequenceMark(device=device, boot_epoch=epoch)
        seqs = list(
            session.exec(
                select(RawMessage.seq)
                .where(RawMessage.device == device, RawMessage.boot_epoch == epoch, RawMessage.seq > mark.upto_seq)
                .order_by(col(RawMessage.seq))
                .limit(ACK_LIST_LIMIT)
            )
        )
        upto = mark.upto_seq
        for seq in seqs:
            if seq != upto + 1:
                break
            upto = seq
        mark.upto_seq = upto
        mark.max_seq = max(mark.max_seq, *seqs, 0)
        mark.stored += stored.get((device, epoch), 0)
        session.add(mark)
        also = [seq for seq in seqs if seq > upto]
        known = set(also)
        missing = [seq for seq in range(upto + 1, also[-1]) if seq not in known][:ACK_LIST_LIMIT] if also else []
        acks[device] = Ack(boot_epoch=epoch, upto_seq=upto, missing=missing, also=also)
    return acks


def stored_rows(session: Session, device: str) -> int:
    """Return how many rows of ``device`` were ever stored, tombstones included; for checks that nothing is lost."""
    total = session.exec(select(func.sum(SequenceMark.stored)).where(SequenceMark.device == device)).one()
    return int(total or 0)
