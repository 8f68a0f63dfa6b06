"""Keeps the broker's revocation list in force: written at the start, after every revocation and daily; sessions ended.

An expired list would refuse every device; ``control_plane.readiness`` tells how long it is good for. Level-triggered:
what is revoked and not yet told is in the database, and stays there until the list is written, read by the broker, and
the sessions are gone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from bundles.errors import TryAgain
from control_plane.db.engine import Database
from control_plane.identity.authority import Authority
from control_plane.services import certificates

DAY_MS = 24 * 3_600_000

log = structlog.get_logger()


class Revocations:
    """The worker.

    Args:
        db: the database.
        authority: the device CA.
        path: where the broker reads the list.
        reload: makes the broker read it; may raise ``TryAgain``.
        evict: ends the session of a device; may raise ``TryAgain``.
        now_ms: server clock.
    """

    def __init__(
        self,
        db: Database,
        authority: Authority,
        path: Path,
        reload: Callable[[], None],
        evict: Callable[[str], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._db, self._authority, self._path = db, authority, path
        self._reload, self._evict, self._now_ms = reload, evict, now_ms
        self._written_ms: int | None = None

    def write(self) -> None:
        """Write the list anew, whole: the broker never reads half of one."""
        now_ms = self._now_ms()
        with self._db.read() as session:
            serials = certificates.revoked_serials(session, now_ms)
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(self._authority.revocation_list(serials, now_ms))
        fresh.replace(self._path)
        self._written_ms = now_ms

    def round(self) -> None:
        """Tell the broker what is new, and end the sessions of who is revoked; once a day tell it all again."""
        with self._db.read() as session:
            waiting = certificates.unlisted(session)
        is_due = self._written_ms is None or self._now_ms() - self._written_ms >= DAY_MS
        if not waiting and not is_due:
            return
        self.write()
        try:
            self._reload()
        except TryAgain as error:
            log.warning("revocations_not_read", reason=str(error))
            self._written_ms = None  # the next round tries it again
            return
        for one in waiting:
            try:
                self._evict(one.device)
            except TryAgain as error:
                log.warning("session_not_ended", device=one.device, reason=str(error))
                continue  # it stays unlisted, and is tried again in the next round
            with self._db.write() as session:
                certificates.listed(session, one.serials, self._now_ms())
            log.info("session_ended", device=one.device, certificates=len(one.serials))
