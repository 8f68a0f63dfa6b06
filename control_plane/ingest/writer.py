"""One writer between the transports and the database: gathers a batch, commits it, then says so.

A full queue blocks whoever puts (the consumer stops acknowledging); nothing is dropped. A batch that fails is tried
again whole, then message by message, so that one poisonous message cannot stop the rest: it ends in the dead-letter
table with its bytes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlmodel import Session

from control_plane import metrics
from control_plane.db.engine import Database
from control_plane.db.tables import DeadLetter
from control_plane.services.reports import Inbound, Outcome

MAX_BATCH = 500
MAX_QUEUE = 5_000
GATHER_S = 0.02
RETRY_PAUSE_S = 0.5

log = structlog.get_logger()
Ingest = Callable[[Session, Sequence[Inbound], int], Outcome]


@dataclass(frozen=True)
class Delivery:
    """A message and what to do once it is stored, such as acknowledging it to the broker."""

    inbound: Inbound
    stored: Callable[[], None]


class Writer:
    """The ingest writer thread.

    Args:
        db: the database.
        ingest: takes a batch in, inside a transaction.
        now_ms: server clock.
        committed: called after each commit with what the batch did.
    """

    def __init__(
        self, db: Database, ingest: Ingest, now_ms: Callable[[], int], committed: Callable[[Outcome], None]
    ) -> None:
        self._db, self._ingest, self._now_ms, self._committed = db, ingest, now_ms, committed
        self._queue: queue.Queue[Delivery] = queue.Queue(MAX_QUEUE)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Store what is queued, then end the thread."""
        self._stopping.set()
        self._thread.join(10)

    def put(self, delivery: Delivery) -> None:
        """Queue a delivery; blocks while the queue is full, which is what slows the broker down."""
        while not self._stopping.is_set():
            try:
                self._queue.put(delivery, timeout=1.0)
            except queue.Full:
                continue
            metrics.INGEST_BACKLOG.set(self._queue.qsize())
            return

    def _run(self) -> None:
        while not (self._stopping.is_set() and self._queue.empty()):
            batch = self._gather()
            if batch:
                self._store(batch)

    def _gather(self) -> list[Delivery]:
        try:
            batch = [self._queue.get(timeout=0.25)]
        except queue.Empty:
            return []
        deadline = time.monotonic() + GATHER_S
        while len(batch) < MAX_BATCH and (left := deadline - time.monotonic()) > 0:
            try:
                batch.append(self._queue.get(timeout=left))
            except queue.Empty:
                break
        metrics.INGEST_BACKLOG.set(self._queue.qsize())
        return batch

    def _store(self, batch: list[Delivery]) -> None:
        failures = 0
        while True:
            try:
                self._commit(batch)
                return
            except OperationalError:
                # The database is busy or away: nothing is wrong with the messages, so wait for it.
                failures += 1
                metrics.INGEST_FAILURES.inc()
                log.warning("ingest_database_away", failures=failures, exc_info=failures == 1)
                if self._stopping.wait(RETRY_PAUSE_S):
                    return
            except Exception:
                metrics.INGEST_FAILURES.inc()
                log.exception("ingest_batch_failed", messages=len(batch))
                break
        if len(batch) == 1:
            self._set_aside(batch[0])
            return
        for delivery in batch:
            self._store([delivery])

    def _commit(self, batch: list[Delivery]) -> None:
        with metrics.INGEST_SECONDS.time(), self._db.write() as session:
            outcome = self._ingest(session, [delivery.inbound for delivery in batch], self._now_ms())
        metrics.MESSAGES.labels(outcome="fresh").inc(outcome.fresh)
        metrics.MESSAGES.labels(outcome="repeated").inc(outcome.repeated)
        metrics.MESSAGES.labels(outcome="unreadable").inc(outcome.unreadable)
        for delivery in batch:
            delivery.stored()
        self._committed(outcome)

    def _set_aside(self, delivery: Delivery) -> None:
        item = delivery.inbound
        try:
            with self._db.write() as session:
                session.add(
                    DeadLetter(
                        device=item.device,
                        leaf=item.leaf,
                        code="INGEST_FAILED",
                        received_ms=self._now_ms(),
                        payload=item.payload,
                    )
                )
        except DBAPIError:
            log.exception("ingest_dead_letter_failed", device=item.device)
            return  # not acknowledged: the broker or the device brings it again
        metrics.DEAD_LETTERS.labels(code="INGEST_FAILED").inc()
        delivery.stored()
