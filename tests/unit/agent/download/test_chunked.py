"""Chunks from a broker that loses, repeats, swaps, lies and goes quiet, arranged in a line each. Nothing waits long."""

import itertools
import queue
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.download.chunked import BLOB_PATH, DELTA_PATH, MAX_WAITING, ChunkPolicy, Chunks, Tempo
from bundles.digest import sha256_hex
from bundles.errors import TryAgain
from bundles.wire.chunks import CHUNK_BYTES, MAX_CHUNKS, ChunkHead, decode_ask, encode_chunk

DATA = random.Random(3).randbytes(20 * CHUNK_BYTES + 5)


class Broker:
    """Answers asks at once, on the asker's own thread.

    Attributes:
        asks: what was asked.
        fate: says of each payload what arrives in its place.
    """

    def __init__(self, data=DATA, fate=lambda payload: [payload]):
        self.data, self.fate, self.asks, self.is_up, self.wasted = data, fate, [], True, 0
        ids = itertools.count()
        self.chunks = Chunks(
            self.publish, lambda: f"a{next(ids)}", ChunkPolicy(wait_s=0.002, max_silences=6), self.waste
        )

    def waste(self, count):
        self.wasted += count

    def publish(self, leaf, payload):
        assert leaf == "up/blob"
        ask = decode_ask(payload)
        self.asks.append(ask)
        if self.is_up:
            for one in self.answers(ask):
                for arrived in self.fate(one):
                    assert self.chunks.take(f"down/blob/{ask.id}", arrived)
        return self.is_up

    def answers(self, ask):
        for at in range(ask.offset, min(len(self.data), ask.offset + ask.n * CHUNK_BYTES) or 1, CHUNK_BYTES):
            head = ChunkHead(at, len(self.data), ask.sha256, ask.name)
            yield encode_chunk(head, self.data[at : at + CHUNK_BYTES])

    def read(self, offset=0, data=DATA):
        with self.chunks.open(BLOB_PATH + sha256_hex(data), offset, "") as answer:
            return answer.status, answer.length, b"".join(answer.chunks)


@pytest.mark.parametrize("offset", [0, 1, 70_000, len(DATA) - 1])
def test_the_rest_of_a_file_comes_in_order(offset):
    broker = Broker()
    assert broker.read(offset) == (206 if offset else 200, len(DATA) - offset, DATA[offset:])
    assert broker.wasted == 0


def test_never_more_than_a_window_is_under_way():
    broker = Broker()
    broker.read()
    assert all(ask.n <= MAX_CHUNKS for ask in broker.asks)
    assert sum(ask.n for ask in broker.asks) == 21, "and nothing is asked for twice"


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.2]), st.booleans())
def test_whatever_gets_lost_or_comes_twice_the_file_is_the_file(seed, loss, twice, shuffles):
    draw = random.Random(seed)
    late = []

    def fate(payload):
        if draw.random() < loss:
            return []
        now = [payload] * (2 if draw.random() < twice else 1)
        if shuffles and draw.random() < 0.3:
            late.extend(now)
            return []
        now += late
        late.clear()
        return now

    broker = Broker(fate=fate)
    got, offset = b"", 0
    for _ in range(60):
        try:
            got += broker.read(offset)[2]
            break
        except TryAgain:
            pass  # a whole window was lost again and again: the next request begins anew
    assert got == DATA


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("BLOB_NOT_FOUND", 404),
        ("DELTA_NOT_OFFERED", 404),
        ("DEVICE_REVOKED", 403),
        ("RANGE", 416),
        ("ANYTHING", 503),
    ],
)
def test_a_refusal_is_an_answer_as_http_would_give_it(code, status):
    broker = Broker()
    broker.answers = lambda ask: [encode_chunk(ChunkHead(ask.offset, 0, ask.sha256, code=code))]
    assert broker.read()[0] == status
    assert len(broker.asks) == 1


