"""Tells devices what they are asked, until they have answered or it has expired. Level-triggered: rows are the truth.

A message of the broker's expires when the next one is due: a device that was away for a day comes back to one of them,
and not to all. Devices that poll ask by themselves. Ends what nobody answered, and keeps support bundles within bounds.
"""

from __future__ import annotations

from collections.abc import Callable

from bundles.wire import commands as wire
from control_plane.broker.connection import Teller
from control_plane.db.engine import Database
from control_plane.services import commands, diagnoses
from control_plane.services.diagnoses import KEEPING, Keeping

BATCH = 200
AGAIN_S = 30.0


class CommandPublisher:
    """Publishes commands and ends those nobody answered.

    Args:
        db: the database.
        teller: connection to the broker; None where there is none.
        now_ms: server clock.
        again_s: pause between two tellings of a command.
        keeping: which support bundles are kept.
    """

    def __init__(
        self,
        db: Database,
        teller: Teller | None,
        now_ms: Callable[[], int],
        again_s: float = AGAIN_S,
        keeping: Keeping = KEEPING,
    ) -> None:
        self._db, self._teller, self._now_ms = db, teller, now_ms
        self._again_ms, self._keeping = round(again_s * 1000), keeping

    def round(self) -> None:
        """Do what is due."""
        now_ms = self._now_ms()
        with self._db.read() as session:
            has_expired = commands.has_expired(session, now_ms)
            has_excess = diagnoses.has_excess(session, self._keeping, now_ms)
            due = commands.untold(session, now_ms, self._again_ms, BATCH)
        if has_expired or has_excess:
            with self._db.write() as session:
                commands.expire(session, now_ms)
                diagnoses.tidy(session, self._keeping, now_ms)
        if self._teller is None or not self._teller.is_connected or not due:
            return
        told = []
        for device, command in due:
            expiry_s = max(1, min(command.expires_ms - now_ms, self._again_ms) // 1000)
            leaf, payload = wire.down_leaf(command.id), wire.encode(command)
            if self._teller.publish(device, leaf, payload, retain=False, expiry_s=expiry_s) is None:
                break
            told.append(command.id)
        with self._db.write() as session:
            commands.mark_told(session, told, now_ms)
