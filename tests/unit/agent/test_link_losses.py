"""What a device makes of connections that end: a clone, or a bad link; and of a broker that is gone for a week."""

from __future__ import annotations

import gc
import random
import threading
import tracemalloc
from collections import deque

import pytest

from agent.runner.link import CLONE_LOSSES, STABLE_MS, Hooks, Link
from agent.runner.schedule import Schedule
from agent.spool import Spool
from bundles.errors import TryAgain


class Broker:
    """A broker's side of a transport: it does what the test says, and nothing of its own."""

    connected, tries = False, 0

    def connect(self, way="mqtt"):
        """Nothing answers until the test does, or the port is closed."""
        self.tries += 1
        if self.is_gone:
            raise TryAgain("Nothing listens there.", code="PORT_CLOSED", remedy="Wait.")

    is_gone = False

    def publish(self, leaf, payload, qos=1):
        return True

    def close(self, farewell=None):
        self.connected = False


class Bench:
    """A link on a line of its own, under a clock that stands until it is moved."""

    def __init__(self, folder):
        self.now_ms, self.conflicts, self.broker = 1_000_000, 0, Broker()
        self.schedule = Schedule(lambda: self.now_ms, workers=1)
        self.spool = Spool(folder / "spool.db", "cam-1")
        hooks = Hooks(lambda _: None, lambda: None, self._conflict, lambda: b"{}")
        self.link = Link(
            self.schedule, "cam-1", None, self.broker, self.spool, hooks, random.Random(1), lambda: self.now_ms, 60.0
        )
        self.thread = threading.Thread(target=self.schedule.run)
        self.thread.start()

    def _conflict(self):
        self.conflicts += 1

    def connection(self, lasting_ms, reason="Unspecified error"):
        """One that the broker accepts, and that ends after a while."""
        self.link.on_state(True, "")
        self.settle()
        self.now_ms += lasting_ms
        self.lost(reason)

    def lost(self, reason="Unspecified error"):
        self.link.on_state(False, reason)
        self.settle()

    def settle(self):
        done = threading.Event()
        self.schedule.soon(done.set)
        assert done.wait(20)

    def close(self):
        self.schedule.stop()
        self.thread.join()
        self.spool.close()


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()


def test_connections_that_keep_ending_at_once_look_like_a_clone_and_are_told_once(bench):
    for _ in range(CLONE_LOSSES - 1):
        bench.connection(STABLE_MS - 1)
    assert bench.conflicts == 0
    bench.connection(STABLE_MS - 1)
    assert bench.conflicts == 1
    for _ in range(10):
        bench.connection(5)
    assert bench.conflicts == 1, "told once for each row of them"


def test_one_stable_connection_between_shows_that_it_was_the_link(bench):
    for _ in range(5):
        for _ in range(CLONE_LOSSES - 1):
            bench.connection(100)
        bench.connection(STABLE_MS)
    assert bench.conflicts == 0
    for _ in range(CLONE_LOSSES):
        bench.connection(100)
    assert bench.conflicts == 1, "and the next row counts anew"


def test_a_broker_that_accepts_nobody_is_no_clone(bench):
    for _ in range(CLONE_LOSSES * 3):
        bench.lost()
    assert bench.conflicts == 0


def test_a_broker_that_says_why_is_believed_at_once(bench):
    bench.connection(STABLE_MS * 10, "taken_over")
    assert bench.conflicts == 1


WEEK_MS = 7 * 86_400_000


def test_a_week_without_a_broker_and_without_a_server_costs_bounded_memory_and_disk(tmp_path):
    """Reports at 1/min in the test's own clock, both doors closed; memory, disk and tries are counted."""

    class Closed:
        def __getattr__(self, _name):
            def ask(*_):
                asked.append(None)
                raise TryAgain("Nobody is there.", code="SERVER_UNREACHABLE", remedy="Wait.")

            return ask

    now, asked = [1_000_000], deque(maxlen=100_000)
    broker = Broker()
    broker.is_gone = True
    schedule = Schedule(lambda: now[0], workers=0)
    schedule.background = lambda work, done: done(outcome(work))
    limit = 512 * 1024
    spool = Spool(tmp_path / "spool.db", "cam-1", max_bytes=limit)
    hooks = Hooks(lambda _: None, lambda: None, lambda: None, lambda: b"{}")
    link = Link(schedule, "cam-1", Closed(), broker, spool, hooks, random.Random(1), lambda: now[0], 900.0)
    link.start()
    memory, timers, told = [], 0, 0
    tracemalloc.start()
    try:
        while now[0] < WEEK_MS:
            due = schedule.run_due()
            if now[0] // 60_000 > told:
                told = now[0] // 60_000
                spool.add_event("note", at_ms=now[0], detail="x" * 200)
                link.flush()
                if told % 1440 == 0:
                    gc.collect()
                    memory.append(tracemalloc.get_traced_memory()[0])
            timers = max(timers, len(schedule._timers))
            now[0] = min(due, now[0] + 60_000) if due else now[0] + 60_000
    finally:
        tracemalloc.stop()
    assert memory[-1] < memory[1] + 64 * 1024, f"bytes held after each day: {memory}"
    assert timers <= 5
    # Polls and reports: each waits up to five minutes, half of that on average.
    assert len(asked) < 3 * 2 * WEEK_MS / 1000 / 150, "the server is never asked in a hot loop"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    status = spool.status()
    assert status.dropped, "older reports had to go, and were counted"
    assert broker.tries > WEEK_MS / 1000 / 120, "it is asked at least as often as the longest pause says"
    assert broker.tries < 3 * WEEK_MS / 1000 / 60, "and never in a hot loop"
    spool.close()


def outcome(work):
    try:
        return work()
    except TryAgain as error:
        return error
