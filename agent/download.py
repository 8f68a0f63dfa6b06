"""Fetching one content-addressed blob, resumably: what has arrived is kept, hashed again and built upon.

Leaves the network to a ``Source`` (the HTTPS client; later the broker) and the disk to a ``Part`` (the store's). Rules:

* nothing is believed before its sha256 matches; a captive portal's page answered with 200 is no blob;
* never more than the promised length is written, whatever the server sends;
* a server's ``200`` to a range request starts anew instead of appending to what is there;
* a few tries with a jittered wait, then the caller decides: every wait has an end, and a ``404`` or ``403`` is not
  hammered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from agent.core.retry import Backoff
from bundles.errors import TryAgain


@dataclass(frozen=True)
class Answer:
    """A server's answer to a request for a blob.

    Attributes:
        status: HTTP status (or its like): 200 whole, 206 from the offset asked for.
        chunks: the body in pieces; raises ``TryAgain`` where the connection breaks.
        length: bytes announced for this body, None if not said.
        offset: first byte of a 206, from Content-Range; None if not said.
        retry_after_s: what the server asked for, None if nothing.
    """

    status: int
    chunks: Iterator[bytes]
    length: int | None = None
    offset: int | None = None
    retry_after_s: float | None = None


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


@dataclass(frozen=True)
class DownloadPolicy:
    """How stubborn one call is. The updater calls again, with its own waits, until the download deadline.

    Attributes:
        max_tries: tries of one call that bring nothing new; a try that brought bytes does not count.
        backoff: waits between them.
        write_bytes: received bytes gathered before they are written.
    """

    max_tries: int = 4
    backoff: Backoff = field(default_factory=lambda: Backoff(base_s=0.5, cap_s=20.0))
    write_bytes: int = 256 * 1024


DEFAULT_POLICY = DownloadPolicy()


@dataclass(frozen=True)
class Fetched:
    """What one call did.

    Attributes:
        bytes_received: from the source, in this call; 0 where the blob was on disk.
        tries: requests made.
    """

    bytes_received: int
    tries: int


def fetch_blob(
    source: Source,
    url: str,
    part: Part,
    *,
    sleep: Callable[[float], None],
    draw: Callable[[], float],
    is_cancelled: Callable[[], bool] = lambda: False,
    policy: DownloadPolicy = DEFAULT_POLICY,
) -> Fetched:
    """Fetch a blob until it is whole, checked and durable.

    Args:
        source: where from.
        url: what to ask it for.
        part: where to; names digest and length.
        sleep: waits so many seconds.
        draw: returns a random number in [0, 1).
        is_cancelled: asked between pieces; what has arrived is kept.
        policy: tries and waits.

    Raises:
        TryAgain: ``DOWNLOAD_INTERRUPTED`` (no connection, or it broke), ``DOWNLOAD_STATUS`` (the server is busy),
            ``DOWNLOAD_SLOW`` (a trickle; see ``agent.pace``), ``DOWNLOAD_NOT_FOUND``, ``DOWNLOAD_DENIED``,
            ``DOWNLOAD_DIGEST`` or ``DOWNLOAD_LENGTH`` (other bytes than promised: a portal or proxy between, or a
            damaged server; what came is thrown away), ``DOWNLOAD_CANCELLED``, ``DISK_FULL`` or ``STORE_IO``.
    """
    received = tries = idle = 0
    furthest = part.size()
    while not part.is_complete():
        if is_cancelled():
            raise TryAgain("The download was cancelled.", code="DOWNLOAD_CANCELLED", remedy="Nothing needs to be done.")
        tries += 1
        attempt = _Attempt(part, policy.write_bytes, is_cancelled)
        try:
            attempt.run(source, url)
        except TryAgain as error:
            # Progress is what lies further than ever before: bytes of an answer begun anew are none.
            idle = 1 if part.size() > furthest else idle + 1
            furthest = max(furthest, part.size())
            if error.code not in _WORTH_ANOTHER_TRY or idle >= policy.max_tries:
                raise
            wait = policy.backoff.delay_s(idle, draw())
            sleep(max(wait, min(attempt.retry_after_s, policy.backoff.cap_s)))
        finally:
            received += attempt.received
    return Fetched(received, tries)


_WORTH_ANOTHER_TRY = frozenset({"DOWNLOAD_INTERRUPTED", "DOWNLOAD_STATUS"})


class _Attempt:
    """One request, its bytes written and hashed as they come."""

    def __init__(self, part: Part, write_bytes: int, is_cancelled: Callable[[], bool]) -> None:
        self._part = part
        self._write_bytes = write_bytes
        self._is_cancelled = is_cancelled
        self._digest = hashlib.sha256()
        self._held = 0
        self.received = 0
        self.retry_after_s = 0.0

    def run(self, source: Source, url: str) -> None:
        """Ask, receive, check and commit."""
        part = self._part
        if part.size() > part.length:
            part.reset()
        for chunk in part.chunks():
            self._digest.update(chunk)
            self._held += len(chunk)
        if self._held < part.length:
            self._receive(source, url)
        if self._digest.hexdigest() != part.sha256:
            part.reset()
            raise self._wrong_content("DOWNLOAD_DIGEST", "The bytes that arrived do not have the promised digest")
        part.commit()

    def _receive(self, source: Source, url: str) -> None:
        part = self._part
        try:
            with source.open(url, self._held, part.sha256) as answer:
                self.retry_after_s = answer.retry_after_s or 0.0
                self._check_status(answer)
                left = part.length - self._held
                if answer.length is not None and answer.length != left:
                    raise self._wrong_content(
                        "DOWNLOAD_LENGTH", f"The server announces {answer.length} bytes where {left} are promised"
                    )
                self._write(answer.chunks, left)
                if answer.length is None and self._held < part.length and not self._is_cancelled():
                    # A broken connection raises; this is all that the server has, so it is something else.
                    part.reset()
                    raise self._wrong_content(
                        "DOWNLOAD_LENGTH", f"The server's file ends after {self._held} of {part.length} bytes"
                    )
        except TryAgain as error:
            if error.code.startswith(("DOWNLOAD_", "DISK_", "STORE_")):
                raise
            if error.code == "ANSWER_SLOW":
                # Each try would bring a little, and so count as one that got further: not for this call to repeat.
                raise TryAgain(
                    error.sentence,
                    code="DOWNLOAD_SLOW",
                    remedy="Check the device's network; the device goes on later from where it was.",
                ) from error
            raise _interrupted(error.sentence) from error
        if self._held < part.length:
            raise _interrupted(f"The connection ended after {self._held} of {part.length} bytes.")

    def _check_status(self, answer: Answer) -> None:
        status = answer.status
        if status == 206 and answer.offset in (None, self._held):
            return
        if status == 200:
            if self._held:
                self._start_anew()
            return
        if status in (206, 416):  # another range than asked for, or none at all: what is here cannot be built upon
            self._start_anew()
            raise _interrupted(f"The server answers {status} to a request for the rest of the file.")
        if status in (404, 410):
            raise TryAgain(
                "The server does not have this file.",
                code="DOWNLOAD_NOT_FOUND",
                remedy="Publish the bundle's blobs again; the device asks again later.",
            )
        if status in (401, 403, 407, 451) or 300 <= status < 400:
            raise TryAgain(
                f"The server, or something between, refuses the file with status {status}.",
                code="DOWNLOAD_DENIED",
                remedy="Check the device's enrolment, its proxy, and whether the network asks for a sign-in.",
            )
        raise TryAgain(
            f"The server answers with status {status}.",
            code="DOWNLOAD_STATUS",
            remedy="The device asks again later.",
        )

    def _write(self, chunks: Iterator[bytes], left: int) -> None:
        pending = bytearray()
        try:
            for chunk in chunks:
                if self._is_cancelled():
                    return
                self.received += len(chunk)
                if len(chunk) > left - len(pending):
                    pending.clear()
                    self._part.reset()
                    raise self._wrong_content(
                        "DOWNLOAD_LENGTH", f"The server sends more than the promised {self._part.length} bytes"
                    )
                pending += chunk
                if len(pending) >= self._write_bytes:
                    left -= self._flush(pending)
        finally:
            # Also when the connection breaks: every byte that arrived is one not to be fetched again.
            self._flush(pending)

    def _flush(self, pending: bytearray) -> int:
        data = bytes(pending)
        pending.clear()
        if data:
            self._part.append(data)
            self._digest.update(data)
            self._held += len(data)
        return len(data)

    def _start_anew(self) -> None:
        self._part.reset()
        self._digest = hashlib.sha256()
        self._held = 0

    def _wrong_content(self, code: str, sentence: str) -> TryAgain:
        return TryAgain(
            f"{sentence}.",
            code=code,
            remedy="See whether a sign-in page or a proxy answers instead of the server; the device asks again later.",
            details={"sha256": self._part.sha256, "length": self._part.length},
        )


def _interrupted(sentence: str) -> TryAgain:
    return TryAgain(sentence, code="DOWNLOAD_INTERRUPTED", remedy="The device goes on from where it was.")
