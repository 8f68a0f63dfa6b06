"""Several sources for one blob: asked in the order a person configured, and one that failed rests for a while.

``Turns`` is the order and its memory, shared by all downloads of a device (and by its trust metadata); ``InTurn`` is a
``Source`` made of several. Rules:

* a try goes through every source before it has failed;
* a source that brings nothing rests, longer each time, so that a blocked port does not cost every file its time-out;
* while a later source brings the file, an earlier one whose rest is over is tried again: the way meant is the way used;
* that a source does not *have* a file says nothing against the source;
* nor does it that a source asks for patience (with a ``Retry-After``): it is waited for, and nobody else is asked, or a
  server that makes a delta, or has much to do, would drive its fleet to the broker.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from agent.core.retry import Backoff
from agent.download.source import Answer, Source
from bundles.errors import TryAgain

REST = Backoff(base_s=30.0, cap_s=600.0)
"""Bounds of the rest after so many failures in a row; taken whole, not drawn: it is one device's own memory."""
_ABSENT = frozenset({404, 410})
_USEFUL = frozenset({200, 206, 416})
_BUSY = frozenset({429, 503})


class Turns:
    """The order of sources, and which of them rest. From any thread.

    Args:
        names: in order of preference.
        now_s: any clock in seconds that only rises.
    """

    def __init__(self, names: Sequence[str], now_s: Callable[[], float]) -> None:
        self._names, self._now_s = tuple(names), now_s
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}
        self._rests_until_s: dict[str, float] = {}

    def order(self) -> list[str]:
        """Return every name: those awake as configured, then those resting, the soonest awake first."""
        with self._lock:
            now_s = self._now_s()
            resting = {name: until for name, until in self._rests_until_s.items() if until > now_s}
        return sorted(self._names, key=lambda name: resting.get(name, 0.0))  # stable: the awake keep their order

    def failed(self, name: str) -> None:
        """Let a source rest: it brought nothing."""
        with self._lock:
            tries = self._failures[name] = self._failures.get(name, 0) + 1
            self._rests_until_s[name] = self._now_s() + REST.delay_s(tries, 1.0)

    def worked(self, name: str) -> None:
        """Forget a source's failures: it brought something."""
        with self._lock:
            self._failures.pop(name, None)
            self._rests_until_s.pop(name, None)


class InTurn:
    """A ``Source`` made of several.

    Args:
        sources: by the names that ``turns`` orders; there is at least one.
        turns: the order.
    """

    def __init__(self, sources: Mapping[str, Source], turns: Turns) -> None:
        self._sources, self._turns = dict(sources), turns

    @contextlib.contextmanager
    def open(self, url: str, offset: int, etag: str) -> Iterator[Answer]:
        """Ask one after the other until one has the file; see ``Source.open``.

        Raises:
            TryAgain: what the first of them met, where none has it.
        """
        met: TryAgain | Answer | None = None
        for name in self._turns.order():
            with contextlib.ExitStack() as opened:
                try:
                    answer = opened.enter_context(self._sources[name].open(url, offset, etag))
                except TryAgain as error:
                    self._turns.failed(name)
                    met = met or error
                    continue
                if answer.status in _USEFUL and not answer.is_page:
                    yield replace(answer, chunks=self._watched(name, answer.chunks))
                    return
                if answer.status in _BUSY and answer.retry_after_s is not None and not answer.is_page:
                    yield answer
                    return
                if answer.status not in _ABSENT:
                    self._turns.failed(name)
                met = met or replace(answer, chunks=iter(()))
        if isinstance(met, Answer):
            yield met
            return
        assert met is not None  # there is a source, and it either answers or raises
        raise met

    def _watched(self, name: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield what one source brings, keeping its record."""
        brought = False
        try:
            for chunk in chunks:
                if not brought:
                    brought = True
                    self._turns.worked(name)
                yield chunk
                if self._turns.order()[0] != name:
                    raise TryAgain(
                        f"The file goes on from another source than {name}.",
                        code="SOURCE_CHANGE",
                        remedy="Nothing needs to be done.",
                    )
        except TryAgain as error:
            if not brought or error.code == "ANSWER_SLOW":
                self._turns.failed(name)
            raise
