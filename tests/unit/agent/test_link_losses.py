"""What a device makes of connections that end: a clone of its identity, or nothing but a bad link."""

from __future__ import annotations

import random
import threading

import pytest

from agent.runner.link import CLONE_LOSSES, STABLE_MS, Hooks, Link
from agent.runner.schedule import Schedule
from agent.spool import Spool


class Broker:
    """A broker's side of a transport: it does what the test says, and nothing of its own."""

    connected = False

    def connect(self):
        """Nothing answers until the test does."""

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
