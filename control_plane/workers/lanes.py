"""Whose ask for chunks is answered when: a few threads, each with some of the devices, and each device at its rate.

Leaves what an ask is answered with to whoever is handed in. Rules: one device, one lane, so its asks are answered one
after the other and in their order; what a device asks beyond a few waits is dropped, and so is what a lane cannot hold:
whoever needs it asks again; one device's haste is its own affair, for each waits for its own rate.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import zlib
from collections.abc import Callable

import structlog

from bundles.wire.chunks import CHUNK_BYTES, BlobAsk
from control_plane import metrics

LANES = 4
MAX_WAITING = 512
"""Asks a lane holds."""
MAX_WAITING_OF_DEVICE = 4
BURST_BYTES = 8 * CHUNK_BYTES
STOP_S = 10.0
_FORGET_ABOVE = 10_000
log = structlog.get_logger()


class Pace:
    """When each device's next ask is due, at so many bytes a second.

    Args:
        rate: bytes a second of one device.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at_s: dict[str, float] = {}

    def due_s(self, device: str, count: int, now_s: float) -> float:
        """Return when ``count`` bytes more may go to ``device``; a window saved up goes at once."""
        if len(self._free_at_s) > _FORGET_ABOVE:
            self._free_at_s = {name: at for name, at in self._free_at_s.items() if at > now_s}
        saved_s = now_s - BURST_BYTES / self._rate
        free = max(self._free_at_s.get(device, saved_s), saved_s) + count / self._rate
        self._free_at_s[device] = free
        return max(now_s, free)


class Lanes:
    """Every device's asks.

    Args:
        answer: answers (device, ask); returns once what it sent is on its way.
        rate: bytes a second of one device.
        now_s: any clock in seconds that only rises.
    """

    def __init__(
        self, answer: Callable[[str, BlobAsk], None], rate: float, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._lanes = [_Lane(number, answer, Pace(rate), now_s) for number in range(LANES)]

    def start(self) -> None:
        """Start the threads."""
        for lane in self._lanes:
            lane.start()

    def stop(self) -> None:
        """End the threads; what waits is dropped."""
        for lane in self._lanes:
            lane.stop()

    def put(self, device: str, ask: BlobAsk) -> bool:
        """Take an ask in; False where too much waits. The same ask once more changes nothing."""
        return self._lanes[zlib.crc32(device.encode()) % LANES].put(device, ask)


class _Lane:
    """Some of the devices' asks, each answered when it is due."""

    def __init__(
        self, number: int, answer: Callable[[str, BlobAsk], None], pace: Pace, now_s: Callable[[], float]
    ) -> None:
        self._answer, self._pace, self._now_s = answer, pace, now_s
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, str, BlobAsk]] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"chunks-{number}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what waits is dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def put(self, device: str, ask: BlobAsk) -> bool:
        """Take an ask in; False where too much waits. The same ask once more changes nothing."""
        with self._changed:
            own = [entry[3] for entry in self._waiting if entry[2] == device]
            if any((other.id, other.offset) == (ask.id, ask.offset) for other in own):
                return True
            if len(own) >= MAX_WAITING_OF_DEVICE or len(self._waiting) >= MAX_WAITING:
                return False
            due_s = self._pace.due_s(device, ask.n * CHUNK_BYTES, self._now_s())
            heapq.heappush(self._waiting, (due_s, next(self._order), device, ask))
            self._changed.notify()
            return True

    def _run(self) -> None:
        while (found := self._next()) is not None:
            try:
                self._answer(*found)
            except Exception:
                metrics.WORKER_FAILURES.labels(worker="chunks").inc()
                log.exception("chunks_failed", device=found[0])

    def _next(self) -> tuple[str, BlobAsk] | None:
        """Wait for the next ask that is due; None at the end."""
        with self._changed:
            while not self._stopping:
                wait_s = self._waiting[0][0] - self._now_s() if self._waiting else None
                if wait_s is not None and wait_s <= 0:
                    _, _, device, ask = heapq.heappop(self._waiting)
                    return device, ask
                self._changed.wait(wait_s)
        return None
