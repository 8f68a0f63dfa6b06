"""Tells devices what they should be, and acknowledges what they sent. Level-triggered: the database is the truth.

Whatever got lost on the way (a broker killed with its retained messages, a server restarted between commit and
publish) leaves ``published_gen`` behind ``gen``, and the next round tells it again; ``gen`` makes duplicates harmless.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from bundles.wire import topics
from bundles.wire.codec import encode
from bundles.wire.messages import Ack
from control_plane import metrics
from control_plane.broker.connection import Teller
from control_plane.db.engine import Database
from control_plane.services import desired

BATCH = 200
CONFIRM_TIMEOUT_S = 5.0
log = structlog.get_logger()


class DesiredPublisher:
    """Publishes every desired document that is behind.

    Args:
        db: the database.
        teller: connection to the broker.
        sign: the director's signature.
        now_ms: server clock.
    """

    def __init__(self, db: Database, teller: Teller, sign: desired.Sign, now_ms: Callable[[], int]) -> None:
        self._db, self._teller, self._sign, self._now_ms = db, teller, sign, now_ms

    def round(self) -> None:
        """Tell what is behind until nothing is, or the broker does not answer."""
        while self._teller.is_connected:
            with self._db.read() as session:
                waiting = desired.unpublished(session, BATCH)
            if not waiting or not self._tell(waiting):
                return

    def refresh_aging(self) -> None:
        """Sign documents again that are past half of their life."""
        now_ms = self._now_ms()
        with self._db.read() as session:
            waiting = desired.aging(session, now_ms, BATCH)
        for device in waiting:
            with self._db.write() as session:
                desired.document_for(session, device, self._sign, now_ms)

    def _tell(self, devices: list[str]) -> bool:
        now_ms = self._now_ms()
        with self._db.write() as session:
            documents = [(device, *desired.document_for(session, device, self._sign, now_ms)) for device in devices]
        sent = []
        for device, document, etag in documents:
            info = self._teller.publish(device, topics.DOWN_DESIRED, document, retain=True)
            if info is None:
                break
            sent.append((device, int(etag.partition(".")[0]), info))
        told = []
        for device, gen, info in sent:
            try:
                info.wait_for_publish(CONFIRM_TIMEOUT_S)
            except (RuntimeError, ValueError):
                continue
            if info.is_published():
                told.append((device, gen))
        with self._db.write() as session:
            for device, gen in told:
                desired.mark_published(session, device, gen, now_ms)
        metrics.DESIRED_PUBLISHED.inc(len(told))
        return len(told) == len(documents)


class AckPublisher:
    """Sends application acks, the newest of each device, at most once a period."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._lock = threading.Lock()
        self._waiting: dict[str, Ack] = {}

    def add(self, acks: dict[str, Ack]) -> None:
        """Queue acks of a committed transaction; a newer one replaces an older one of the same device."""
        with self._lock:
            self._waiting.update(acks)

    def round(self) -> None:
        """Send what waits. An ack that gets lost is no harm: the device sends its rows again and is told anew."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for device, ack in waiting.items():
            self._teller.publish(device, topics.DOWN_ACK, encode(ack), retain=False)
