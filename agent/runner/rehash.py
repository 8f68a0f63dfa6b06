"""Hashes large slots again behind the answers of their models, one at a time and at a fraction of the disk's speed.

Trust design, step 17: what is too large to be hashed before it answers at a start is hashed behind that. A device's
card is slow and its models share it with the application, so the work rests three times as long as it reads. Leaves
hashing to the store and what follows from damage to whoever asked.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

REST_RATIO = 3.0
"""Rest per second of reading and hashing: a quarter of the disk and of a core at most goes to this."""
MAX_REST_S = 5.0
"""After one piece: a card that stalls must not put the end off for ever."""

Background = Callable[[Callable[[], None], Callable[[BaseException | None], None]], None]
"""(work, done): ``work`` off the line, then ``done`` on it with None or what was raised; ``Schedule.background``."""
Check = Callable[[Callable[[], None]], None]
"""Hashes something, calling what it is given after each piece; raises where it is damaged."""


class _GivenUp(Exception):
    """The device is closing."""


@dataclass(frozen=True)
class _Job:
    check: Check
    damaged: Callable[[Exception], None]


class Rehash:
    """The queue of one device. At most one hash is under way, on one of the schedule's threads.

    Args:
        background: runs work off the line.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """

    def __init__(self, background: Background, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._background, self._clock, self._sleep = background, clock, sleep
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._is_busy = self._is_closed = False

    def ask(self, check: Check, damaged: Callable[[Exception], None]) -> None:
        """Hash something when its turn comes. From any thread; returns at once.

        Args:
            check: hashes it.
            damaged: told, on the line, what ``check`` raised.
        """
        with self._lock:
            self._waiting.append(_Job(check, damaged))
        self._next()

    def close(self) -> None:
        """Give up what is under way at its next piece, and what waits."""
        with self._lock:
            self._is_closed = True
            self._waiting.clear()

    def _next(self) -> None:
        with self._lock:
            if self._is_busy or not self._waiting:
                return
            self._is_busy = True
            job = self._waiting.popleft()

        def done(found: BaseException | None) -> None:
            with self._lock:
                self._is_busy = False
            if isinstance(found, Exception) and not isinstance(found, _GivenUp):
                job.damaged(found)
            self._next()

        self._background(lambda: job.check(self._pace()), done)

    def _pace(self) -> Callable[[], None]:
        begun = self._clock()

        def rest() -> None:
            nonlocal begun
            if self._is_closed:
                raise _GivenUp
            self._sleep(min(MAX_REST_S, REST_RATIO * (self._clock() - begun)))
            begun = self._clock()

        return rest
