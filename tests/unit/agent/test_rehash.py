"""Hashing behind the answers: one at a time, mostly at rest, given up when the device closes."""

from collections import deque

import pytest

from agent.runner.rehash import MAX_REST_S, REST_RATIO, Rehash
from bundles.errors import TryAgain


class Bench:
    """Background work that is done when told, and a clock that moves by reading and by resting."""

    def __init__(self):
        self.jobs, self.now, self.rested = deque(), 0.0, []
        self.rehash = Rehash(lambda work, done: self.jobs.append((work, done)), lambda: self.now, self.sleep)

    def sleep(self, seconds):
        self.rested.append(seconds)
        self.now += seconds

    def run(self):
        work, done = self.jobs.popleft()
        try:
            done(work())
        except BaseException as error:
            done(error)

    def reading(self, *pieces_s, then=None):
        def check(pause):
            for seconds in pieces_s:
                self.now += seconds
                pause()
            if then:
                raise then

        return check


@pytest.fixture
def bench():
    return Bench()


def nothing_wrong(error):
    raise AssertionError(error)


def test_it_rests_three_times_as_long_as_it_reads(bench):
    bench.rehash.ask(bench.reading(0.1, 0.2, 0.3), nothing_wrong)
    bench.run()
    assert bench.rested == pytest.approx([REST_RATIO * seconds for seconds in (0.1, 0.2, 0.3)])
    assert bench.now == pytest.approx(0.6 * (1 + REST_RATIO))


def test_a_card_that_stalls_does_not_put_the_end_off_for_ever(bench):
    bench.rehash.ask(bench.reading(600.0), nothing_wrong)
    bench.run()
    assert bench.rested == [MAX_REST_S]


def test_one_is_hashed_at_a_time(bench):
    for _ in range(3):
        bench.rehash.ask(bench.reading(0.1), nothing_wrong)
    for _ in range(3):
        assert len(bench.jobs) == 1
        bench.run()
    assert not bench.jobs


def test_damage_is_told_and_the_next_goes_on(bench):
    told, damage = [], TryAgain("bad", code="STORE_CORRUPT")
    bench.rehash.ask(bench.reading(0.1, then=damage), told.append)
    bench.rehash.ask(bench.reading(0.1), nothing_wrong)
    bench.run()
    assert told == [damage]
    bench.run()
    assert not bench.jobs


def test_a_closing_device_gives_it_up_and_tells_nobody(bench):
    bench.rehash.ask(bench.reading(0.1, 0.1), nothing_wrong)
    bench.rehash.ask(bench.reading(0.1), nothing_wrong)
    bench.rehash.close()
    bench.run()
    assert bench.rested == []
    assert not bench.jobs
