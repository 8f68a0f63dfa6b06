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
"""At most so long a wait, whatever is due: the system's waits stand still while it is suspended, and the clock does
not, so a device that woke is late by no more than this."""
STALE_TIMERS = 64


def _since_boot_ns() -> int:
    """Return time that only rises, and goes on while the device is suspended.

    The control plane counts its deadlines while a device sleeps, so the device must too: by ``CLOCK_MONOTONIC``, which
    stands still then on Linux (clock_gettime(2)), eight hours of sleep would be eight hours of silence added to each
    heartbeat, poll and probation. Where there is no ``CLOCK_BOOTTIME`` the monotonic clock has to do.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns()


class SteadyClock:
    """UTC epoch milliseconds that do not jump while the agent runs, beside the wall clock that may.

    Deadlines are kept by ``now_ms``: a corrected wall clock must not fire every one of them. What is sent or compared
    with signed times is ``wall_ms``.

    Args:
        steady_ns: only rises, at the pace of time; any origin.
        wall_ns: the system's clock.
    """

    def __init__(
        self, steady_ns: Callable[[], int] = _since_boot_ns, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._steady_ns, self._wall_ns = steady_ns, wall_ns
        self._origin_ms = wall_ns() // 1_000_000 - steady_ns() // 1_000_000

    def now_ms(self) -> int:
        """Return the wall clock at the start plus steady time since."""
        return self._origin_ms + self._steady_ns() // 1_000_000

    def wall_ms(self) -> int:
        """Return the system's clock, right or wrong."""
        return self._wall_ns() // 1_000_000


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
        self._background = [
            threading.Thread(target=self._work, name=f"agent-background-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._background:
            thread.start()

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
            if len(self._heap) > 2 * len(self._timers) + STALE_TIMERS:  # replaced ones wait for their time otherwise
                self._heap = [entry for entry in self._heap if self._timers.get(entry[2], (-1,))[0] == entry[1]]
                heapq.heapify(self._heap)
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
        while (call := self._next()) is not None:
            self._carry_out(call)

    def run_due(self) -> int | None:
        """Carry out what is due now and return when the next timer is (None = none): for whoever moves the clock."""
        while True:
            with self._wake:
                call, due_ms = self._due()
            if call is None:
                return due_ms
            self._carry_out(call)

    def stop(self) -> None:
        """End ``run`` after the call in progress, and the background threads after theirs. From any thread.

        Background work that has not begun never will.
        """
        with self._wake:
            self._is_stopping = True
            self._wake.notify_all()
        with self._has_job:
            self._jobs.clear()
            self._has_job.notify_all()

    def join(self, within_s: float) -> bool:
        """Wait, once stopped, for the background work in hand; return whether it ended within ``within_s`` seconds."""
        until_s = time.monotonic() + within_s
        for thread in self._background:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._background)

    def _carry_out(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # the outermost loop of the agent
            self.failures += 1
            _log.exception("an agent call failed")

    def _next(self) -> Callable[[], None] | None:
        with self._wake:
            while not self._is_stopping:
                call, due_ms = self._due()
                if call is not None:
                    return call
                self._wake.wait(MAX_SLEEP_S if due_ms is None else min(MAX_SLEEP_S, (due_ms - self.now_ms()) / 1000))
            return None

    def _due(self) -> tuple[Callable[[], None] | None, int | None]:
        """Return what is to be done now, or when the next timer is due. With the lock held."""
        next_ms: int | None = None
        while self._heap:
            due_ms, number, key = self._heap[0]
            timer = self._timers.get(key)
            is_current = timer is not None and timer[0] == number  # not replaced or cancelled since
            if is_current and due_ms > self.now_ms():
                next_ms = due_ms
                break
            heapq.heappop(self._heap)
            if is_current and timer is not None:
                del self._timers[key]
                return timer[1], None
        if self._calls:  # after timers: a flood of calls must not keep deadlines from firing
            return self._calls.popleft(), None
        return None, next_ms

    def _work(self) -> None:
        while True:
            with self._has_job:
                while not self._jobs:
                    if self._is_stopping:
                        return
                    self._has_job.wait()
                job = self._jobs.popleft()
            job()
