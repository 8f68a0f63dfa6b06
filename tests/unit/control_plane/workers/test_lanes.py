"""Whose ask is answered when: each device at its rate and in its order, and nobody at another's expense."""

import threading
import time
import zlib

import pytest

from bundles.wire.chunks import CHUNK_BYTES, BlobAsk
from control_plane.workers.lanes import BURST_BYTES, LANES, MAX_WAITING, MAX_WAITING_OF_DEVICE, Lanes, Pace

RATE = 100 * CHUNK_BYTES


def ask(offset=0, n=1, name="a"):
    return BlobAsk(name, "ab" * 32, offset, n)


def lane(device):
    return zlib.crc32(device.encode()) % LANES


class Answers:
    """Answers asks, as soon as it is let.

    Attributes:
        done: (device, offset), in order.
    """

    def __init__(self):
        self.done, self.may_go = [], threading.Event()
        self.now_s = 1000.0
        self.lanes = Lanes(self.answer, RATE, lambda: self.now_s)

    def answer(self, device, ask):
        assert self.may_go.wait(20)
        self.done.append((device, ask.offset))

    def until(self, count):
        deadline = time.monotonic() + 20
        while len(self.done) < count and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.done


@pytest.fixture
def answers():
    answers = Answers()
    yield answers
    answers.may_go.set()
    answers.lanes.stop()


def test_a_window_goes_at_once_and_what_follows_at_the_rate():
    pace = Pace(1000.0)
    assert pace.due_s("a", BURST_BYTES, 50.0) == 50.0
    assert pace.due_s("a", 500, 50.0) == 50.5
    assert pace.due_s("a", 500, 50.0) == 51.0
    assert pace.due_s("b", 500, 50.0) == 50.0, "another device's haste is its own affair"
    assert pace.due_s("a", 500, 5000.0) == 5000.0


def test_what_is_asked_by_many_devices_is_forgotten_once_it_is_past():
    pace = Pace(1e6)
    for number in range(30_000):
        pace.due_s(f"d{number}", 1000, number * 1.0)
    assert len(pace._free_at_s) <= 10_001


def test_a_devices_asks_are_answered_in_their_order(answers):
    for offset in range(MAX_WAITING_OF_DEVICE):
        assert answers.lanes.put("cam-1", ask(offset))
    answers.may_go.set()
    answers.lanes.start()
    assert answers.until(MAX_WAITING_OF_DEVICE) == [("cam-1", offset) for offset in range(MAX_WAITING_OF_DEVICE)]


def test_the_same_ask_once_more_changes_nothing(answers):
    assert all(answers.lanes.put("cam-1", ask(5)) for _ in range(50))
    answers.may_go.set()
    answers.lanes.start()
    answers.lanes.put("cam-1", ask(6))
    assert answers.until(2) == [("cam-1", 5), ("cam-1", 6)]


def test_a_device_that_asks_for_too_much_is_dropped_and_no_other(answers):
    taken = [answers.lanes.put("greedy", ask(offset, name=f"a{offset}")) for offset in range(200)]
    assert sum(taken) == MAX_WAITING_OF_DEVICE
    assert all(answers.lanes.put(f"cam-{number}", ask()) for number in range(100))


def test_a_device_beyond_its_rate_waits_while_another_in_its_lane_goes_first(answers):
    mate = next(name for name in (f"cam-{n}" for n in range(50)) if lane(name) == lane("greedy"))
    for offset in range(3):
        answers.lanes.put("greedy", ask(offset, 8))
    answers.lanes.put(mate, ask(99))
    answers.may_go.set()
    answers.lanes.start()
    assert answers.until(2)[:2] == [("greedy", 0), (mate, 99)]
    assert len(answers.done) == 2, "the rest is not due: no time has passed"


def test_what_all_devices_ask_is_bounded(answers):
    taken = sum(answers.lanes.put(f"cam-{number}", ask()) for number in range(10_000))
    assert taken == LANES * MAX_WAITING
