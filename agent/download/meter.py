"""What downloading may cost: bytes a day, bytes a second, and how far a fleet's downloads start apart.

``ByteBudget`` remembers across restarts what a day has cost; ``TokenBucket`` slows down; ``Metered`` puts both before a
``Source``. Counted is content as it arrives, kept or thrown away, deltas and pages included; not TLS and TCP around it
(about 4 %), nor reports and metadata. Rules:

* what is about to be spent is written down before it is spent: a device that is switched off again and again counts
  up to one step too much, never too little;
* a clock that goes back opens no new day, and one that was far ahead does not close the budget for ever;
* over the budget nothing is asked for: the next day's first look goes on where this one stopped.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from agent.download.source import Answer, Source
from bundles.errors import TryAgain

DAY_MS = 86_400_000
STEP_BYTES = 1 << 20
"""Written down at once: one durable write for each of them."""
BURST_S = 0.25
SPREAD_BYTES_S = 4 << 20
MAX_SPREAD_S = 60.0


def start_within_s(length: int) -> float:
    """Return within how many seconds the downloads of one file start across a fleet told of it at one moment.

    As long as the file takes at 4 MiB/s, a minute at most: a small one starts at once, and a device with a slower link
    than that waits less than it then downloads.

    Args:
        length: bytes of the file.
    """
    return min(MAX_SPREAD_S, length / SPREAD_BYTES_S)


class ByteBudget:
    """Bytes a day, by the device's wall clock in UTC. From any thread.

    Args:
        limit: bytes a day.
        wall_ms: UTC epoch ms.
        kept: what ``keep`` was given last, empty if nothing (any more).
        keep: makes the count durable.
    """

    def __init__(self, limit: int, wall_ms: Callable[[], int], kept: bytes, keep: Callable[[bytes], None]) -> None:
        self._limit, self._wall_ms, self._keep = limit, wall_ms, keep
        self._step = max(1, min(STEP_BYTES, limit // 8))
        self._lock = threading.Lock()
        self._day, self._spent = _read(kept, self._today())
        self._noted = self._spent

    @property
    def left(self) -> int:
        """Bytes that may still come today."""
        with self._lock:
            self._turn()
            return max(0, self._limit - self._spent)

    def check(self) -> None:
        """Check that there is something left.

        Raises:
            TryAgain: ``CONDITION_BUDGET``.
        """
        if not self.left:
            raise TryAgain(
                f"Today's {self._limit} bytes for downloads are used up.",
                code="CONDITION_BUDGET",
                remedy="It goes on by itself when the day turns (UTC); or raise byte_budget_mib_day.",
                details={"wait_ms": DAY_MS - self._wall_ms() % DAY_MS},
            )

    def spend(self, count: int) -> None:
        """Count ``count`` bytes that arrived."""
        with self._lock:
            self._turn()
            self._spent += count
            if self._spent > self._noted:
                self._noted = self._spent + self._step
                self._keep(json.dumps({"v": 1, "day": self._day, "bytes": self._noted}).encode("ascii"))

    def _turn(self) -> None:
        today = self._today()
        if today > self._day:
            self._spent = self._noted = 0
        self._day = today  # also where the clock was set back: the count goes with it

    def _today(self) -> int:
        return self._wall_ms() // DAY_MS


def _read(kept: bytes, today: int) -> tuple[int, int]:
    try:
        found = json.loads(kept)
        return int(found["day"]), max(0, int(found["bytes"]))
    except (ValueError, KeyError, TypeError):
        return today, 0  # never written, or damaged: a day's budget is not worth a device that stands still


class TokenBucket:
    """Lets so many bytes a second pass, by waiting. From any thread.

    Args:
        rate: bytes a second.
        now_s: any clock in seconds that only rises.
        sleep: waits so many seconds.
    """

    def __init__(self, rate: float, now_s: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._rate, self._now_s, self._sleep = rate, now_s, sleep
        self._lock = threading.Lock()
        self._free_at_s = now_s()

    @property
    def piece_bytes(self) -> int:
        """What passes in ``BURST_S``, or a KiB where that is less."""
        return max(1024, int(self._rate * BURST_S))

    def take(self, count: int) -> None:
        """Return once ``count`` bytes more are within the rate."""
        with self._lock:
            now_s = self._now_s()
            # What was not used is saved for a moment only: a burst of BURST_S, then the rate.
            self._free_at_s = max(self._free_at_s, now_s - BURST_S) + count / self._rate
            wait_s = self._free_at_s - now_s
        if wait_s > 0:
            self._sleep(wait_s)


class Metered:
    """A ``Source`` that keeps to a budget and a rate.

    Args:
        source: the source.
        budget: None = none.
        bucket: None = as fast as it comes.
    """

    def __init__(self, source: Source, budget: ByteBudget | None, bucket: TokenBucket | None) -> None:
        self._source, self._budget, self._bucket = source, budget, bucket

    @contextlib.contextmanager
    def open(self, url: str, offset: int, etag: str) -> Iterator[Answer]:
        """Ask the source, unless the budget is used up; see ``Source.open``.

        Raises:
            TryAgain: ``CONDITION_BUDGET``; also from ``chunks``, after the piece that used it up.
        """
        if self._budget is not None:
            self._budget.check()
        with self._source.open(url, offset, etag) as answer:
            yield replace(answer, chunks=self._counted(answer.chunks))

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for piece in (piece for chunk in chunks for piece in self._pieces(chunk)):
            if self._budget is not None:
                self._budget.spend(len(piece))
            if self._bucket is not None:
                self._bucket.take(len(piece))
            yield piece
            if self._budget is not None:
                self._budget.check()

    def _pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Cut a chunk so that none is waited for long: between two pieces, whoever wants to stop is heard."""
        size = self._bucket.piece_bytes if self._bucket is not None else len(chunk)
        return (chunk[at : at + size] for at in range(0, len(chunk), max(size, 1)))
