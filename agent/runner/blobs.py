"""Brings blobs and trust metadata to one device: which sources there are, in which order, at which price.

The server over HTTPS, the object store it names, and the broker are put together here; each lives in a room of its own.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from agent.answers import BlobAnswer
from agent.delta import PASSING, Brought, DeltaTry, Tools, fetch_either_way
from agent.direct import ObjectStore
from agent.download import Answer, Source
from agent.download.chunked import BLOB_PATH, DELTA_PATH, Chunks
from agent.download.losses import Losses
from agent.download.meter import ByteBudget, Metered, TokenBucket, start_within_s
from agent.download.turns import InTurn, Turns
from agent.https import DeviceDoor
from agent.store import Store
from bundles.errors import TryAgain, WavegateError
from bundles.trust.fetch import MetadataFetch, NotServed

STORE_RESTS_S = 600.0
"""So long the server is asked for the bytes themselves, after the store it named could not be reached."""
_REDIRECTS = frozenset({302, 303, 307, 308})
_SLICE_S = 0.5
"""A wait looks this often whether it was cancelled."""
HTTPS, MQTT = "https", "mqtt"


class ServerSource:
    """Blobs and deltas from the server, or from the object store that it names: a ``Source``.

    Args:
        door: to the server, signed.
        store: to the object store; None = the server is never asked to name one.
        now_s: any clock in seconds that only rises.
    """

    def __init__(
        self, door: DeviceDoor, store: ObjectStore | None = None, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._door, self._store, self._now_s = door, store, now_s
        self._store_rests_until_s = 0.0

    @contextlib.contextmanager
    def open(self, url: str, offset: int, etag: str) -> Iterator[Answer]:
        """Ask the server, and where it says so the store; see ``agent.download.Source``."""
        with contextlib.ExitStack() as opened:
            follows = self._store is not None and self._now_s() >= self._store_rests_until_s
            answer = opened.enter_context(self._door.blob(url, offset, etag, follows=follows))
            if self._store is not None and follows and answer.status in _REDIRECTS and _is_elsewhere(answer.location):
                next(answer.chunks, None)  # read to its end, the connection serves others
                opened.close()
                answer = self._open_store(opened, self._store, answer.location, offset) or opened.enter_context(
                    self._door.blob(url, offset, etag)
                )
            yield Answer(
                answer.status, answer.chunks, answer.length, answer.offset, answer.retry_after_s, answer.is_page
            )

    def _open_store(self, opened: contextlib.ExitStack, store: ObjectStore, url: str, offset: int) -> BlobAnswer | None:
        """Return the store's answer where it is a blob's; None where the server must be asked again."""
        with contextlib.ExitStack() as trial, contextlib.suppress(TryAgain):
            answer = trial.enter_context(store.get(url, offset))
            if answer.status in (200, 206) and not answer.is_page:
                opened.push(trial.pop_all())
                return replace(answer, chunks=self._watched(answer.chunks))
        self._let_store_rest()
        return None

    def _watched(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the store's bytes; where not one comes, it is as good as not there."""
        brought = False
        try:
            for chunk in chunks:
                brought = True
                yield chunk
        except TryAgain:
            if not brought:
                self._let_store_rest()
            raise

    def _let_store_rest(self) -> None:
        self._store_rests_until_s = self._now_s() + STORE_RESTS_S


def _is_elsewhere(location: str) -> bool:
    parts = urlsplit(location)
    return parts.scheme in ("https", "http") and bool(parts.hostname)


@dataclass(frozen=True)
class Price:
    """What downloads may cost.

    Attributes:
        budget: bytes a day; None = as many as are needed.
        bucket: bytes a second; None = as fast as they come.
        within_s: bytes of a file -> within how many seconds a fleet starts to fetch it.
    """

    budget: ByteBudget | None = None
    bucket: TokenBucket | None = None
    within_s: Callable[[int], float] = start_within_s


FREE = Price()