def test_a_server_that_asks_for_patience_is_a_busy_one():
    broker = Broker()
    broker.answers = lambda ask: [
        encode_chunk(ChunkHead(ask.offset, 0, ask.sha256, code="DELTA_BUILDING", retry_ms=1500))
    ]
    with broker.chunks.open(f"{DELTA_PATH}{'ab' * 32}/{'cd' * 32}", 0, "") as answer:
        assert (answer.status, answer.retry_after_s) == (503, 1.5)
    (ask,) = broker.asks
    assert (ask.base, ask.sha256) == ("ab" * 32, "cd" * 32)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"no line",
        b"{}\n",
        b'{"v":2,"offset":0,"length":5,"sha256":"x"}\nhello',
        b'{"v":1,"offset":-5,"length":5,"sha256":"x"}\nhello',
        encode_chunk(ChunkHead(0, len(DATA), "f" * 64), b"other file"),
        encode_chunk(ChunkHead(5, len(DATA) + 1, sha256_hex(DATA)), b"other length"),
        encode_chunk(ChunkHead(1 << 40, (1 << 40) + 5, sha256_hex(DATA)), b"afar!"),
    ],
)
def test_what_does_not_belong_is_thrown_away_and_counted(payload):
    broker = Broker()
    honest = broker.answers
    broker.answers = lambda ask: itertools.chain(itertools.islice(honest(ask), 1), [payload], honest(ask))
    assert broker.read()[2] == DATA
    assert broker.wasted >= len(payload)


def test_silence_ends():
    broker = Broker(fate=lambda _payload: [])
    with pytest.raises(TryAgain) as caught:
        broker.read()
    assert caught.value.code == "CHUNKS_SILENT"
    assert len(broker.asks) == 7, "the first, and one after each silence"


def test_a_broker_that_is_not_connected_is_told_at_once():
    broker = Broker()
    broker.is_up = False
    with pytest.raises(TryAgain) as caught:
        broker.read()
    assert caught.value.code == "BROKER_UNREACHABLE"
    assert len(broker.asks) == 1


def test_chunks_that_come_too_late_or_too_many_hold_no_memory():
    broker = Broker()
    assert broker.chunks.take("down/blob/unknown", b"x" * 100)
    assert broker.wasted == 100
    assert not broker.chunks.take("down/desired", b"{}")
    many = [b"junk"] * (MAX_WAITING + 50)
    broker.fate = lambda payload: [*many, payload] if len(broker.asks) == 1 else [payload]
    assert broker.read()[2] == DATA


def test_the_window_and_the_patience_follow_the_link():
    tempo = Tempo()
    assert (tempo.window, tempo.wait_s) == (2, 0.0)
    for _ in range(20):
        tempo.came(0.01)
    assert tempo.window == MAX_CHUNKS
    for _ in range(20):
        tempo.came(10.0)
    assert (tempo.window, round(tempo.wait_s)) == (1, 40), "a slow link is not filled, and not taken for a broken one"
    for _ in range(20):
        tempo.came(0.2)
    assert tempo.window == MAX_CHUNKS


class SlowLink(Broker):
    """A link that brings a chunk every so many seconds, in order, whatever was asked for; time is made up."""

    def __init__(self, gap_s):
        super().__init__()
        self.now_s, self.gap_s, self.line = 0.0, gap_s, []
        self.chunks = Chunks(self.publish, lambda: "a", ChunkPolicy(wait_s=5.0), self.waste, now_s=lambda: self.now_s)

    def publish(self, leaf, payload):
        ask = decode_ask(payload)
        self.asks.append(ask)
        for one in self.answers(ask):
            self.line.append((max(self.now_s, self.line[-1][0] if self.line else 0.0) + self.gap_s, one))
        return True

    def get(self, timeout):
        due = next((at for at, _ in self.line if at > self.now_s), None)
        if due is None or due > self.now_s + timeout:
            self.now_s += timeout
            raise queue.Empty
        self.now_s = due
        return next(one for at, one in self.line if at == due)


@pytest.mark.parametrize("gap_s", [0.05, 1.0, 4.0, 12.0, 30.0])
def test_on_a_slow_link_hardly_a_chunk_comes_twice(gap_s, monkeypatch):
    link = SlowLink(gap_s)
    monkeypatch.setattr(queue.Queue, "get", lambda _queue, timeout: link.get(timeout))
    assert link.read()[2] == DATA
    assert link.wasted <= 3.1 * CHUNK_BYTES
    assert max(ask.n for ask in link.asks) * gap_s <= max(2.0, 2 * gap_s), "and nothing else waits long behind it"
