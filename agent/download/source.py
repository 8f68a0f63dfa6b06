"""Where blobs come from and where they go: the two protocols every way of fetching is built between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Answer:
    """A server's answer to a request for a blob.

    Attributes:
        status: HTTP status (or its like): 200 whole, 206 from the offset asked for.
        chunks: the body in pieces; raises ``TryAgain`` where the connection breaks.
        length: bytes announced for this body, None if not said.
        offset: first byte of a 206, from Content-Range; None if not said.
        retry_after_s: what the server asked for, None if nothing.
        is_page: it says of itself that it is a page for people, which no blob is.
    """

    status: int
    chunks: Iterator[bytes]
    length: int | None = None
    offset: int | None = None
    retry_after_s: float | None = None
    is_page: bool = False


class Source(Protocol):
    """Where blobs come from."""

    def open(self, url: str, offset: int, etag: str) -> AbstractContextManager[Answer]:
        """Ask for ``url`` from byte ``offset`` on.

        With an offset the request carries ``Range: bytes=<offset>-`` and ``If-Range: "<etag>"`` (the blob's sha256, so
        that a server holding other content answers 200); ``Accept-Encoding: identity`` always.

        Raises:
            TryAgain: nobody answers, or not in time.
        """
        ...


class Part(Protocol):
    """Where a blob goes; ``agent.store.BlobPart`` is one."""

    @property
    def sha256(self) -> str:
        """Digest the whole must have."""
        ...

    @property
    def length(self) -> int:
        """Bytes the whole must have."""
        ...

    def is_complete(self) -> bool:
        """Whether the blob is whole and in its place."""
        ...

    def size(self) -> int:
        """Return how many bytes have arrived."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """Yield what has arrived."""
        ...

    def append(self, data: bytes) -> None:
        """Add what came next."""
        ...

    def reset(self) -> None:
        """Forget what has arrived."""
        ...

    def commit(self) -> None:
        """Put the whole in its place, durably."""
        ...
