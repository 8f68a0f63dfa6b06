"""What downloads may cost: bytes a day across restarts and clocks, bytes a second, a start spread over a fleet."""

import json
import random
from contextlib import contextmanager

import pytest

from agent.conditions import Conditions, Limits
from agent.core.reasons import ENVIRONMENT, reason_of
from agent.delta import Base, DeltaTry
from agent.download import Answer, fetch_blob
from agent.download.meter import DAY_MS, STEP_BYTES, ByteBudget, Metered, TokenBucket, start_within_s
from agent.runner.blobs import Price, ServerBlobs
from agent.store import LocalFileSystem, Store
from bundles.digest import sha256_hex
from bundles.errors import TryAgain

MIB = 1 << 20
NOON = 20_000 * DAY_MS + DAY_MS // 2
DATA = random.Random(5).randbytes(3 * MIB)


class Kept:
    """A budget whose device restarts and whose clock is set."""

    def __init__(self, limit):
        self.limit, self.now_ms, self.data, self.writes = limit, NOON, b"", 0
        self.restart()

    def restart(self):
        self.budget = ByteBudget(self.limit, lambda: self.now_ms, self.data, self.keep)

    def keep(self, data):
        self.data, self.writes = data, self.writes + 1


class Server:
    def __init__(self, data=DATA):
        self.data, self.asked = data, []

    @contextmanager
    def open(self, url, offset, etag):
        self.asked.append((url, offset))
        body = self.data[offset:]
        pieces = (body[at : at + 65536] for at in range(0, len(body), 65536))
        yield Answer(206 if offset else 200, pieces, len(body), offset)


@pytest.fixture
def store(tmp_path):
    store = Store(LocalFileSystem(tmp_path), reserve_bytes=0)
    store.open()
    return store


def fetch(source, store):
    part = store.blob(sha256_hex(DATA), len(DATA))
    try:
        fetch_blob(source, "u", part, sleep=lambda _s: None, draw=lambda: 0.5)
    except TryAgain as error:
        return error
    return None


def test_over_the_budget_a_download_stops_keeps_what_came_and_goes_on_the_next_day(store):
    kept, server = Kept(MIB), Server()
    source = Metered(server, kept.budget, None)
    error = fetch(source, store)
    assert (error.code, reason_of(error.code)) == ("CONDITION_BUDGET", "budget")
    assert reason_of(error.code) in ENVIRONMENT, "put off, and no attempt"
    assert error.details["wait_ms"] == DAY_MS // 2
    assert store.held_bytes(sha256_hex(DATA)) == MIB
    assert fetch(source, store).code == "CONDITION_BUDGET"
    assert len(server.asked) == 1, "nothing is asked for"
    for _ in range(2):
        kept.now_ms += DAY_MS
        error = fetch(source, store)
    assert error is None or error.code == "CONDITION_BUDGET"
    assert store.held_bytes(sha256_hex(DATA)) == len(DATA)
    assert [offset for _, offset in server.asked] == [0, MIB, 2 * MIB]


def test_a_budget_used_up_by_a_delta_does_not_turn_to_the_whole_file(store):
    base = random.Random(6).randbytes(MIB)
    part = store.blob(sha256_hex(base), len(base))
    part.append(base)
    part.commit()
    kept, server = Kept(MIB), Server()
    kept.budget.spend(MIB)
    told = []
    wish = DeltaTry(Base(sha256_hex(base), lambda: store.open_blob(sha256_hex(base))), told.append)
    blobs = ServerBlobs(server, random.Random(1), Price(kept.budget), sleep=lambda _s: None)
    with pytest.raises(TryAgain) as caught:
        blobs(store, sha256_hex(DATA), len(DATA), lambda: False, wish)
    assert (caught.value.code, server.asked, told) == ("CONDITION_BUDGET", [], [])


def test_a_device_says_itself_that_its_budget_is_used_up_before_it_asks_anybody(tmp_path):
    kept = Kept(MIB)
    limits = Limits(metered="no")
    conditions = Conditions(limits, tmp_path / "update.lock", lambda: kept.now_ms, budget=kept.budget.check)
    conditions.check("download", 1000)
    kept.budget.spend(MIB)
    with pytest.raises(TryAgain) as caught:
        conditions.check("download", 1000)
    assert caught.value.code == "CONDITION_BUDGET"
    assert [found["code"] for found in conditions.now()] == ["CONDITION_BUDGET"]
    conditions.check("activate", 0)


