"""Fetching a blob as a delta to one that is here: tried once, and the whole is fetched whenever anything is wrong.

Leaves taking a delta apart to ``bundles.delta`` and whole blobs to ``agent.download``. Rules:

* what is made must be what was *signed*: length and sha256 come from the part, never from the server;
* no more is read than a delta of that file may have, however much is sent;
* a connection that breaks is taken up where it broke: that is the network's fault, not the delta's;
* whatever fails leaves an empty part, is told, and costs no attempt of the update.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

from agent.download import DEFAULT_POLICY, Answer, DownloadPolicy, Fetched, Part, Source, fetch_blob
from bundles.delta.apply import apply_delta
from bundles.delta.form import MIN_FILE_BYTES, max_delta_bytes
from bundles.errors import BundleRefused, TryAgain, WavegateError

NOT_OFFERED = "DELTA_NOT_OFFERED"
_PATIENCE = frozenset({408, 425, 429, 500, 502, 503, 504})
BYTES_A_TRY = 32 * 1024**2
"""As much is made of a delta between two answers of 503, 8 s apart, at 4 MiB/s: a slow core that has other work too."""
PASSING = frozenset({"DELTA_INTERRUPTED", "DELTA_STATUS"})
"""Codes about the network, or about who answers, and not about the delta: it may be asked for again."""
_OURS = ("DISK_", "STORE_", "CONDITION_", "DOWNLOAD_CANCELLED")
"""Codes that say nothing about the delta: the whole file would meet the same."""


@dataclass(frozen=True)
class Base:
    """A blob that is on this device.

    Attributes:
        sha256: its digest.
        open: opens it for reading; raises ``TryAgain`` where it is gone.
    """

    sha256: str
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class DeltaTry:
    """A wish to fetch a blob as a delta.

    Attributes:
        base: what it may be built out of.
        failed: told why the whole file is fetched instead; not told where the server offers no delta.
    """

    base: Base
    failed: Callable[[WavegateError], None]


@dataclass(frozen=True)
class Tools:
    """What both ways of fetching need; fields as the arguments of ``agent.download.fetch_blob``."""

    sleep: Callable[[float], None]
    draw: Callable[[], float]
    is_cancelled: Callable[[], bool] = lambda: False
    policy: DownloadPolicy = DEFAULT_POLICY
    lost: Callable[[int], None] = lambda _count: None


@dataclass(frozen=True)
class Brought:
    """How a blob came.

    Attributes:
        bytes_received: from the source, in this call, by either way.
        by_delta: whether a delta made it.
    """

    bytes_received: int
    by_delta: bool


class Traffic:
    """What downloads have cost since the start, for people. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {"bytes": 0, "deltas": 0, "delta_failures": 0, "bytes_saved": 0}

    def add(self, brought: Brought, length: int) -> None:
        """Count a blob of ``length`` bytes that came."""
        with self._lock:
            self._counts["bytes"] += brought.bytes_received
            if brought.by_delta:
                self._counts["deltas"] += 1
                self._counts["bytes_saved"] += length - brought.bytes_received

    def add_failure(self) -> None:
        """Count a delta that was offered and did not make the file."""
        with self._lock:
            self._counts["delta_failures"] += 1

    def counts(self) -> dict[str, int]:
        """Return ``bytes`` received, ``deltas`` used, ``delta_failures`` and ``bytes_saved`` by deltas."""
        with self._lock:
            return dict(self._counts)


def fetch_either_way(
    source: Source, url: str, delta_url: Callable[[str, str], str], part: Part, wish: DeltaTry | None, tools: Tools
) -> Brought:
    """Fetch a blob, as a delta where one is wished for and the blob has not begun to arrive; otherwise whole.

    Args:
        source: where from.
        url: of the whole blob.
        delta_url: (old sha256, new sha256) -> address of a delta.
        part: where to; names the signed digest and length.
        wish: None = whole.
        tools: waits, randomness, cancellation.

    Raises:
        TryAgain: as ``fetch_blob``.
    """
    spent = 0
    if wish is not None and part.length >= MIN_FILE_BYTES and not part.is_complete() and not part.size():
        stream = _Delta(source, delta_url(wish.base.sha256, part.sha256), wish.base.sha256, part, tools)
        try:
            _apply(stream, wish.base, part)
            return Brought(stream.received, by_delta=True)
        except WavegateError as error:
            part.reset()
            spent = stream.received
            if error.code.startswith(_OURS):
                raise
            if error.code != NOT_OFFERED:
                wish.failed(error)
            if error.code in PASSING:
                tools.lost(spent)
    fetched: Fetched = fetch_blob(
        source,
        url,
        part,
        sleep=tools.sleep,
        draw=tools.draw,
        is_cancelled=tools.is_cancelled,
        policy=tools.policy,
        lost=tools.lost,
    )
    return Brought(spent + fetched.bytes_received, by_delta=False)


