"""The door trust metadata comes in by: a small protocol, its adapter for TUF's client, and two ready-made doors.

A device hands in a ``MetadataFetch`` over HTTPS. ``folder_fetch`` serves a folder (the server's own check before
publishing, signing beside the repository, a cache on disk). ``SharedFetch`` lets many stores of one process fetch
each file once. Nothing here judges what the bytes say.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient import FetcherInterface, UpdaterConfig

from bundles.errors import TryAgain
from bundles.trust.roles import split_file

LIMITS = UpdaterConfig()
"""Lengths and counts TUF's client enforces: root 512 kB, timestamp 16 KiB, snapshot 2 MB, targets 5 MB, 256 roots."""
BASE = "metadata:/"
"""What TUF's client believes the repository's address to be; the adapter takes it off again."""
SLOW_S = 120.0
"""A metadata file (5 MB at most) that takes longer is refused: a few bytes now and then would hold the device up."""


class NotServed(TryAgain):
    """The repository answered, and does not serve this file.

    Attributes:
        status: HTTP status, 404 where the door is no HTTP.
    """

    default_code = "METADATA_NOT_SERVED"

    def __init__(self, name: str, status: int = 404) -> None:
        super().__init__(
            f"The repository does not serve {name!r} (status {status}).",
            remedy="Check the server's address; it serves trust metadata under /metadata.",
            details={"name": name, "status": status},
        )
        self.status = status


class MetadataFetch(Protocol):
    """Fetches one metadata file."""

    def __call__(self, name: str, max_length: int) -> Iterable[bytes]:
        """Return the content of ``name`` (such as ``3.targets.json``) in pieces.

        A call may stop reading after ``max_length`` bytes; what is longer is refused in any case.

        Raises:
            NotServed: the repository answered 4xx or 5xx.
            TryAgain: it could not be reached, or broke off.
        """


class TufFetcher(FetcherInterface):
    """Gives TUF's client a ``MetadataFetch``, cuts slow answers off, and remembers the file asked for last.

    Args:
        fetch: the door to the repository.
        now_s: any clock in seconds that only rises.

    Attributes:
        last_name: the newest file asked for: it tells which role a refusal is about.
    """

    def __init__(self, fetch: MetadataFetch, now_s: Callable[[], float] = time.monotonic) -> None:
        self._get, self._now_s, self._begun_s = fetch, now_s, 0.0
        self._under_way: Iterable[bytes] = ()
        self._data = bytearray()
        self.last_name = ""

    @property
    def last_data(self) -> bytes:
        """What of the file asked for last was received."""
        return bytes(self._data)

    def close(self) -> None:
        """Let go of a file that was not read to its end: what is refused may hold a connection open."""
        if isinstance(self._under_way, Generator):
            self._under_way.close()
        self._under_way = ()

    def _fetch(self, url: str) -> Iterator[bytes]:
        # No generator function: the caller must see a refusal at the call, not at the first piece.
        self.close()
        self.last_name, self._data, self._begun_s = url.removeprefix(BASE), bytearray(), self._now_s()
        try:
            pieces = self._get(self.last_name, length_limit(self.last_name))
        except NotServed as error:
            raise DownloadHTTPError(str(error), error.status) from error
        self._under_way = pieces
        return self._pieces(pieces)

    def _pieces(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        # TUF converts errors of the call only; those in mid-stream are ours to convert.
        try:
            for piece in pieces:
                self.check_pace()
                self._data += piece
                yield piece
        except NotServed as error:
            raise DownloadHTTPError(str(error), error.status) from error
        except DownloadError:
            raise
        except Exception as error:
            raise DownloadError(f"{self.last_name} broke off: {error}") from error

    def check_pace(self) -> None:
        """Check that the file under way has not taken too long.

        Raises:
            SlowRetrievalError: it has.
        """
        if self._now_s() - self._begun_s > SLOW_S:
            raise SlowRetrievalError(f"{self.last_name} came too slowly")


def length_limit(name: str) -> int:
    """Return the largest length accepted for the metadata file ``name``, in bytes."""
    return {
        "root": LIMITS.root_max_length,
        "timestamp": LIMITS.timestamp_max_length,
        "snapshot": LIMITS.snapshot_max_length,
    }.get(split_file(name)[0], LIMITS.targets_max_length)


def folder_fetch(folder: Path) -> MetadataFetch:
    """Return a fetch that serves the files of ``folder``, as a repository or as a device's cache keeps them."""

    def fetch(name: str, max_length: int) -> Iterable[bytes]:
        try:
            with (folder / Path(name).name).open("rb") as stream:
                return [stream.read(max_length + 1)]
        except OSError as error:
            raise NotServed(name) from error

    return fetch


def table_fetch(files: dict[str, bytes]) -> MetadataFetch:
    """Return a fetch that serves ``files`` (name -> content) from memory."""

    def fetch(name: str, max_length: int) -> Iterable[bytes]:
        if name not in files:
            raise NotServed(name)
        return [files[name][: max_length + 1]]

    return fetch


class SharedFetch:
    """Fetches each file once for many stores of one process (a simulated fleet).

    Versioned files never change, so they are kept; ``timestamp.json`` and the answer that there is no newer root are
    kept for ``ttl_ms``. Every store still verifies everything for itself.
    """

    def __init__(
        self, fetch: MetadataFetch, clock: Callable[[], int], ttl_ms: int = 2_000, max_files: int = 256
    ) -> None:
        """Wrap ``fetch``.

        Args:
            fetch: the door to share.
            clock: returns UTC epoch milliseconds (or any milliseconds that only rise).
            ttl_ms: how long what may change is kept.
            max_files: files kept; past that the oldest is dropped.
        """
        self._fetch, self._clock, self._ttl_ms, self._max_files = fetch, clock, ttl_ms, max_files
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[int, bytes | NotServed]] = {}

    def __call__(self, name: str, max_length: int) -> Iterable[bytes]:
        """Fetch ``name`` as ``MetadataFetch`` says."""
        with self._lock:
            now = self._clock()
            at, content = self._kept.get(name, (0, None))
            lasting = isinstance(content, bytes) and name != "timestamp.json"
            if content is None or not (lasting or now - at < self._ttl_ms):
                try:
                    content = b"".join(self._fetch(name, max_length))
                except NotServed as error:
                    content = error
                self._kept.pop(name, None)
                self._kept[name] = (now, content)
                if len(self._kept) > self._max_files:
                    del self._kept[next(iter(self._kept))]
        if isinstance(content, NotServed):
            raise NotServed(name, content.status)
        return [content]
