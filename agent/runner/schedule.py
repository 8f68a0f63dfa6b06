"""One line of calls out of many threads and timers, so that the rest of the runner needs no locks.

Calls handed in by ``soon``, timers of ``at`` and the endings of ``background`` work run one after the other on the
thread that is in ``run``. Work that waits (network, trials, fsync of big files) runs on a few daemon threads. One
schedule carries one device, or a whole fleet of virtual ones. Times are milliseconds of the clock handed in.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import TypeVar

_log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_SLEEP_S = 60.0


class SteadyClock:
    """UTC epoch milliseconds that do not jump while the agent runs, beside the wall clock that may.

    Deadlines are kept by ``now_ms``: a corrected wall clock must not fire every one of them. What is sent or compared
    with signed times is ``wall_ms``.
    """

    def __init__(self) -> None:
        self._origin_ms = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000

    def now_ms(self) -> int:
        """Return the wall clock at the start plus monotonic time since."""
        return self._origin_ms + time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        """Return the system's clock, right or wrong."""
        return time.time_ns() // 1_000_000


class Schedule:
    """Calls, timers and background work, in one line.

    Args:
        now_ms: a clock that only rises.
        workers: threads for background work.

    Attributes:
        now_ms: that clock.
        failures: calls and background work that raised what nobody expected; each is logged.
    """

    def __init__(self, now_ms: Callable[[], int], workers: int = 4) -> None:
        self.now_ms = now_ms
        self._wake = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._heap: list[tuple[int, int, Hashable]] = []
        self._timers: dict[Hashable, tuple[int, Callable[[], None]]] = {}
        self._order = itertools.count()
        self._jobs: deque[Callable[[], None]] = deque()
        self._has_job = threading.Condition()
        self._is_stopping = False
        self.failures = 0
        for number in range(workers):
            threading.Thread(target=self._work, name=f"agent-background-{number}", daemon=True).start()

    def soon(self, call: Callable[[], None]) -> None:
        """Run ``call`` after what is in line already. From any thread."""
        with self._wake:
            self._calls.append(call)
            self._wake.notify()

    def at(self, key: Hashable, due_ms: int, call: Callable[[], None]) -> None:
        """Run ``call`` at ``due_ms``; replaces the timer that has the same ``key``. From any thread."""
        with self._wake:
            number = next(self._order)
            self._timers[key] = (number, call)
            heapq.heappush(self._heap, (due_ms, number, key))
            self._wake.notify()

    def cancel(self, key: Hashable) -> None:
        """Forget the timer ``key``, if there is one."""
        with self._wake:
            self._timers.pop(key, None)

    def background(self, work: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        """Run ``work`` on a background thread and ``done`` with what it returned or raised, in line."""

        def job() -> None:
            result: T | BaseException
            try:
                result = work()
            except BaseException as error:  # handed to ``done``, which knows what it asked for
                result = error
            self.soon(lambda: done(result))

        with self._has_job:
            self._jobs.append(job)
            self._has_job.notify()

    def run(self) -> None:
        """Carry out calls and timers until ``stop``. What a call raises is counted and logged, and the line goes on."""
        while True:
            call = self._next()
            if call is None:
                return
            try:
                call()
            except Exception:  # the outermost loop of the agent
                self.failures += 1
                _log.exception("an agent call failed")

    def stop(self) -> None:
        """End ``run`` after the call in progress, and the background threads after theirs. From any thread."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify_all()
        with self._has_job:
            self._has_job.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._wake:
            while True:
                if self._is_stopping:
                    return None
                wait_s = MAX_SLEEP_S
                if self._heap:
                    due_ms, number, key = self._heap[0]
                    timer = self._timers.get(key)
                    if timer is None or timer[0] != number:  # replaced or cancelled since
                        heapq.heappop(self._heap)
                        continue
                    wait_s = min(wait_s, (due_ms - self.now_ms()) / 1000)
                    if wait_s <= 0:
                        heapq.heappop(self._heap)
                        del self._timers[key]
                        return timer[1]
                if self._calls:  # after timers: a flood of calls must not keep deadlines from firing
                    return self._calls.popleft()
                self._wake.wait(wait_s)

    def _work(self) -> None:
        while True:
            with self._has_job:
                while not self._jobs:
                    if self._is_stopping:
                        return
                    self._has_job.wait()
                job = self._jobs.popleft()
            job()
