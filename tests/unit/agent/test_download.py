"""Downloads that break, lie, resume and end, over a server whose misbehaviour is one line to arrange."""

from contextlib import contextmanager

import pytest

from agent.core.retry import Backoff
from agent.download import Answer, DownloadPolicy, fetch_blob
from agent.store import LocalFileSystem, Store
from bundles.digest import sha256_hex
from bundles.errors import TryAgain

DATA = bytes(range(256)) * 40
POLICY = DownloadPolicy(max_tries=3, backoff=Backoff(1, 8, 0.1), write_bytes=1000)


class Server:
    """Answers ranges of ``data``.

    Attributes:
        breaks: bytes after which each next connection breaks; None = does not.
        answers: fixed (status, body) for the next requests.
    """

    def __init__(self, data=DATA):
        self.data, self.breaks, self.answers, self.requests = data, [], [], []
        self.ignores_ranges = False
        self.says_length = True
        self.retry_after_s = None

    @contextmanager
    def open(self, url, offset, etag):
        self.requests.append(offset)
        if self.answers:
            status, body = self.answers.pop(0)
            if status == 0:
                raise TryAgain("Nobody answers.", code="NETWORK")
            length = len(body) if self.says_length else None
            yield Answer(status, iter([body]), length, retry_after_s=self.retry_after_s)
            return
        start = 0 if self.ignores_ranges else offset
        body = self.data[start:]
        limit = self.breaks.pop(0) if self.breaks else None
        yield Answer(206 if start else 200, self.pieces(body, limit), len(body) if self.says_length else None, start)

    def pieces(self, body, limit):
        for i in range(0, len(body), 333):
            if limit is not None and i >= limit:
                raise TryAgain("The connection was reset.", code="NETWORK")
            yield body[i : i + 333]


@pytest.fixture
def part(tmp_path):
    store = Store(LocalFileSystem(tmp_path))
    store.open()
    return store.blob(sha256_hex(DATA), len(DATA))


def fetch(server, part, waits=None, **options):
    return fetch_blob(
        server, "u", part, sleep=(waits if waits is not None else []).append, draw=lambda: 0.5, policy=POLICY, **options
    )


def refused(server, part, **options):
    with pytest.raises(TryAgain) as caught:
        fetch(server, part, **options)
    return caught.value.code


def test_a_whole_blob_arrives_in_one_try(part):
    assert fetch(Server(), part).bytes_received == len(DATA)
    assert part.is_complete()


def test_what_is_here_is_not_fetched(part):
    fetch(Server(), part)
    server = Server()
    assert fetch(server, part).tries == 0
    assert server.requests == []


def test_a_broken_connection_goes_on_where_it_was_and_no_byte_is_fetched_twice(part):
    server = Server()
    server.breaks = [3330, 333, 999]
    fetched = fetch(server, part)
    assert server.requests == [0, 3330, 3663, 4662]
    assert fetched.bytes_received == len(DATA)


def test_a_restart_goes_on_too(part, tmp_path):
    server = Server()
    server.breaks = [5000]
    server.answers = []
    polls = iter([False, *[False] * 12, True])
    assert refused(server, part, is_cancelled=lambda: next(polls, True)) == "DOWNLOAD_CANCELLED"
    held = part.size()
    assert 0 < held < len(DATA)
    again = Store(LocalFileSystem(tmp_path)).blob(part.sha256, part.length)
    second = Server()
    assert fetch(second, again).bytes_received == len(DATA) - held
    assert second.requests == [held]


def test_a_server_that_ignores_ranges_starts_anew(part):
    part.append(DATA[:100])
    server = Server()
    server.ignores_ranges = True
    assert fetch(server, part).bytes_received == len(DATA)


