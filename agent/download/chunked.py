"""Files in chunks over the broker, for sites where only the broker is reachable; see ``bundles.wire.chunks``.

``Chunks`` is a ``Source`` like any other: what it brought, HTTPS goes on with, and the other way round. Leaves the
connection to the link, which hands over what arrives, from its own thread. Chunks come at QoS 0, so each may be lost:

* a window of chunks is asked for ahead, as many as come within ``QUEUED_S``: they share the connection with everything
  else that the device is told, and must not stand in its way for long;
* a chunk that does not come is asked for again: at once where later ones have overtaken it (the broker keeps their
  order), otherwise after a wait that follows the link's own pace, and doubles;
* memory is bounded by the window.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from agent.download.source import Answer
from bundles.errors import MessageRefused, TryAgain
from bundles.wire import topics
from bundles.wire.chunks import CHUNK_BYTES, MAX_CHUNKS, METADATA, BlobAsk, decode_chunk, encode_ask

BLOB_PATH = "/v1/blobs/sha256/"
DELTA_PATH = "/v1/deltas/"
_STATUS = {
    "BLOB_NOT_FOUND": 404,
    "DELTA_NOT_OFFERED": 404,
    "METADATA_NOT_FOUND": 404,
    "DEVICE_REVOKED": 403,
    "RANGE": 416,
}
MAX_WAITING = 4 * MAX_CHUNKS
"""Chunks that may wait for the download; later ones are dropped and asked for again."""
OVERTAKEN = 2
"""So many later chunks say that one was lost, and is not just late."""
FIRST_CHUNKS = 2
"""Asked for while nothing is known of the link."""
QUEUED_S = 2.0
PATIENCE = 4.0
"""The wait for a chunk, in usual gaps between two."""
MAX_WAIT_S = 60.0


@dataclass(frozen=True)
class ChunkPolicy:
    """How patient one request is.

    Attributes:
        wait_s: for a chunk, at least; doubles with every silence.
        max_silences: in a row; then the request has failed.
    """

    wait_s: float = 5.0
    max_silences: int = 4


DEFAULT_POLICY = ChunkPolicy()


class Tempo:
    """How fast chunks come over this link, as seen by all its downloads: their usual gap. Pure."""

    def __init__(self) -> None:
        self._gap_s = -1.0

    @property
    def window(self) -> int:
        """Chunks to have under way."""
        if self._gap_s < 0:
            return FIRST_CHUNKS
        return max(1, min(MAX_CHUNKS, int(QUEUED_S / max(self._gap_s, 1e-3))))

    @property
    def wait_s(self) -> float:
        """How long to wait for a chunk before it is missed; 0 = nothing is known."""
        return min(MAX_WAIT_S, PATIENCE * max(self._gap_s, 0.0))

    def came(self, waited_s: float) -> None:
        """Note a chunk that was waited for so long."""
        self._gap_s = waited_s if self._gap_s < 0 else 0.7 * self._gap_s + 0.3 * waited_s


class Chunks:
    """A ``Source`` over the broker.

    Args:
        publish: sends (leaf, payload) at QoS 0; False where there is no connection.
        new_id: draws an id for a request: 1 to 32 of ``a-z`` and ``0-9``, never the same again.
        policy: how patient.
        wasted: told of bytes that came and were of no use (twice, or too late), for the budget.
        now_s: any clock in seconds that only rises.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], bool],
        new_id: Callable[[], str],
        policy: ChunkPolicy = DEFAULT_POLICY,
        wasted: Callable[[int], None] = lambda _count: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publish, self._new_id, self._policy, self._wasted = publish, new_id, policy, wasted
        self._now_s, self._tempo = now_s, Tempo()
        self._waiting: dict[str, queue.Queue[bytes]] = {}

    def take(self, leaf: str, payload: bytes) -> bool:
        """Take a message from the broker, where it is a chunk; from the link's thread, never blocks.

        Returns:
            Whether it was one, wanted or not.
        """
        if not leaf.startswith(topics.DOWN_BLOB):
            return False
        waiting = self._waiting.get(leaf.removeprefix(topics.DOWN_BLOB))
        if waiting is not None:
            with contextlib.suppress(queue.Full):
                waiting.put_nowait(payload)
                return True
        self._wasted(len(payload))
        return True

    @contextlib.contextmanager
    def open(self, url: str, offset: int, etag: str) -> Iterator[Answer]:
        """Ask for a blob or a delta; see ``Source.open``. The whole is checked by its digest, so ``etag`` is not asked.

        Raises:
            TryAgain: ``BROKER_UNREACHABLE`` or ``CHUNKS_SILENT``; also from ``chunks``.
        """
        base, _, sha256 = url.removeprefix(DELTA_PATH if url.startswith(DELTA_PATH) else BLOB_PATH).rpartition("/")
        with self._request(BlobAsk(self._new_id(), sha256=sha256, offset=offset, base=base)) as answer:
            yield answer

    @contextlib.contextmanager
    def metadata(self, name: str) -> Iterator[Answer]:
        """Ask for a file of trust metadata, such as ``timestamp.json``.

        Raises:
            TryAgain: as ``open``; also from ``chunks``.
        """
        with self._request(BlobAsk(self._new_id(), name=METADATA + name)) as answer:
            yield answer

    @contextlib.contextmanager
    def _request(self, ask: BlobAsk) -> Iterator[Answer]:
        inbox = self._waiting[ask.id] = queue.Queue(MAX_WAITING)
        try:
            transfer = _Transfer(ask, self._publish, inbox, self._policy, self._wasted, self._now_s, self._tempo)
            try:
                transfer.begin()
            except _Refusal as refusal:
                yield Answer(refusal.status, iter(()), retry_after_s=refusal.retry_s or None)
            else:
                yield Answer(
                    206 if ask.offset else 200, transfer.pieces(), transfer.length - ask.offset, offset=ask.offset
                )
        finally:
            del self._waiting[ask.id]


