"""A blob fetched as a delta: used where it is right, and the whole file wherever anything is wrong."""

import io
import random
from contextlib import contextmanager

import pytest

from agent.core.retry import Backoff
from agent.delta import Base, DeltaTry, Tools, fetch_either_way
from agent.download import Answer, DownloadPolicy
from agent.store import LocalFileSystem, Store
from bundles.delta.make import make_delta
from bundles.digest import sha256_hex
from bundles.errors import TryAgain

OLD = random.Random(5).randbytes(100_000)
NEW = OLD[:60_000] + b"a new head" * 900 + OLD[69_000:]
POLICY = DownloadPolicy(max_tries=3, backoff=Backoff(1, 8, 0.1), write_bytes=10_000)


def delta(old=OLD, new=NEW):
    sink = io.BytesIO()
    assert make_delta(old, new, sink, max_bytes=1 << 30)
    return sink.getvalue()


class Server:
    """Serves ``whole``, and ``delta`` as (status, body), one answer or a list of them.

    ``breaks``: bytes after which the delta's next connections break; ``lies``: the length said of the delta's body.
    """

    def __init__(self, whole=NEW, delta=(404, b"")):
        self.whole, self.delta, self.breaks, self.lies, self.retry_after_s = whole, delta, [], None, None
        self.requests = []
        self.waits = []

    @contextmanager
    def open(self, url, offset, etag):
        self.requests.append((url, offset))
        if url == "whole":
            yield Answer(206 if offset else 200, iter([self.whole[offset:]]), len(self.whole) - offset, offset)
            return
        assert url == f"delta/{sha256_hex(OLD)}/{sha256_hex(NEW)}"
        status, body = self.delta.pop(0) if isinstance(self.delta, list) else self.delta
        if status == 0:
            raise TryAgain("Nobody answers.", code="SERVER_UNREACHABLE")
        rest = body[offset:]
        limit = self.breaks.pop(0) if self.breaks else None
        length = len(rest) if self.lies is None else self.lies
        patience = self.retry_after_s if status == 503 else None
        yield Answer(206 if offset and status == 200 else status, self.pieces(rest, limit), length, offset, patience)

    def pieces(self, body, limit):
        for at in range(0, len(body), 97):
            if limit is not None and at >= limit:
                raise TryAgain("The connection was reset.", code="SERVER_UNREACHABLE")
            yield body[at : at + 97]

    def asked_for(self, url):
        return [offset for asked, offset in self.requests if asked.startswith(url)]


@pytest.fixture
def store(tmp_path):
    store = Store(LocalFileSystem(tmp_path))
    store.open()
    return store


@pytest.fixture
def fetch(store):
    """Fetch NEW with OLD at hand; returns (how it came, codes of the failure that was told)."""

    def run(server, base=OLD, **options):
        told = []
        opener = (lambda: io.BytesIO(base)) if base is not None else (lambda: store.open_blob("0" * 64))
        wish = DeltaTry(Base(sha256_hex(OLD), opener), told.append)
        tools = Tools(server.waits.append, lambda: 0.5, policy=POLICY, **options)
        part = store.blob(sha256_hex(NEW), len(NEW))
        brought = fetch_either_way(server, "whole", lambda old, new: f"delta/{old}/{new}", part, wish, tools)
        assert store.read_blob(sha256_hex(NEW), len(NEW)) == NEW
        return brought, [error.code for error in told]

    return run


def test_a_delta_makes_the_blob_and_its_bytes_are_counted(fetch):
    server = Server(delta=(200, delta()))
    brought, told = fetch(server)
    assert (brought.by_delta, brought.bytes_received, told) == (True, len(delta()), [])
    assert len(delta()) < len(NEW) / 10
    assert not server.asked_for("whole")


@pytest.mark.parametrize(("retry_after_s", "by_delta"), [(1.0, True), (None, False)], ids=["asked for", "not"])
def test_a_delta_that_takes_long_to_make_is_waited_for_in_proportion_to_the_file(
    fetch, monkeypatch, retry_after_s, by_delta
):
    monkeypatch.setattr("agent.delta.BYTES_A_TRY", len(NEW) / 5)
    server = Server(delta=[*[(503, b"")] * 6, (200, delta())])
    server.retry_after_s = retry_after_s
    assert fetch(server)[0].by_delta is by_delta


def test_waiting_for_a_delta_has_an_end(fetch, monkeypatch):
    monkeypatch.setattr("agent.delta.BYTES_A_TRY", len(NEW) / 5)
    server = Server(delta=(503, b""))
    server.retry_after_s = 1.0
    brought, told = fetch(server)
    assert (brought.by_delta, told) == (False, ["DELTA_INTERRUPTED"])
    assert len(server.asked_for("delta")) == POLICY.max_tries + 5


