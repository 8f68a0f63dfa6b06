"""When a maintenance window is open, and when it opens next."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.windows import HOUR_MS, MINUTE_MS, WindowRefused, next_opening_ms, parse_window


def ms(text, zone=UTC):
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1000)


def in_zone(name):
    zone = ZoneInfo(name)
    return lambda utc_ms: round(datetime.fromtimestamp(utc_ms / 1000, zone).utcoffset().total_seconds() * 1000)


def utc(_):
    return 0


NIGHTLY = parse_window("0 2 * * *", 4, utc)


@pytest.mark.parametrize(
    ("now", "is_open", "opens"),
    [
        ("2026-11-24T01:59:59", False, "2026-11-24T02:00"),
        ("2026-11-24T02:00:00", True, "2026-11-25T02:00"),
        ("2026-11-24T05:59:59", True, "2026-11-25T02:00"),
        ("2026-11-24T06:00:00", False, "2026-11-25T02:00"),
    ],
)
def test_a_window_opens_and_closes_to_the_second(now, is_open, opens):
    assert NIGHTLY.is_open(ms(now)) is is_open
    assert NIGHTLY.next_opening_ms(ms(now)) == ms(opens)
    assert next_opening_ms([NIGHTLY], ms(now)) == (ms(now) if is_open else ms(opens))


def test_a_window_goes_on_past_midnight():
    late = parse_window("30 22 * * fri", 60, utc)
    assert late.is_open(ms("2026-11-27T22:30"))  # a Friday
    assert late.is_open(ms("2026-11-30T10:29"))
    assert not late.is_open(ms("2026-11-30T10:30"))


@pytest.mark.parametrize(
    ("cron", "opens"),
    [
        ("*/20 * * * *", "2026-11-24T12:20"),
        ("5 4-6,23 * * *", "2026-11-24T23:05"),
        ("0 0 1 * *", "2026-12-01T00:00"),
        ("0 0 * jan mon", "2027-01-04T00:00"),
        ("0 0 * * 7", "2026-11-29T00:00"),
        ("0 0 * * sat,sun", "2026-11-28T00:00"),
        ("0 0 30 * thu", "2026-11-26T00:00"),  # the 30th or a Thursday
        ("0 0 29 2 *", "2028-02-29T00:00"),
        ("10/25 * * * *", "2026-11-24T12:10"),
    ],
)
def test_the_five_fields(cron, opens):
    assert parse_window(cron, 1, utc).next_opening_ms(ms("2026-11-24T12:00")) == ms(opens)


def test_a_day_that_never_comes_never_opens():
    never = parse_window("0 0 30 2 *", 1, utc)
    assert (never.is_open(0), never.next_opening_ms(ms("2026-11-24T12:00"))) == (False, None)
    assert next_opening_ms([never], ms("2026-11-24T12:00")) is None
    assert next_opening_ms([never, NIGHTLY], ms("2026-11-24T12:00")) == ms("2026-11-25T02:00")


def test_local_time_follows_summer_and_winter():
    berlin = parse_window("0 2 * * *", 1, in_zone("Europe/Berlin"))
    assert berlin.next_opening_ms(ms("2026-07-01T12:00")) == ms("2026-07-02T00:00")
    assert berlin.next_opening_ms(ms("2026-12-01T12:00")) == ms("2026-12-02T01:00")


def test_an_hour_that_is_skipped_opens_that_much_later_and_one_that_comes_twice_opens_once():
    window = parse_window("30 2 * * *", 1, in_zone("Europe/Berlin"))
    assert window.next_opening_ms(ms("2026-03-28T12:00")) == ms("2026-03-29T01:30")  # 02:30 is not; it is 03:30 there
    autumn = window.next_opening_ms(ms("2026-10-24T12:00"))
    assert autumn == ms("2026-10-25T00:30")  # the first 02:30
    assert window.next_opening_ms(autumn) == ms("2026-10-26T01:30")


@pytest.mark.parametrize(
    ("cron", "hours"),
    [
        ("0 2 * *", 4), ("60 2 * * *", 4), ("0 24 * * *", 4), ("0 2 0 * *", 4), ("0 2 * 13 *", 4), ("0 2 * * 8", 4),
        ("x 2 * * *", 4), ("*/0 2 * * *", 4), ("5-1 2 * * *", 4), ("", 4), ("0 2 * * *", 0), ("0 2 * * *", 169),
        ("0 2 * * *", float("nan")), ("1- 2 * * *", 4),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_when_it_is_read(cron, hours):
    with pytest.raises(WindowRefused) as caught:
        parse_window(cron, hours, utc)
    assert caught.value.code == "WINDOW_INVALID"


@given(
    st.integers(ms("2026-01-01"), ms("2028-01-01")),
    st.sampled_from(["0 2 * * *", "*/7 3-5 * * mon-fri", "0 0 1,15 * *", "59 23 * dec *", "0 */6 * * 0"]),
    st.sampled_from([0.5, 4, 30]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Kiritimati"]),
)
def test_a_window_is_open_from_its_next_opening_and_at_no_moment_before(now, cron, hours, zone):
    window = parse_window(cron, hours, in_zone(zone))
    opens = window.next_opening_ms(now)
    assert opens > now
    assert window.is_open(opens)
    assert window.is_open(opens + round(hours * HOUR_MS) - 1)
    assert datetime.fromtimestamp(opens / 1000, ZoneInfo(zone)).second == 0
    if not window.is_open(now):
        for step in range(1, 50):
            assert not window.is_open(now + (opens - now - 1) * step // 50)


@given(st.integers(0, 2**41), st.sampled_from([1, 24, 168]))
def test_a_window_that_opens_every_minute_is_always_open(now, hours):
    window = parse_window("* * * * *", hours, utc)
    assert window.is_open(now)
    assert window.next_opening_ms(now) - now <= MINUTE_MS
