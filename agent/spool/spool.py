"""The offline queue of what must reach the control plane exactly once: events and telemetry windows.

SQLite in WAL mode with synchronous FULL, bounded by the bytes it takes on disk. Leaves sending to the transports,
making room to ``room`` and merging of windows to ``bundles.sketch``. Rules (design page 05):

* ``boot_epoch`` is 64 random bits made with the file. ``seq`` is given at a row's first send, and the row is durably
  marked sent, with its exact bytes, *before* it is handed out.
* A sent row is handed out again, byte for byte, after 30 s backing off to 5 min, until the application ack.
* Only windows that were never sent may merge; when the spool is full, neighbours merge (exactly) before anything is
  dropped. Events go last.
* What is dropped is counted and declared: events of kind ``spool_dropped`` name the sequence ranges of dropped rows
  that had been sent, with the requests each row counted (so that the control plane's watermark can pass them, and so
  that they are subtracted only where they never arrived), and count the rest.
* A damaged file is set aside and begun anew under a new epoch, and an event ``degraded`` says so. What the disk has no
  room for is counted: an event as dropped; a window waits in memory, merged with those after it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agent.spool.file import Damaged, Db, SpoolFile
from agent.spool.room import (
    MAX_BODY_BYTES,
    MAX_BYTES,
    ROW_OVERHEAD_BYTES,
    UNREADABLE,
    Room,
    count_dropped,
    delete_waiting,
    drop_sent,
    insert_waiting,
    merge_key,
    pack_window,
    samples_of,
    unpack_window,
)
from agent.spool.settling import is_row, take_ack, tell_of_itself
from bundles.errors import MessageRefused, TryAgain
from bundles.sketch.form import Window
from bundles.sketch.merge import merge_windows
from bundles.wire import codec, topics
from bundles.wire.messages import Ack, Event, Telemetry

_log = logging.getLogger(__name__)

RESEND_MS = 30_000
RESEND_MAX_MS = 300_000
MAX_UNACKED = 256
"""Rows sent and not acked. The rest stays unsent, where it can still merge."""
MAX_BATCH_BYTES = 512 * 1024
"""Of one batch: it goes through the write-ahead log, and over HTTPS as one body of at most 4 MiB."""
MAX_HELD = 8
"""Windows kept in memory, of so many bundles and variants, while the disk takes nothing."""
EPOCH_DIGITS = 16
NO_EPOCH = "0" * EPOCH_DIGITS


@dataclass(frozen=True)
class SpoolRow:
    """One row to send now.

    Attributes:
        seq: its sequence number, for ever.
        leaf: topic leaf, ``up/event`` or ``up/tel``.
        payload: its exact bytes, for ever.
    """

    seq: int
    leaf: str
    payload: bytes


@dataclass(frozen=True)
class SpoolStatus:
    """How full the spool is.

    Attributes:
        pending: rows waiting for an application ack, sent or not.
        unsent: of those, rows never sent.
        bytes: what the file's pages in use take on disk.
        dropped: rows dropped for lack of room, ever.
        dropped_samples: requests counted in dropped windows, ever.
    """

    pending: int
    unsent: int
    bytes: int
    dropped: int
    dropped_samples: int


class Spool:
    """One device's spool. Safe to use from several threads; every call that changes it is durable on return."""

    def __init__(
        self,
        path: Path | str,
        device: str,
        *,
        max_bytes: int = MAX_BYTES,
        merge: Callable[[Window, Window], Window] = merge_windows,
        new_epoch: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """Open the spool, or make it.

        Args:
            path: the file, or ``:memory:`` for a device that keeps nothing.
            device: id written into every message.
            max_bytes: bound of what is taken on disk, log included; 64 KiB at least.
            merge: adds two windows of one baseline.
            new_epoch: returns 16 random hex digits.

        A file that cannot be opened now is tried again at each call.

        Raises:
            AskPerson: ``SPOOL_VERSION``: a later agent wrote it.
        """
        self._device, self._merge, self._new_epoch = device, merge, new_epoch
        self._room = Room(max_bytes, merge)
        self._lost_rows = self._lost_samples = 0
        self._held: dict[str, tuple[Window, tuple[int, int]]] = {}
        self._epoch = ""
        self._file = SpoolFile(path, self._begin)
        try:
            self._file.do(lambda _db: None)
        except TryAgain as error:
            _log.warning("the spool cannot be opened now: %s", error)

    @property
    def boot_epoch(self) -> str:
        """The epoch of the file; it changes where a damaged one is begun anew."""
        return self._epoch or self._file.marked()[0] or NO_EPOCH

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # --- adding ---

    def add_event(
        self,
        kind: str,
        *,
        at_ms: int,
        model: str = "",
        sha256: str = "",
        gen: int = 0,
        code: str = "",
        detail: str = "",
        data: dict[str, Any] | None = None,
        moment: tuple[int, int] = (0, 0),
    ) -> None:
        """Queue an event; fields as in ``bundles.wire.messages.Event``, ``moment`` is its session and uptime (ms).

        Raises:
            TryAgain: ``DISK_FULL`` or ``SPOOL_IO``; nothing is lost but this event, and it is counted as dropped.
            MessageRefused: ``MESSAGE_TOO_LARGE``; counted likewise.
        """
        event = Event(self._device, "", 0, "", at_ms, kind, model, sha256, gen, code, detail, data or {}, *moment)
        body = codec.encode(event)
        try:
            _check_size(body)
            self._file.do(lambda db: self._add(db, topics.UP_EVENT, body))
        except (TryAgain, MessageRefused):
            self._lost_rows += 1
            raise

    def add_window(self, window: Window, moment: tuple[int, int] = (0, 0)) -> None:
        """Queue a telemetry window; ``moment`` is session and uptime (ms) of its end.

        Raises:
            TryAgain: ``DISK_FULL`` or ``SPOOL_IO``; the window waits in memory for the next one that finds room.
            MessageRefused: ``MESSAGE_TOO_LARGE``; counted as dropped.
        """
        body = pack_window(window)
        try:
            _check_size(body)
            self._keep_held()
            self._file.do(lambda db: self._add(db, topics.UP_TELEMETRY, body, window, moment))
        except MessageRefused:
            self._lose(window)
            raise
        except TryAgain:
            self._hold(window, moment)
            raise

    def _keep_held(self) -> None:
        """Write the windows that waited in memory, merged.

        Raises:
            TryAgain: the disk still takes nothing.
        """
        for key, (window, moment) in list(self._held.items()):
            body = pack_window(window)
            if len(body) > MAX_BODY_BYTES:
                self._lose(window)
            else:
                self._file.do(lambda db, b=body, w=window, m=moment: self._add(db, topics.UP_TELEMETRY, b, w, m))  # type: ignore[misc]
            del self._held[key]

    def _hold(self, window: Window, moment: tuple[int, int]) -> None:
        key = merge_key(window)
        if key not in self._held and len(self._held) >= MAX_HELD:
            self._lose(window)
            return
        try:
            held = self._held.get(key)
            self._held[key] = (self._merge(held[0], window) if held else window, moment)
        except MessageRefused:
            self._lose(window)

    def _lose(self, window: Window) -> None:
        self._lost_rows += 1
        self._lost_samples += samples_of(window)

    def _add(
        self, db: Db, leaf: str, body: bytes, window: Window | None = None, moment: tuple[int, int] = (0, 0)
    ) -> None:
        self._room.make(db, len(body) + ROW_OVERHEAD_BYTES)
        insert_waiting(db, leaf, body, window, moment=moment)

    # --- sending ---

    def next_batch(self, now_ms: int, limit: int = 64) -> list[SpoolRow]:
        """Return rows to send now: first those due again, then new ones, events before windows.

        Every row returned has its number and bytes durably before this returns.

        Args:
            now_ms: UTC epoch milliseconds; a clock that was set back does not hold rows for longer than 5 min.
            limit: rows at most.

        Raises:
            TryAgain: ``DISK_FULL`` or ``SPOOL_IO``.
        """
        try:
            self._keep_held()
        except TryAgain as error:
            _log.info("windows still wait in memory: %s", error)
        lost = (self._lost_rows, self._lost_samples)
        rows = self._file.do(lambda db: self._batch(db, now_ms, limit, lost))
        self._lost_rows, self._lost_samples = self._lost_rows - lost[0], self._lost_samples - lost[1]
        if rows:
            self._file.mark(self._epoch, max(row.seq for row in rows))
        return rows

    def _batch(self, db: Db, now_ms: int, limit: int, lost: tuple[int, int]) -> list[SpoolRow]:
        count_dropped(db, *lost)
        rows: list[SpoolRow] = []
        left = MAX_BATCH_BYTES
        due = db.execute(
            "SELECT seq, leaf, payload, sends FROM sent WHERE due_ms <= ? OR due_ms > ? ORDER BY seq LIMIT ?",
            (now_ms, now_ms + RESEND_MAX_MS, limit),
        ).fetchall()
        for seq, leaf, payload, sends in due:
            if not is_row(leaf, payload, self._epoch, seq):
                drop_sent(db, seq, leaf, b"")
                continue
            if rows and len(payload) > left:
                break
            wait = min(RESEND_MAX_MS, RESEND_MS << min(sends, 8))
            db.execute("UPDATE sent SET sends = ?, due_ms = ? WHERE seq = ?", (sends + 1, now_ms + wait, seq))
            rows.append(SpoolRow(seq, leaf, payload))
            left -= len(payload)
        room = min(limit - len(rows), MAX_UNACKED - int(db.value("SELECT COUNT(*) FROM sent")))
        if room > 0:
            tell_of_itself(db, self._device, self._epoch, now_ms)
        fresh = [
            row_id
            for (row_id,) in db.execute(
                "SELECT id FROM waiting ORDER BY is_kept DESC, leaf <> ?, id LIMIT ?", (topics.UP_EVENT, max(0, room))
            ).fetchall()
        ]
        for row_id in fresh:
            leaf, size = db.execute("SELECT leaf, size FROM waiting WHERE id = ?", (row_id,)).fetchone()
            if rows and size > left:
                break
            (body,) = db.execute("SELECT body FROM waiting WHERE id = ?", (row_id,)).fetchone()
            row = self._first_send(db, row_id, leaf, body, now_ms)
            if row is not None:
                rows.append(row)
                left -= len(row.payload)
        return rows

    def acked(self, ack: Ack) -> int:
        """Delete what the control plane has stored; make due at once what it misses. Returns how many rows went.

        An ack for another epoch changes nothing.

        Raises:
            TryAgain: ``DISK_FULL`` or ``SPOOL_IO``.
        """
        if ack.boot_epoch != self.boot_epoch:
            return 0
        return self._file.do(lambda db: take_ack(db, ack))

    def status(self) -> SpoolStatus:
        """Return how full the spool is."""
        unsent, sent, used, dropped, samples = self._file.do(
            lambda db: (
                int(db.value("SELECT COUNT(*) FROM waiting")),
                int(db.value("SELECT COUNT(*) FROM sent")),
                db.used_bytes(),
                db.tally("dropped"),
                db.tally("dropped_samples"),
            )
        )
        unsent += len(self._held)
        return SpoolStatus(sent + unsent, unsent, used, dropped + self._lost_rows, samples + self._lost_samples)

    # --- inner parts ---

    def _begin(self, db: Db, damage: str) -> str:
        db.execute("INSERT OR IGNORE INTO meta VALUES ('boot_epoch', ?)", (self._new_epoch(),))
        epoch = str(db.value("SELECT value FROM meta WHERE key = 'boot_epoch'"))
        if len(epoch) != EPOCH_DIGITS:
            raise Damaged("its epoch cannot be read")
        # Nobody knows what became of what was sent before this start: it is due again.
        db.execute("UPDATE sent SET due_ms = 0")
        if damage:
            _log.error("the spool is begun anew: %s", damage)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('damage', ?)", (damage,))
        self._epoch = epoch
        return epoch

    def _first_send(self, db: Db, row_id: int, leaf: str, body: bytes, now_ms: int) -> SpoolRow | None:
        cursor = db.execute(
            "INSERT INTO sent (leaf, payload, size, sends, due_ms) VALUES (?, x'', 0, 1, ?)", (leaf, now_ms + RESEND_MS)
        )
        seq = int(cursor.lastrowid or 0)
        try:
            payload = self._payload(db, row_id, leaf, body, seq, now_ms)
        except UNREADABLE:  # the disk has changed it: its number is declared, so that nothing waits for it
            drop_sent(db, seq, leaf, b"")
            delete_waiting(db, row_id)
            return None
        db.execute(
            "UPDATE sent SET payload = ?, size = ?, is_kept = (SELECT is_kept FROM waiting WHERE id = ?) WHERE seq = ?",
            (payload, len(payload) + ROW_OVERHEAD_BYTES, row_id, seq),
        )
        delete_waiting(db, row_id)
        return SpoolRow(seq, leaf, payload)

    def _payload(self, db: Db, row_id: int, leaf: str, body: bytes, seq: int, now_ms: int) -> bytes:
        if leaf == topics.UP_TELEMETRY:
            window = unpack_window(body)
            found = db.execute("SELECT session, uptime_ms FROM moment WHERE id = ?", (row_id,)).fetchone()
            return codec.encode(Telemetry(self._device, self._epoch, seq, now_ms, window, *(found or (0, 0))))
        event = msgspec.json.decode(body, type=Event)
        event_id = f"{self._epoch}.{row_id}"
        return codec.encode(
            msgspec.structs.replace(event, boot_epoch=self._epoch, seq=seq, event_id=event_id, device=self._device)
        )


def _check_size(body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES:
        raise MessageRefused(
            f"The message has {len(body)} bytes; {MAX_BODY_BYTES} is the limit.",
            code="MESSAGE_TOO_LARGE",
            remedy="Report more often, or fewer columns.",
        )