def test_what_a_day_has_cost_survives_restarts_and_is_never_counted_too_low():
    kept = Kept(10 * MIB)
    for _ in range(20):
        kept.budget.spend(100_000)
        before = kept.budget.left
        kept.restart()
        assert before - STEP_BYTES - 1 <= kept.budget.left <= before
    assert kept.budget.left <= 10 * MIB - 20 * 100_000


def test_it_is_written_once_a_step():
    kept = Kept(100 * MIB)
    for _ in range(160):
        kept.budget.spend(65_536)
    assert kept.writes <= 10


def test_a_clock_that_goes_back_opens_no_day_and_one_far_ahead_closes_none():
    kept = Kept(MIB)
    kept.budget.spend(MIB)
    for now_ms in (NOON - 3 * DAY_MS, 5_000, NOON):
        if now_ms < kept.now_ms:
            kept.now_ms = now_ms
            kept.restart()
            assert kept.budget.left == 0, "back"
    kept.now_ms = NOON + 30 * 365 * DAY_MS
    assert kept.budget.left == MIB
    kept.budget.spend(MIB)
    kept.now_ms = NOON
    assert kept.budget.left == 0
    kept.now_ms = NOON + DAY_MS
    assert kept.budget.left == MIB, "not in thirty years"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"day": "x"}', json.dumps({"day": 1}).encode()])
def test_a_damaged_count_begins_anew(data):
    assert ByteBudget(MIB, lambda: NOON, data, lambda _d: None).left == MIB


def test_bytes_arrive_at_the_rate_and_no_faster(store):
    now_s, waits = [50.0], []

    def sleep(seconds):
        waits.append(seconds)
        now_s[0] += seconds

    bucket = TokenBucket(256 * 1024, lambda: now_s[0], sleep)
    assert fetch(Metered(Server(), None, bucket), store) is None
    assert now_s[0] - 50.0 == pytest.approx(len(DATA) / (256 * 1024), abs=0.3)
    assert max(waits) < 0.3, "whoever stops the agent does not wait for one of them"


def test_a_pause_saves_up_a_moment_and_no_more():
    now_s, slept = [0.0], []
    bucket = TokenBucket(1000, lambda: now_s[0], slept.append)
    now_s[0] = 3600.0
    bucket.take(250)
    assert slept == []
    bucket.take(1000)
    assert slept == [pytest.approx(1.0)]


def test_the_start_is_spread_by_size_and_bounded():
    assert start_within_s(100_000) < 0.03
    assert start_within_s(20 << 20) == 5.0
    assert start_within_s(1 << 40) == 60.0


def test_a_fleet_told_at_one_moment_does_not_start_at_one_moment(tmp_path):
    waits = []
    for seed in range(40):
        slept = []
        folder = tmp_path / str(seed)
        folder.mkdir()
        store = Store(LocalFileSystem(folder), reserve_bytes=0)
        store.open()
        blobs = ServerBlobs(Server(), random.Random(seed), Price(within_s=lambda _n: 20.0), sleep=slept.append)
        blobs(store, sha256_hex(DATA), len(DATA), lambda: False)
        waits.append(sum(slept))
    assert min(waits) < 3 < 17 < max(waits) < 21
    assert 7 < sum(waits) / len(waits) < 13


def test_what_has_begun_or_is_cancelled_does_not_wait(store):
    slept = []
    part = store.blob(sha256_hex(DATA), len(DATA))
    part.append(DATA[:1000])
    blobs = ServerBlobs(Server(), random.Random(1), Price(within_s=lambda _n: 20.0), sleep=slept.append)
    blobs(store, sha256_hex(DATA), len(DATA), lambda: False)
    assert slept == []
    other = sha256_hex(b"other")
    with pytest.raises(TryAgain) as caught:
        blobs(store, other, 5, lambda: True)
    assert (caught.value.code, slept) == ("DOWNLOAD_CANCELLED", [])
