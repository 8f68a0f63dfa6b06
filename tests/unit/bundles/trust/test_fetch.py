from __future__ import annotations

import pytest
from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError

from bundles.errors import TryAgain
from bundles.trust.fetch import BASE, NotServed, SharedFetch, TufFetcher, folder_fetch, length_limit, table_fetch


class Counting:
    """A fetch over a table that counts what is asked of it."""

    def __init__(self, **files):
        self.files, self.asked = {name.replace("__", "."): data for name, data in files.items()}, []

    def __call__(self, name, max_length):
        self.asked.append(name)
        return table_fetch(self.files)(name, max_length)


def shared(counting, ttl_ms=1000):
    now = [0]
    return SharedFetch(counting, lambda: now[0], ttl_ms), now


def body(fetch, name):
    return b"".join(fetch(name, 100))


def test_versioned_files_are_fetched_once_for_all_stores():
    counting = Counting(**{"3__targets__json": b"t", "timestamp__json": b"s"})
    fetch, now = shared(counting)
    for now[0] in (0, 10_000, 20_000):
        assert body(fetch, "3.targets.json") == b"t"
    assert counting.asked == ["3.targets.json"]


def test_timestamp_and_missing_roots_are_asked_for_again_after_a_while():
    counting = Counting(timestamp__json=b"1")
    fetch, now = shared(counting)
    assert body(fetch, "timestamp.json") == b"1"
    counting.files["timestamp.json"] = b"2"
    assert body(fetch, "timestamp.json") == b"1"
    with pytest.raises(NotServed):
        body(fetch, "2.root.json")
    now[0] = 1000
    assert body(fetch, "timestamp.json") == b"2"
    counting.files["2.root.json"] = b"r"
    assert body(fetch, "2.root.json") == b"r"


def test_network_trouble_is_not_remembered():
    calls = []

    def flaky(name, max_length):
        calls.append(name)
        if len(calls) == 1:
            raise TryAgain("no network")
        return [b"x"]

    fetch = SharedFetch(flaky, lambda: 0)
    with pytest.raises(TryAgain):
        body(fetch, "timestamp.json")
    assert body(fetch, "timestamp.json") == b"x"


def test_it_forgets_the_oldest_past_its_bound():
    counting = Counting(**{f"{n}__targets__json": b"x" for n in range(5)})
    fetch = SharedFetch(counting, lambda: 0, max_files=2)
    for n in (0, 1, 2, 2, 1, 0):
        body(fetch, f"{n}.targets.json")
    assert counting.asked == ["0.targets.json", "1.targets.json", "2.targets.json", "0.targets.json"]


def test_refusals_reach_tuf_as_its_own_family():
    def broken_off(name, max_length):
        yield b"half"
        raise OSError("reset")

    def gone_in_mid_stream(name, max_length):
        yield b"half"
        raise NotServed(name, 502)

    fetcher = TufFetcher(broken_off)
    with pytest.raises(DownloadError):
        fetcher.download_bytes(BASE + "timestamp.json", 100)
    assert (fetcher.last_name, fetcher.last_data) == ("timestamp.json", b"half")
    with pytest.raises(DownloadHTTPError) as caught:
        TufFetcher(gone_in_mid_stream).download_bytes(BASE + "timestamp.json", 100)
    assert caught.value.status_code == 502
    with pytest.raises(DownloadHTTPError):
        TufFetcher(table_fetch({})).download_bytes(BASE + "2.root.json", 100)


def test_endless_answer_is_cut():
    def endless(name, max_length):
        while True:
            yield b"x" * 1000

    with pytest.raises(DownloadLengthMismatchError):
        TufFetcher(endless).download_bytes(BASE + "timestamp.json", 16_384)


def test_folder_serves_files_of_its_own_only(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "in" / "1.root.json").write_bytes(b"r")
    fetch = folder_fetch(tmp_path / "in")
    assert body(fetch, "1.root.json") == b"r"
    for name in ("../secret", "secret", "/etc/passwd"):
        with pytest.raises(NotServed):
            body(fetch, name)


def test_limits_are_by_role():
    assert length_limit("timestamp.json") == 16_384
    assert length_limit("7.root.json") == 512_000
    assert length_limit("7.snapshot.json") == 2_000_000
    assert length_limit("7.team-x.json") == length_limit("1.targets.json") == 5_000_000


def test_a_file_that_is_refused_in_the_middle_is_let_go_of():
    """What is refused may hold a connection open; a traceback that is kept must not keep that too."""
    open_files = []

    def endless(name, max_length):
        open_files.append(name)
        try:
            while True:
                yield b" " * 1000
        finally:
            open_files.remove(name)

    fetcher = TufFetcher(endless)
    with pytest.raises(DownloadLengthMismatchError) as kept:
        fetcher.download_bytes(BASE + "timestamp.json", 5_000)
    fetcher.close()
    assert open_files == []
    assert kept.value is not None
