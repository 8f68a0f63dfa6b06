"""One batch of what devices say, by kind: answers to commands, and everything else to ``reports``. One transaction.

An answer that cannot be read is set aside like any other message, and acknowledged all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session

from bundles.errors import MessageRefused
from bundles.wire.commands import split_leaf
from control_plane.db.tables import DeadLetter
from control_plane.services import answers, reports, rollouts
from control_plane.services.reports import Inbound, Outcome


def take_in(session: Session, batch: Sequence[Inbound], *, bucket_ms: int, now_ms: int) -> Outcome:
    """Take in ``batch`` inside the transaction of ``session``; see ``reports.ingest``."""
    answered = [item for item in batch if split_leaf(item.leaf) is not None]
    outcome = reports.ingest(
        session,
        [item for item in batch if split_leaf(item.leaf) is None],
        bucket_ms=bucket_ms,
        observe_reported=rollouts.observe_reported,
        now_ms=now_ms,
    )
    for item in sorted(answered, key=lambda item: item.leaf):  # rows are locked in one order everywhere
        try:
            answers.take_in(session, item.device, item.leaf, item.payload, now_ms)
            outcome.touched.add(item.device)
        except MessageRefused as error:
            outcome.unreadable += 1
            row = DeadLetter(device=item.device, leaf=item.leaf, code=error.code, received_ms=now_ms, payload=b"")
            session.add(row)
    return outcome
