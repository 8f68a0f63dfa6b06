"""The one line of calls: order, timers, background work, failures."""

import threading

import pytest

from agent.runner.schedule import Schedule, SteadyClock


@pytest.fixture
def schedule():
    schedule = Schedule(SteadyClock().now_ms, workers=2)
    thread = threading.Thread(target=schedule.run)
    thread.start()
    yield schedule
    schedule.stop()
    thread.join()


def after_all(schedule):
    done = threading.Event()
    schedule.soon(done.set)
    assert done.wait(10)


def test_calls_run_in_order_on_one_thread(schedule):
    seen = []
    for number in range(100):
        schedule.soon(lambda number=number: seen.append((number, threading.current_thread())))
    after_all(schedule)
    assert [number for number, _ in seen] == list(range(100))
    assert len({thread for _, thread in seen}) == 1


def test_timers_run_by_their_time_and_a_key_replaces_its_timer(schedule):
    seen, done = [], threading.Event()
    now = schedule.now_ms()
    schedule.at("b", now + 40, lambda: seen.append("b"))
    schedule.at("a", now + 20, lambda: seen.append("a"))
    schedule.at("c", now + 10, lambda: seen.append("never"))
    schedule.at("c", now + 60, done.set)
    schedule.at("d", now + 30, lambda: seen.append("never"))
    schedule.cancel("d")
    assert done.wait(10)
    assert seen == ["a", "b"]


def test_background_work_ends_in_line_with_its_result_or_error(schedule):
    found, done = [], threading.Event()

    def fail():
        raise OSError("disk")

    def take(result):
        found.append((str(result), threading.current_thread().name.startswith("agent-background")))
        if len(found) == 2:
            done.set()

    schedule.background(lambda: "value", take)
    schedule.background(fail, take)
    assert done.wait(10)
    assert sorted(found) == [("disk", False), ("value", False)]


def test_slow_work_holds_up_no_call(schedule):
    release = threading.Event()
    schedule.background(release.wait, lambda _: None)
    after_all(schedule)
    release.set()


def test_stopped_it_can_be_waited_for_and_begins_nothing_more():
    schedule, begun, release, late = Schedule(SteadyClock().now_ms, workers=1), threading.Event(), threading.Event(), []
    schedule.background(lambda: (begun.set(), release.wait()), lambda _: None)
    schedule.background(lambda: late.append("begun"), lambda _: None)
    assert begun.wait(10)
    schedule.stop()
    assert not schedule.join(0.01)
    release.set()
    assert schedule.join(10)
    assert late == []


def test_a_call_that_raises_is_counted_and_the_line_goes_on(schedule, caplog):
    schedule.soon(lambda: 1 / 0)
    after_all(schedule)
    assert schedule.failures == 1
    assert "ZeroDivisionError" in caplog.text


def test_a_flood_of_calls_does_not_keep_timers_from_firing(schedule):
    fired = threading.Event()

    def flood():
        if not fired.is_set():
            schedule.soon(flood)

    schedule.at("timer", schedule.now_ms() + 20, fired.set)
    schedule.soon(flood)
    assert fired.wait(10)


class Watch:
    """A device's two clocks, set by hand, in nanoseconds."""

    def __init__(self):
        self.steady = 5 * 10**9
        self.wall = 10 * 10**9  # 1970, as a device without a battery starts

    def pass_s(self, seconds):
        self.steady += seconds * 10**9
        self.wall += seconds * 10**9


@pytest.mark.parametrize("jump_s", [56 * 365 * 86_400, 10 * 365 * 86_400, -3_600])
def test_a_wall_clock_that_jumps_fires_no_deadline_early_or_late(jump_s):
    watch = Watch()
    clock = SteadyClock(lambda: watch.steady, lambda: watch.wall)
    schedule, fired = Schedule(clock.now_ms, workers=0), []
    for number in range(100):
        schedule.at(number, clock.now_ms() + 60_000, lambda number=number: fired.append(number))
    watch.pass_s(59)
    watch.wall += jump_s * 10**9
    assert schedule.run_due() == clock.now_ms() + 1_000
    assert (fired, clock.wall_ms()) == ([], watch.wall // 10**6)
    watch.pass_s(1)
    assert schedule.run_due() is None
    assert fired == list(range(100))


def test_after_eight_hours_of_sleep_each_timer_fires_once():
    watch = Watch()
    clock = SteadyClock(lambda: watch.steady, lambda: watch.wall)
    schedule, beats = Schedule(clock.now_ms, workers=0), []

    def beat():
        beats.append(clock.now_ms())
        schedule.at("beat", clock.now_ms() + 60_000, beat)

    schedule.at("beat", clock.now_ms() + 60_000, beat)
    watch.pass_s(8 * 3_600)
    assert schedule.run_due() == clock.now_ms() + 60_000
    assert beats == [clock.now_ms()]


def test_timers_replaced_over_and_over_leave_nothing_behind():
    schedule = Schedule(lambda: 0, workers=0)
    for number in range(10_000):
        schedule.at("poll", 10**9 + number, lambda: None)
    assert len(schedule._heap) < 100
    assert schedule.run_due() == 10**9 + 9_999
