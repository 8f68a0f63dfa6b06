"""The offline queue of what must reach the control plane exactly once: events and telemetry windows.

SQLite in WAL mode with synchronous FULL, bounded by bytes. Leaves sending to the transports and merging of windows to
``bundles.sketch``. Rules (design page 05):

* ``boot_epoch`` is 64 random bits made with the file. ``seq`` is given at a row's first send, and the row is durably
  marked sent, with its exact bytes, *before* it is handed out.
* A sent row is handed out again, byte for byte, after 30 s backing off to 5 min, until the application ack.
* Only windows that were never sent may merge; when the spool is full, neighbours merge (exactly) before anything is
  dropped. Events go last.
* What is dropped is counted and declared: events of kind ``spool_dropped`` name the sequence ranges of dropped rows
  that had been sent (so that the control plane's watermark can pass them) and count the rest.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agent.spool.file import Db, SpoolFile
from agent.spool.room import MAX_BYTES, ROW_OVERHEAD_BYTES, Room, merge_key, pack_window, unpack_window
from bundles.errors import MessageRefused
from bundles.sketch.form import Window
from bundles.sketch.merge import merge_windows
from bundles.wire import codec, topics
from bundles.wire.messages import Ack, Event, Telemetry

RESEND_MS = 30_000
RESEND_MAX_MS = 300_000
MAX_UNACKED = 256
"""Rows sent and not acked. The rest stays unsent, where it can still merge."""
DROPPED_EVENT = "spool_dropped"
MAX_BODY_BYTES = codec.MAX_PAYLOAD_BYTES - 1024
"""Leaves room for device, epoch and sequence number around the body."""


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
        bytes: their cost against the bound.
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
            max_bytes: bound of all bodies and their overhead.
            merge: adds two windows of one baseline.
            new_epoch: returns 16 random hex digits.

        Raises:
            TryAgain: ``DISK_FULL`` or ``SPOOL_IO``.
            AskPerson: ``SPOOL_VERSION``: a later agent wrote it.
        """
        self._device = device
        self._file = SpoolFile(path)
        self._room = Room(max_bytes, merge)
        with self._file.transaction() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('boot_epoch', ?)", (new_epoch(),))
            # Nobody knows what became of what was sent before this start: it is due again.
            db.execute("UPDATE sent SET due_ms = 0")
            self.boot_epoch = str(db.value("SELECT value FROM meta WHERE key = 'boot_epoch'"))

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
    ) -> None:
        """Queue an event; fields as in ``bundles.wire.messages.Event``.

        Raises:
            TryAgain: ``DISK_FULL`` or ``SPOOL_IO``; nothing is lost but this event.
            MessageRefused: ``MESSAGE_TOO_LARGE``.
        """
        event = Event(self._device, "", 0, "", at_ms, kind, model, sha256, gen, code, detail, data or {})
        body = codec.encode(event)
        _check_size(body)
        with self._file.transaction() as db:
            self._room.make(db, len(body) + ROW_OVERHEAD_BYTES)
            _insert_waiting(db, topics.UP_EVENT, body)

    def add_window(self, window: Window) -> None:
        """Queue a telemetry window.

        Raises:
            TryAgain: ``DISK_FULL`` or ``SPOOL_IO``; nothing is lost but this window.
            MessageRefused: ``MESSAGE_TOO_LARGE``.
        """
        body = pack_window(window)
        _check_size(body)
        with self._file.transaction() as db:
            self._room.make(db, len(body) + ROW_OVERHEAD_BYTES)
            _insert_waiting(db, topics.UP_TELEMETRY, body, window)

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
        with self._file.transaction() as db:
            due = db.execute(
                "SELECT seq, leaf, payload, sends FROM sent WHERE due_ms <= ? OR due_ms > ? ORDER BY seq LIMIT ?",
                (now_ms, now_ms + RESEND_MAX_MS, limit),
            ).fetchall()
            for seq, _, _, sends in due:
                wait = min(RESEND_MAX_MS, RESEND_MS << min(sends, 8))
                db.execute("UPDATE sent SET sends = ?, due_ms = ? WHERE seq = ?", (sends + 1, now_ms + wait, seq))
            room = min(limit - len(due), MAX_UNACKED - int(db.value("SELECT COUNT(*) FROM sent")))
            if room > 0:
                self._declare_drops(db, now_ms)
            fresh = db.execute(
                "SELECT id, leaf, body FROM waiting ORDER BY is_kept DESC, leaf <> ?, id LIMIT ?",
                (topics.UP_EVENT, max(0, room)),
            ).fetchall()
            rows = [SpoolRow(seq, leaf, payload) for seq, leaf, payload, _ in due]
            rows += [self._first_send(db, row_id, leaf, body, now_ms) for row_id, leaf, body in fresh]
        return rows

    def acked(self, ack: Ack) -> int:
        """Delete what the control plane has stored; make due at once what it misses. Returns how many rows went.

        An ack for another epoch changes nothing.

        Raises:
            TryAgain: ``DISK_FULL`` or ``SPOOL_IO``.
        """
        if ack.boot_epoch != self.boot_epoch:
            return 0
        missing = set(ack.missing)
        with self._file.transaction() as db:
            stored = {seq for (seq,) in db.execute("SELECT seq FROM sent WHERE seq <= ?", (ack.upto_seq,))} | set(
                ack.also
            )
            gone = 0
            for seq in stored - missing:
                gone += db.execute("DELETE FROM sent WHERE seq = ?", (seq,)).rowcount
            db.execute("DELETE FROM dropped WHERE seq <= ?", (ack.upto_seq,))
            last = db.value("SELECT seq FROM sqlite_sequence WHERE name = 'sent'") or 0
            for seq in missing:
                is_held = db.execute("UPDATE sent SET due_ms = 0 WHERE seq = ?", (seq,)).rowcount
                if not is_held and ack.upto_seq < seq <= int(last):
                    # Acked once and lost by the control plane, or dropped here: say that it will not come.
                    db.execute("INSERT OR IGNORE INTO dropped VALUES (?, 0)", (seq,))
        return gone

    def status(self) -> SpoolStatus:
        """Return how full the spool is."""
        with self._file.transaction() as db:
            unsent = int(db.value("SELECT COUNT(*) FROM waiting"))
            sent = int(db.value("SELECT COUNT(*) FROM sent"))
            return SpoolStatus(
                sent + unsent, unsent, self._room.taken(db), db.tally("dropped"), db.tally("dropped_samples")
            )

    # --- inner parts ---

    def _first_send(self, db: Db, row_id: int, leaf: str, body: bytes, now_ms: int) -> SpoolRow:
        cursor = db.execute(
            "INSERT INTO sent (leaf, payload, size, sends, due_ms) VALUES (?, x'', 0, 1, ?)", (leaf, now_ms + RESEND_MS)
        )
        seq = int(cursor.lastrowid or 0)
        payload = self._payload(row_id, leaf, body, seq, now_ms)
        size = len(payload) + ROW_OVERHEAD_BYTES
        db.execute(
            "UPDATE sent SET payload = ?, size = ?, is_kept = (SELECT is_kept FROM waiting WHERE id = ?) WHERE seq = ?",
            (payload, size, row_id, seq),
        )
        db.execute("DELETE FROM waiting WHERE id = ?", (row_id,))
        return SpoolRow(seq, leaf, payload)

    def _payload(self, row_id: int, leaf: str, body: bytes, seq: int, now_ms: int) -> bytes:
        if leaf == topics.UP_TELEMETRY:
            window = unpack_window(body)
            return codec.encode(Telemetry(self._device, self.boot_epoch, seq, now_ms, window))
        event = msgspec.json.decode(body, type=Event)
        event_id = f"{self.boot_epoch}.{row_id}"
        return codec.encode(
            msgspec.structs.replace(event, boot_epoch=self.boot_epoch, seq=seq, event_id=event_id, device=self._device)
        )

    def _declare_drops(self, db: Db, now_ms: int) -> None:
        """Queue an event for each run of dropped sequence numbers, and one for what was dropped unsent."""
        seqs = [seq for (seq,) in db.execute("SELECT seq FROM dropped WHERE NOT is_declared ORDER BY seq")]
        unsent, samples = db.tally("undeclared"), db.tally("undeclared_samples")
        if not seqs and not unsent:
            return
        runs: list[tuple[int, int]] = []
        for seq in seqs:
            if runs and seq == sum(runs[-1]):
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((seq, 1))
        for seq, n in runs or [(0, 0)]:
            data = {"boot_epoch": self.boot_epoch, "seq": seq, "n": n, "unsent": unsent, "samples": samples}
            event = Event(self._device, "", 0, "", now_ms, DROPPED_EVENT, code="SPOOL_FULL", data=data)
            _insert_waiting(db, topics.UP_EVENT, codec.encode(event), is_kept=True)
            unsent = samples = 0
        db.execute("UPDATE dropped SET is_declared = 1")
        db.execute("DELETE FROM meta WHERE key IN ('undeclared', 'undeclared_samples')")


def _insert_waiting(db: Db, leaf: str, body: bytes, window: Window | None = None, *, is_kept: bool = False) -> None:
    key, span = (merge_key(window), (window.start_ms, window.end_ms)) if window else ("", (0, 0))
    db.execute(
        "INSERT INTO waiting (leaf, body, size, is_kept, merge_key, start_ms, end_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (leaf, body, len(body) + ROW_OVERHEAD_BYTES, is_kept, key, *span),
    )


def _check_size(body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES:
        raise MessageRefused(
            f"The message has {len(body)} bytes; {MAX_BODY_BYTES} is the limit.",
            code="MESSAGE_TOO_LARGE",
            remedy="Report more often, or fewer columns.",
        )