def test_a_server_without_deltas_is_no_failure(fetch):
    brought, told = fetch(Server())
    assert (brought.by_delta, brought.bytes_received, told) == (False, len(NEW), [])


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param((200, delta(NEW, NEW)), "DELTA_BASE", id="for another base"),
        pytest.param((200, delta(OLD, OLD)), "DELTA_RESULT", id="to another file"),
        pytest.param((200, flip(delta(), -40)), "DELTA_FORM", id="damaged"),
        pytest.param((200, delta()[:-1]), "DELTA_FORM", id="cut short"),
        pytest.param((200, delta() + b"x"), "DELTA_FORM", id="too long"),
        pytest.param((200, b"<html>Sign in</html>"), "DELTA_FORM", id="captive portal"),
        pytest.param((200, bytes(90_000)), "DELTA_FORM", id="announced larger than any offer"),
        pytest.param((200, b""), "DELTA_FORM", id="empty"),
        pytest.param((403, b""), "DELTA_STATUS", id="forbidden"),
        pytest.param((206, delta()), "DELTA_STATUS", id="a part nobody asked for"),
        pytest.param((302, b""), "DELTA_STATUS", id="redirect"),
        pytest.param((503, b""), "DELTA_INTERRUPTED", id="busy for too long"),
        pytest.param((0, b""), "DELTA_INTERRUPTED", id="nobody answers"),
    ],
)
def test_any_failure_is_told_and_the_whole_file_is_fetched(fetch, answer, code):
    server = Server(delta=answer)
    brought, told = fetch(server)
    assert told == [code]
    assert not brought.by_delta
    assert brought.bytes_received >= len(NEW)
    assert server.asked_for("whole") == [0], "nothing of what the delta made is built upon"


def test_an_endless_delta_is_cut_off(fetch):
    server = Server(delta=(200, bytes(1 << 22)))
    server.lies = 10
    brought, told = fetch(server)
    assert told == ["DELTA_FORM"]
    assert brought.bytes_received < len(NEW) + 61_000


@pytest.mark.parametrize("base", [OLD[:-1], b"", None])
def test_a_base_that_is_damaged_or_gone_is_no_reason_to_fail(fetch, base):
    _, told = fetch(Server(delta=(200, delta())), base=base)
    assert told == ["DELTA_BASE"]


def test_a_broken_connection_is_taken_up_where_it_broke(fetch):
    server = Server(delta=(200, delta()))
    server.breaks = [300, 97, 0]
    brought, told = fetch(server)
    assert (brought.by_delta, told) == (True, [])
    assert brought.bytes_received == len(delta()), "no byte came twice"
    assert server.asked_for("delta") == [0, 388, 485, 485]


def test_a_delta_that_trickles_is_not_waited_for_though_each_try_gets_further(fetch):
    class Trickle(Server):
        def pieces(self, body, limit):
            yield body[:5]
            raise TryAgain("The server sends too slowly.", code="ANSWER_SLOW")

    server = Trickle(delta=(200, delta()))
    _, told = fetch(server)
    assert (told, server.asked_for("delta")) == (["DELTA_INTERRUPTED"], [0])
    assert server.asked_for("whole") == [0]


def test_a_delta_that_is_being_made_is_asked_for_again(fetch):
    server = Server(delta=[(503, b""), (503, b""), (200, delta())])
    brought, told = fetch(server)
    assert (brought.by_delta, told, len(server.waits)) == (True, [], 2)


def test_what_has_begun_to_arrive_whole_goes_on_whole(fetch, store):
    store.blob(sha256_hex(NEW), len(NEW)).append(NEW[:5000])
    server = Server(delta=(200, delta()))
    brought, _ = fetch(server)
    assert server.requests == [("whole", 5000)]
    assert brought.bytes_received == len(NEW) - 5000


def test_a_cancelled_delta_ends_the_download_and_leaves_nothing(fetch, store):
    polls = iter([False] * 3)
    with pytest.raises(TryAgain) as caught:
        fetch(Server(delta=(200, delta())), is_cancelled=lambda: next(polls, True))
    assert caught.value.code == "DOWNLOAD_CANCELLED"
    assert store.held_bytes(sha256_hex(NEW)) == 0


def test_a_full_disk_is_not_blamed_on_the_delta(fetch, store, monkeypatch):
    def full(path, data):
        raise TryAgain("No room.", code="DISK_FULL")

    monkeypatch.setattr(store._fs, "append", full)
    server = Server(delta=(200, delta()))
    with pytest.raises(TryAgain) as caught:
        fetch(server)
    assert caught.value.code == "DISK_FULL"
    assert not server.asked_for("whole")