def test_a_part_that_was_damaged_is_thrown_away_once_and_the_next_call_succeeds(part):
    part.append(b"x" + DATA[1:100])
    assert refused(Server(), part) == "DOWNLOAD_DIGEST"
    assert part.size() == 0
    fetch(Server(), part)
    assert part.is_complete()


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize("page", [b"<html>Please sign in</html>", b"<html>" + b"x" * 20_000])
def test_a_captive_portals_page_is_no_blob(part, page, says_length):
    server = Server()
    server.answers, server.says_length = [(200, page)] * 9, says_length
    assert refused(server, part) == "DOWNLOAD_LENGTH"
    assert (part.size(), len(server.requests)) == (0, 1)
    assert not part.is_complete()


def test_a_page_of_the_right_length_fails_by_its_digest(part):
    server = Server(b"y" * len(DATA))
    assert refused(server, part) == "DOWNLOAD_DIGEST"
    assert (part.size(), part.is_complete()) == (0, False)


def test_an_endless_answer_is_cut_at_the_promised_length(part):
    server = Server(DATA + b"more" * 100_000)
    server.says_length = False
    assert refused(server, part) == "DOWNLOAD_LENGTH"
    assert part.size() == 0


@pytest.mark.parametrize(
    ("status", "code", "tries"),
    [
        (404, "DOWNLOAD_NOT_FOUND", 1),
        (403, "DOWNLOAD_DENIED", 1),
        (302, "DOWNLOAD_DENIED", 1),
        (503, "DOWNLOAD_STATUS", 3),
        (0, "DOWNLOAD_INTERRUPTED", 3),
    ],
)
def test_only_what_may_pass_is_asked_again_and_not_for_ever(part, status, code, tries):
    server, waits = Server(), []
    server.answers = [(status, b"")] * 9
    with pytest.raises(TryAgain) as caught:
        fetch(server, part, waits)
    assert caught.value.code == code
    assert len(server.requests) == tries
    assert waits == [0.5, 1.0][: tries - 1]


def test_a_busy_server_is_given_the_time_it_asks_for(part):
    server, waits = Server(), []
    server.answers, server.retry_after_s = [(503, b"")], 5.0
    fetch(server, part, waits)
    assert waits == [5.0]


def test_progress_keeps_a_download_going_past_the_number_of_tries(part):
    server = Server()
    server.breaks = [333] * 20
    fetch(server, part)
    assert part.is_complete()
    assert len(server.requests) == 21


def test_an_answer_that_always_begins_anew_and_breaks_is_no_progress(part):
    server = Server()
    server.ignores_ranges, server.breaks = True, [999] * 50
    assert refused(server, part) == "DOWNLOAD_INTERRUPTED"
    assert len(server.requests) <= 4


def test_a_range_that_cannot_be_had_starts_anew(part):
    part.append(DATA[:50])
    server = Server()
    server.answers = [(416, b"")]
    fetch(server, part)
    assert server.requests == [50, 0]


def test_a_full_disk_keeps_what_arrived(part, monkeypatch):
    original, written = part._fs.append, []

    def append(path, data):
        if len(written) >= 3:
            raise TryAgain("full", code="DISK_FULL")
        written.append(data)
        original(path, data)

    monkeypatch.setattr(part._fs, "append", append)
    assert refused(Server(), part) == "DISK_FULL"
    assert part.size() == sum(map(len, written)) > 0


def test_an_empty_blob_can_be_fetched(tmp_path):
    store = Store(LocalFileSystem(tmp_path))
    store.open()
    part = store.blob(sha256_hex(b""), 0)
    assert fetch(Server(b""), part).tries == 1
    assert part.is_complete()


def test_a_trickle_ends_the_call_though_each_try_gets_further_and_what_came_is_kept(part):
    class Trickle(Server):
        @contextmanager
        def open(self, url, offset, etag):
            self.requests.append(offset)

            def chunks():
                yield DATA[offset : offset + 5]
                raise TryAgain("The server sends too slowly.", code="ANSWER_SLOW", remedy="")

            yield Answer(206 if offset else 200, chunks(), len(DATA) - offset, offset or None)

    server = Trickle()
    assert refused(server, part) == "DOWNLOAD_SLOW"
    assert (part.size(), server.requests) == (5, [0])
    fetch(Server(), part)
    assert part.is_complete()