def _apply(stream: _Delta, base: Base, part: Part) -> None:
    pending = bytearray()

    def write(piece: bytes) -> None:
        pending.extend(piece)
        if len(pending) >= stream.tools.policy.write_bytes:
            part.append(bytes(pending))
            pending.clear()

    try:
        opened = base.open()
    except TryAgain as error:
        raise _no_base(error.sentence) from error
    try:
        with opened as held, closing(stream.pieces()) as pieces:
            apply_delta(pieces, held, write, sha256=part.sha256, length=part.length)
    except OSError as error:
        raise _no_base(str(error.strerror or error)) from error
    if pending:
        part.append(bytes(pending))
    part.commit()


class _Delta:
    """The bytes of one delta, over as many connections as it takes.

    Attributes:
        received: bytes so far, those of a proxy's pages included.
    """

    def __init__(self, source: Source, url: str, base: str, part: Part, tools: Tools) -> None:
        self._source, self._url, self.tools = source, url, tools
        self._etag = f"{base}-{part.sha256}"
        self._length, self._max_bytes = part.length, max_delta_bytes(part.length)
        self._offset = 0
        self.received = 0

    def pieces(self) -> Generator[bytes, None, None]:
        """Yield the delta from its first byte to its last.

        Raises:
            TryAgain: ``DELTA_NOT_OFFERED``, ``DELTA_INTERRUPTED`` (the network, or a busy server, for too long),
                ``DELTA_STATUS`` (something answers that does not know deltas) or ``DOWNLOAD_CANCELLED``.
        """
        idle, furthest = 0, 0
        while True:
            wait_s = 0.0
            try:
                with self._source.open(self._url, self._offset, self._etag) as answer:
                    wait_s = answer.retry_after_s or 0.0
                    if answer.status not in _PATIENCE:
                        yield from self._body(answer)
                        return
                    trouble = f"the server answers with status {answer.status}"
            except TryAgain as error:
                if error.code.startswith(("DELTA_", *_OURS)):
                    raise
                if error.code == "ANSWER_SLOW":  # each try would get a little further, for ever
                    raise _failed("DELTA_INTERRUPTED", error.sentence.rstrip(".")) from error
                trouble = error.sentence
            self._check_cancelled()
            idle, furthest = (1 if self._offset > furthest else idle + 1), max(furthest, self._offset)
            policy = self.tools.policy
            # A server that asks for patience (``Retry-After``) makes the delta: longer for a large file.
            patience = int(self._length / BYTES_A_TRY) if wait_s else 0
            if idle >= policy.max_tries + patience:
                raise _failed("DELTA_INTERRUPTED", f"The delta did not arrive: {trouble}")
            self.tools.sleep(max(policy.backoff.delay_s(idle, self.tools.draw()), min(wait_s, policy.backoff.cap_s)))

    def _body(self, answer: Answer) -> Iterator[bytes]:
        if answer.status in (404, 410):
            raise _failed(NOT_OFFERED, "The server offers no delta")
        is_rest = (answer.offset or 0) == self._offset
        if answer.is_page or answer.status != (206 if self._offset else 200) or not is_rest:
            raise _failed("DELTA_STATUS", f"The server answers with status {answer.status}")
        if self._offset + (answer.length or 0) > self._max_bytes:
            raise _failed("DELTA_FORM", f"The server announces a delta of {answer.length} bytes")
        for piece in answer.chunks:
            self._check_cancelled()
            self.received += len(piece)
            self._offset += len(piece)
            yield piece

    def _check_cancelled(self) -> None:
        if self.tools.is_cancelled():
            raise TryAgain("The download was cancelled.", code="DOWNLOAD_CANCELLED", remedy="Nothing needs to be done.")


def _no_base(why: str) -> BundleRefused:
    return BundleRefused(
        f"The base of the delta cannot be read: {why}",
        code="DELTA_BASE",
        remedy="Look at the device's disk; the whole file is fetched instead.",
    )


def _failed(code: str, sentence: str) -> TryAgain:
    return TryAgain(f"{sentence}.", code=code, remedy="Nothing needs to be done: the whole file is fetched instead.")