class _Transfer:
    """One request: what was asked for, what has come, what is missing.

    Attributes:
        length: bytes of the whole file, once ``begin`` has returned.
    """

    def __init__(
        self,
        ask: BlobAsk,
        publish: Callable[[str, bytes], bool],
        inbox: queue.Queue[bytes],
        policy: ChunkPolicy,
        wasted: Callable[[int], None],
        now_s: Callable[[], float],
        tempo: Tempo,
    ) -> None:
        self._ask, self._publish, self._inbox, self._policy, self._wasted = ask, publish, inbox, policy, wasted
        self._now_s, self._tempo = now_s, tempo
        self._next = self._asked_to = ask.offset
        self._ahead: dict[int, bytes] = {}
        self._mended_at = -1
        self.length = -1

    def begin(self) -> None:
        """Ask for the first chunks and wait for one of them.

        Raises:
            _Refusal: the server has none.
        """
        self._ask_more()
        while self.length < 0:
            self._wait()

    def pieces(self) -> Iterator[bytes]:
        """Yield the file from the offset asked for, in order."""
        while self._next < self.length:
            data = self._ahead.pop(self._next, None)
            if data is None:
                try:
                    self._wait()
                except _Refusal as refusal:  # it was there a moment ago: withdrawn, or the device was
                    raise _silent(f"The server goes on with {refusal.code}") from refusal
                continue
            self._next += len(data)
            self._ask_more()
            yield data

    def _ask_more(self) -> None:
        """Keep the window open: ask again once half of it has come."""
        self._asked_to = max(self._asked_to, self._next)
        while self._asked_to in self._ahead:
            self._asked_to += len(self._ahead[self._asked_to])
        window = self._tempo.window
        room = window - _chunks(self._asked_to - self._next)
        wanted = room if self.length < 0 else min(room, _chunks(self.length - self._asked_to))
        if wanted > 0 and (2 * room >= window or self._asked_to == self._next):
            self._send(self._asked_to, wanted)
            self._asked_to = self._until(self._asked_to, wanted)

    def _wait(self) -> None:
        """Take in one chunk; after a silence, ask again for what is missing first.

        Raises:
            _Refusal: the server has no chunks for this ask.
            TryAgain: ``CHUNKS_SILENT``.
        """
        wait_s, started_s = max(self._policy.wait_s, self._tempo.wait_s), self._now_s()
        for _ in range(self._policy.max_silences):
            try:
                payload = self._inbox.get(timeout=wait_s)
            except queue.Empty:
                wait_s = min(2 * wait_s, max(MAX_WAIT_S, self._policy.wait_s))
                self._mend()
            else:
                if self._take(payload):
                    self._tempo.came(self._now_s() - started_s)
                return
        raise _silent("No chunk came over the broker")

    def _mend(self) -> None:
        """Ask again from the first missing byte up to what has come of later ones.

        After a silence that is one chunk: it may be slowness, and then it comes twice.
        """
        if self._ahead:
            self._send(self._next, min(MAX_CHUNKS, _chunks(min(self._ahead) - self._next)))
        else:
            self._send(self._next, 1)
            self._asked_to = self._until(self._next, 1)  # what else was under way may be lost as well

    def _take(self, payload: bytes) -> bool:
        """Take in what came; return whether it was a chunk of use."""
        try:
            head, data = decode_chunk(payload)
        except MessageRefused:
            return self._waste(payload)
        if (head.sha256, head.name) != (self._ask.sha256, self._ask.name):
            return self._waste(payload)
        if head.code:
            raise _Refusal(head.code, head.retry_ms / 1000)
        if self.length < 0:
            self.length = head.length
            self._asked_to = min(self._asked_to, self.length)
            if self._next == self.length:
                return True  # an empty file
        ahead = head.offset - self._next
        is_whole = len(data) == min(CHUNK_BYTES, self.length - head.offset) and ahead % CHUNK_BYTES == 0
        is_wanted = 0 <= ahead < MAX_CHUNKS * CHUNK_BYTES and head.offset not in self._ahead
        if not data or not is_whole or not is_wanted or head.length != self.length:
            return self._waste(payload)
        self._ahead[head.offset] = bytes(data)
        if self._next not in self._ahead and len(self._ahead) >= OVERTAKEN and self._mended_at != self._next:
            self._mended_at = self._next
            self._mend()
        return True

    def _waste(self, payload: bytes) -> bool:
        self._wasted(len(payload))
        return False

    def _until(self, offset: int, count: int) -> int:
        end = offset + count * CHUNK_BYTES
        return end if self.length < 0 else min(end, self.length)

    def _send(self, offset: int, n: int) -> None:
        ask = replace(self._ask, offset=offset, n=n)
        if not self._publish(topics.UP_BLOB, encode_ask(ask)):
            raise TryAgain(
                "The broker is not connected.",
                code="BROKER_UNREACHABLE",
                remedy="The agent connects again by itself; the device goes on from where it was.",
            )


def _chunks(count: int) -> int:
    """Return how many chunks hold ``count`` bytes."""
    return -(-count // CHUNK_BYTES)


class _Refusal(Exception):
    """The server has no chunks for this ask; where ``retry_s`` is not 0, it has none yet."""

    def __init__(self, code: str, retry_s: float) -> None:
        super().__init__(code)
        self.code, self.status, self.retry_s = code, _STATUS.get(code, 503), retry_s


def _silent(sentence: str) -> TryAgain:
    return TryAgain(f"{sentence}.", code="CHUNKS_SILENT", remedy="The device goes on later from where it was.")
