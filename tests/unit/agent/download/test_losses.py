"""What was fetched in vain: rests that grow, across restarts and clocks, for each file its own."""

import pytest

from agent.core.reasons import ENVIRONMENT, IN_VAIN, reason_of
from agent.download.losses import FIRST_REST_MS, MAX_FILES, MAX_REST_MS, Losses
from bundles.errors import TryAgain

NOW = 1_700_000_000_000


class Record:
    def __init__(self):
        self.now_ms, self.data = NOW, b""
        self.restart()

    def restart(self):
        self.losses = Losses(lambda: self.now_ms, self.data, lambda data: setattr(self, "data", data))

    def lose(self, sha256="a", count=100):
        with pytest.raises(TryAgain) as caught:
            self.losses.add(sha256, 100, count)
        return caught.value

    def rests(self, sha256="a"):
        try:
            self.losses.check(sha256)
        except TryAgain as error:
            return error.code
        return ""


def test_a_little_that_is_lost_is_no_matter_and_a_files_length_is():
    record = Record()
    record.losses.add("a", 100, 60)
    assert record.rests() == ""
    error = record.lose(count=60)
    assert (error.code, reason_of(error.code)) == (IN_VAIN, "transport")
    assert reason_of(error.code) in ENVIRONMENT
    assert "120 bytes" in error.sentence
    assert record.rests() == IN_VAIN
    assert record.rests("b") == "", "each file its own"


def test_rests_double_up_to_a_day_and_end():
    record, rests = Record(), []
    for _ in range(10):
        record.lose()
        begun = record.now_ms
        while record.rests():
            record.now_ms += 60_000
        rests.append(record.now_ms - begun)
    assert rests[:3] == [FIRST_REST_MS, 2 * FIRST_REST_MS, 4 * FIRST_REST_MS]
    assert rests[-1] == MAX_REST_MS


def test_what_is_known_survives_a_restart_and_ends_with_the_file():
    record = Record()
    record.lose()
    record.losses.delta_failed("b")
    record.restart()
    assert (record.rests("a"), record.losses.had_delta("b"), record.losses.had_delta("a")) == (IN_VAIN, True, False)
    record.losses.came("a")
    record.losses.came("b")
    record.losses.came("never heard of")
    record.restart()
    assert (record.rests("a"), record.losses.had_delta("b")) == ("", False)


def test_a_clock_that_was_far_ahead_lets_nothing_rest_for_years():
    record = Record()
    record.now_ms = NOW + 10 * 365 * MAX_REST_MS
    record.lose()
    record.now_ms = NOW
    assert record.rests() == ""


def test_only_the_newest_files_are_remembered():
    record = Record()
    for number in range(MAX_FILES + 10):
        record.losses.delta_failed(f"f{number}")
    record.restart()
    assert not record.losses.had_delta("f9")
    assert record.losses.had_delta("f10")
    assert len(record.data) < 10_000


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"files": 5}', b'{"files": {"a": {}}}', b'{"files": {"a": [1]}}'])
def test_a_damaged_record_begins_anew(data):
    assert Losses(lambda: NOW, data).had_delta("a") is False
