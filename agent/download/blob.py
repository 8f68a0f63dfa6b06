"""Fetching one content-addressed blob, resumably: what has arrived is kept, hashed again and built upon.

Leaves the network to a ``Source`` (the server, an object store, the broker, or those in turn) and the disk to a
``Part`` (the store's). What one source brought another goes on with. Rules:

* nothing is believed before its sha256 matches; a captive portal's page answered with 200 is no blob;
* never more than the promised length is written, whatever the server sends;
* a server's ``200`` to a range request starts anew instead of appending to what is there;
* a few tries with a jittered wait, then the caller decides: every wait has an end, and a ``404`` or ``403`` is not
  hammered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.core.retry import Backoff
from agent.download.source import Answer, Part, Source
from bundles.errors import TryAgain


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
    lost: Callable[[int], None] = lambda _count: None,
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
        lost: told of bytes that were here and are thrown away because the source does not go on from them; it may
            raise, and so end this call.

    Raises:
        TryAgain: ``DOWNLOAD_INTERRUPTED`` (no connection, or it broke), ``DOWNLOAD_STATUS`` (the server is busy),
            ``DOWNLOAD_SLOW`` (a trickle; see ``agent.pace``), ``DOWNLOAD_NOT_FOUND``, ``DOWNLOAD_DENIED``,
            ``DOWNLOAD_PORTAL`` (a page for people),
            ``DOWNLOAD_DIGEST`` or ``DOWNLOAD_LENGTH`` (other bytes than promised: a portal or proxy between, or a
            damaged server; what came is thrown away), ``DOWNLOAD_CANCELLED``, ``DISK_FULL`` or ``STORE_IO``.
    """
    tries = idle = 0
    furthest = part.size()
    arrival = _Arrival(part, policy.write_bytes, is_cancelled, lost)
    while not part.is_complete():
        if is_cancelled():
            raise TryAgain("The download was cancelled.", code="DOWNLOAD_CANCELLED", remedy="Nothing needs to be done.")
        tries += 1
        try:
            arrival.run(source, url)
        except TryAgain as error:
            # Progress is what lies further than ever before: bytes of an answer begun anew are none.
            idle = 1 if part.size() > furthest else idle + 1
            furthest = max(furthest, part.size())
            if error.code not in _WORTH_ANOTHER_TRY or idle >= policy.max_tries:
                raise
            wait = policy.backoff.delay_s(idle, draw())
            sleep(max(wait, min(arrival.retry_after_s, policy.backoff.cap_s)))
    return Fetched(arrival.received, tries)


_WORTH_ANOTHER_TRY = frozenset({"DOWNLOAD_INTERRUPTED", "DOWNLOAD_STATUS"})


_PASSED_ON = ("DOWNLOAD_", "DISK_", "STORE_", "CONDITION_")
"""Beginnings of codes that say themselves what is the matter; whatever else breaks off is the network's."""


class _Arrival:
    """One blob's bytes, written and hashed as they come, over as many requests as it takes."""

    def __init__(
        self, part: Part, write_bytes: int, is_cancelled: Callable[[], bool], lost: Callable[[int], None]
    ) -> None:
        self._part, self._lost = part, lost
        self._write_bytes = write_bytes
        self._is_cancelled = is_cancelled
        self._digest = hashlib.sha256()
        self._held = 0
        self.received = 0
        self.retry_after_s = 0.0

    def run(self, source: Source, url: str) -> None:
        """Ask, receive, check and commit."""
        part = self._part
        self.retry_after_s = 0.0
        if part.size() > part.length:
            part.reset()
        if part.size() != self._held:
            # Of an earlier run, or cut short by a full disk. What this run wrote itself is not hashed again at each
            # try: on a link that breaks every megabyte that would be the square of the file.
            self._digest, self._held = hashlib.sha256(), 0
            for chunk in part.chunks():
                self._digest.update(chunk)
                self._held += len(chunk)
        if self._held < part.length:
            self._receive(source, url)
        if self._digest.hexdigest() != part.sha256:
            self._start_anew()
            raise self._wrong_content("DOWNLOAD_DIGEST", "The bytes that arrived do not have the promised digest")
        part.commit()

    def _receive(self, source: Source, url: str) -> None:
        part = self._part
        try:
            with source.open(url, self._held, part.sha256) as answer:
                self.retry_after_s = answer.retry_after_s or 0.0
                if answer.is_page:
                    raise TryAgain(
                        f"A page for people (status {answer.status}) was answered in place of the file.",
                        code="DOWNLOAD_PORTAL",
                        remedy="See whether the network asks for a sign-in; the device asks again later.",
                    )
                self._check_status(answer)
                left = part.length - self._held
                if answer.length is not None and answer.length != left:
                    raise self._wrong_content(
                        "DOWNLOAD_LENGTH", f"The server announces {answer.length} bytes where {left} are promised"
                    )
                self._write(answer.chunks, left)
                if answer.length is None and self._held < part.length and not self._is_cancelled():
                    # A broken connection raises; this is all that the server has, so it is something else.
                    self._start_anew()
                    raise self._wrong_content(
                        "DOWNLOAD_LENGTH", f"The server's file ends after {self._held} of {part.length} bytes"
                    )
        except TryAgain as error:
            if error.code.startswith(_PASSED_ON):
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
                self._lose()
            return
        if status in (206, 416):  # another range than asked for, or none at all: what is here cannot be built upon
            self._lose()
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
                    self._start_anew()
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

    def _lose(self) -> None:
        count = self._held
        self._start_anew()
        self._lost(count)

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