class ServerBlobs:
    """Brings blobs into a store, from one source or several.

    Args:
        source: where from.
        rng: for jitter.
        price: what it may cost.
        sleep: waits so many seconds.
        losses: what was fetched in vain; None = remembered until the agent stops.
    """

    def __init__(
        self,
        source: Source,
        rng: random.Random,
        price: Price = FREE,
        sleep: Callable[[float], None] = time.sleep,
        losses: Losses | None = None,
    ) -> None:
        self._source = Metered(source, price.budget, price.bucket)
        self._rng, self._within_s, self._sleep = rng, price.within_s, sleep
        self._losses = losses or Losses(lambda: time.time_ns() // 1_000_000)

    def __call__(
        self, store: Store, sha256: str, length: int, is_cancelled: Callable[[], bool], wish: DeltaTry | None = None
    ) -> Brought:
        """Fetch the blob, resuming what is there.

        Raises:
            TryAgain: as ``fetch_blob``; ``CONDITION_BUDGET``; ``DOWNLOAD_IN_VAIN`` while the file rests.
        """
        part = store.blob(sha256, length)
        if not part.is_complete():
            self._losses.check(sha256)
        if not part.is_complete() and not part.size():
            # A fleet is told of a release at one moment; it does not come for it at one moment.
            self._wait(self._rng.random() * self._within_s(length), is_cancelled)
        tools = Tools(
            self._sleep, self._rng.random, is_cancelled, lost=lambda count: self._losses.add(sha256, length, count)
        )
        brought = fetch_either_way(
            self._source,
            BLOB_PATH + sha256,
            lambda old, new: f"{DELTA_PATH}{old}/{new}",
            part,
            self._once(wish, sha256),
            tools,
        )
        self._losses.came(sha256)
        return brought

    def _once(self, wish: DeltaTry | None, sha256: str) -> DeltaTry | None:
        """Return the wish, unless a delta to this file has failed before."""
        if wish is None or self._losses.had_delta(sha256):
            return None
        told = wish.failed

        def failed(error: WavegateError) -> None:
            if error.code not in PASSING:
                self._losses.delta_failed(sha256)
            told(error)

        return replace(wish, failed=failed)

    def _wait(self, seconds: float, is_cancelled: Callable[[], bool]) -> None:
        while seconds > 0 and not is_cancelled():
            self._sleep(min(seconds, _SLICE_S))
            seconds -= _SLICE_S


def sources_in_turn(https: Source, chunks: Chunks | None, turns: Turns) -> Source:
    """Return every source of a device as one.

    Args:
        https: the server and its object store.
        chunks: the broker; None = there is none.
        turns: the order of ``HTTPS`` and ``MQTT``, or of one of them.
    """
    return InTurn({HTTPS: https} | ({MQTT: chunks} if chunks else {}), turns)


class MetadataInTurn:
    """A ``MetadataFetch`` over HTTPS, and over the broker where HTTPS does not get through.

    Args:
        https: the server's door.
        chunks: the broker.
        turns: what is known of both, shared with the blobs.
    """

    def __init__(self, https: MetadataFetch, chunks: Chunks, turns: Turns) -> None:
        self._fetches: Mapping[str, MetadataFetch] = {HTTPS: https, MQTT: self._by_broker}
        self._chunks, self._turns = chunks, turns

    def __call__(self, name: str, max_length: int) -> Iterable[bytes]:
        """Fetch ``name`` as ``MetadataFetch`` says."""
        met: TryAgain | None = None
        for source in self._turns.order():
            try:
                found = self._fetches[source](name, max_length)
            except NotServed:
                raise  # it answered: that is no failure, and TUF asks for roots that are not there
            except TryAgain as error:
                self._turns.failed(source)
                met = met or error
            else:
                return found
        raise met or NotServed(name)

    def _by_broker(self, name: str, max_length: int) -> Generator[bytes, None, None]:
        with contextlib.ExitStack() as opened:
            answer = opened.enter_context(self._chunks.metadata(name))
            if answer.status != 200:
                raise NotServed(name, answer.status)
            pieces = _until_longer(opened.pop_all(), answer, max_length)
            next(pieces)  # begun, so that closing it ends the request
            return pieces


def _until_longer(opened: contextlib.ExitStack, answer: Answer, max_length: int) -> Generator[bytes, None, None]:
    """Yield nothing once, then the content; one piece too long is enough for the caller to refuse it."""
    with opened:
        yield b""
        for piece in answer.chunks:
            max_length -= len(piece)
            yield piece
            if max_length < 0:
                return
