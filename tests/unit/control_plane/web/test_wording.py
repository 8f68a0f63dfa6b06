"""How values read."""

from __future__ import annotations

import pytest

from control_plane.core.gates import Verdict
from control_plane.core.states import DeviceState, RolloutPhase, WavePhase
from control_plane.web.wording import TONES, ago, number, span, tone, until, utc, words

NOW = 1_790_000_000_000


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0 s"), (-3, "0 s"), (8.4, "8 s"), (119, "119 s"), (120, "2 min"), (7_199, "120 min"), (7_200, "2 h"),
    (172_800, "2 d"),
])  # fmt: skip
def test_a_span_is_told_in_its_largest_sensible_unit(seconds, text):
    assert span(seconds) == text


def test_ages_and_times_ahead():
    assert ago(None, NOW) == ago(0, NOW) == "never"
    assert ago(NOW - 400, NOW) == ago(NOW + 5_000, NOW) == "now", "a clock that is ahead is no age"
    assert ago(NOW - 90_000, NOW) == "90 s ago"
    assert until(NOW + 90_000, NOW) == "in 90 s"
    assert until(NOW - 1, NOW) == "now"
    assert utc(NOW) == "2026-09-21T14:13:20Z"


@pytest.mark.parametrize(("value", "text"), [
    (17, "17"), (-2.4189, "-2.419"), (0.000125, "0.000125"), (1234567.0, "1.235e+06"), ("2/17", "2/17"), (0.0, "0"),
])  # fmt: skip
def test_numbers_have_four_digits_that_mean_something(value, text):
    assert number(value) == text


def test_words_and_tones_of_stored_names():
    assert words("rolled_back_local") == "rolled back local"
    assert tone("a_word_of_next_year") == "idle"
    known = {*RolloutPhase, *WavePhase, *DeviceState, *Verdict}
    assert {name for name in known if name in TONES and TONES[name] == "bad"} == {
        "halted", "rollback_incomplete", "failed", "rolled_back_local", "unresponsive", "regressed", "fail",
        "expired",
    }  # fmt: skip
