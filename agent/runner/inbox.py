"""Desired documents on their way in: judged one at a time in the order they came, none lost, none twice.

A push and the answer to a poll may cross: the answer was made before the push and arrives after it, while the push
still waits. So what waits is a line, not the last one in. Leaves the judgement to trust and what follows to the device.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from agent.runner.schedule import Schedule
from bundles.digest import sha256_hex
from bundles.errors import TryAgain, WavegateError
from bundles.wire.messages import Desired

_log = logging.getLogger(__name__)
MAX_WAITING = 4
"""More than a server and a broker have on the way at once; of a flood the newest stay."""


class Inbox:
    """The line of documents of one device. On the schedule's line only.

    Args:
        schedule: the line, and the background that judges.
        accept: trust's judgement, in the background; see ``Assurance.accept``.
        judged: told after each judgement, before the others: the document or what it was refused with.
        taken: told of an accepted document.
        refused: (digest, refusal) of one that trust refuses for good.
        later: runs a call after the pause for what cannot be judged yet.
    """

    def __init__(
        self,
        schedule: Schedule,
        accept: Callable[[bytes], Desired],
        judged: Callable[[Desired | BaseException], None],
        taken: Callable[[Desired], None],
        refused: Callable[[str, WavegateError], None],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self._schedule, self._accept = schedule, accept
        self._judged, self._on_taken, self._on_refused, self._later = judged, taken, refused, later
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=MAX_WAITING)
        self._at_work = self._taken = ""
        self.is_closed = False

    def put(self, data: bytes) -> None:
        """Have a document judged; one that is in force, at work or in line already is no news."""
        digest = sha256_hex(data)
        if digest not in (self._taken, self._at_work, *(waiting for waiting, _ in self._waiting)):
            self._waiting.append((digest, data))
            self._next()

    def _next(self) -> None:
        if self._at_work or self.is_closed or not self._waiting:
            return
        digest, data = self._waiting.popleft()
        self._at_work = digest
        self._schedule.background(lambda: self._accept(data), lambda found: self._done(digest, data, found))

    def _done(self, digest: str, data: bytes, found: Desired | BaseException) -> None:
        self._at_work = ""
        if self.is_closed:
            return
        self._judged(found)
        if isinstance(found, Desired):
            self._taken = digest
            self._on_taken(found)
        elif isinstance(found, WavegateError) and not isinstance(found, TryAgain):
            self._on_refused(digest, found)
        else:
            is_known = isinstance(found, TryAgain | OSError)
            level = logging.INFO if is_known else logging.ERROR
            _log.log(
                level, "the desired document cannot be judged yet: %s", found, exc_info=None if is_known else found
            )
            if not self._waiting:
                self._later(lambda: self.put(data))
        self._next()
