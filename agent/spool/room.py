"""Making room in a full spool: merge neighbouring unsent windows, and only then drop, and count what was dropped."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import pairwise

import msgspec

from agent.spool.file import Db
from bundles.errors import MessageRefused
from bundles.sketch.form import Window
from bundles.wire import topics

MAX_BYTES = 8 * 1024 * 1024
ROW_OVERHEAD_BYTES = 64
"""What a row costs beside its body: keys, times, the table's own structure."""
MAX_MERGED_SPAN_MS = 24 * 3_600_000
ROOM_RATIO = 0.9
"""A full spool is emptied to this share of its bytes, so that not every row added to it has to make room."""


def pack_window(window: Window) -> bytes:
    """Return a window as an unsent row keeps it."""
    return zlib.compress(msgspec.msgpack.encode(window), 6)


def unpack_window(body: bytes) -> Window:
    """Read what ``pack_window`` wrote."""
    return msgspec.msgpack.decode(zlib.decompress(body), type=Window)


def merge_key(window: Window) -> str:
    """Return what two windows must share to be merged: gates and roll-ups are by bundle and variant."""
    return "\n".join((window.model, window.bundle_sha256, window.variant, window.baseline_id, window.stage))


class Room:
    """The bound of one spool."""

    def __init__(self, max_bytes: int, merge: Callable[[Window, Window], Window]) -> None:
        self._max_bytes = max_bytes
        self._merge = merge

    def taken(self, db: Db) -> int:
        """Return the bytes that all rows cost."""
        return int(db.value("SELECT (SELECT TOTAL(size) FROM waiting) + (SELECT TOTAL(size) FROM sent)"))

    def make(self, db: Db, needed: int) -> None:
        """Merge, then drop, until ``needed`` more bytes fit."""
        taken = self.taken(db)
        excess = taken + needed - self._max_bytes
        if excess <= 0:
            return
        excess = taken + needed - int(self._max_bytes * ROOM_RATIO)
        excess -= self._merge_neighbours(db, excess)
        # A row that was sent may well have arrived, so it goes first; events go last.
        for table, key, leaf in (
            ("sent", "seq", topics.UP_TELEMETRY),
            ("waiting", "id", topics.UP_TELEMETRY),
            ("waiting", "id", topics.UP_EVENT),
            ("sent", "seq", topics.UP_EVENT),
        ):
            if excess <= 0:
                return
            excess -= _drop_oldest(db, table, key, leaf, excess)

    def _merge_neighbours(self, db: Db, excess: int) -> int:
        """Merge unsent windows pairwise, shortest spans first, until ``excess`` bytes are free; return those freed."""
        freed, merged = 0, True
        while freed < excess and merged:
            merged = False
            windows = db.execute(
                "SELECT merge_key, start_ms, end_ms, id FROM waiting WHERE merge_key <> '' ORDER BY merge_key, start_ms"
            ).fetchall()
            pairs = [(b[2] - a[1], a[3], b[3]) for a, b in pairwise(windows) if a[0] == b[0]]
            taken: set[int] = set()
            for span, first, second in sorted(pairs):
                if freed >= excess or span > MAX_MERGED_SPAN_MS:
                    break
                if not taken & {first, second}:
                    taken |= {first, second}
                    freed += self._merge_pair(db, first, second)
                    merged = True
        return freed

    def _merge_pair(self, db: Db, first: int, second: int) -> int:
        (body_a, size_a), (body_b, size_b) = (
            db.execute("SELECT body, size FROM waiting WHERE id = ?", (row_id,)).fetchone()
            for row_id in (first, second)
        )
        try:
            window = self._merge(unpack_window(body_a), unpack_window(body_b))
        except MessageRefused:
            # Whatever kept them apart, it must not be tried again at every full spool.
            db.execute("UPDATE waiting SET merge_key = '' WHERE id = ?", (second,))
            return 0
        body = pack_window(window)
        size = len(body) + ROW_OVERHEAD_BYTES
        db.execute(
            "UPDATE waiting SET body = ?, size = ?, start_ms = ?, end_ms = ? WHERE id = ?",
            (body, size, window.start_ms, window.end_ms, first),
        )
        db.execute("DELETE FROM waiting WHERE id = ?", (second,))
        return int(size_a) + int(size_b) - size


def _drop_oldest(db: Db, table: str, key: str, leaf: str, excess: int) -> int:
    """Drop the oldest rows of one kind until ``excess`` bytes are free; return the bytes freed."""
    freed = rows = samples = 0
    body = "payload" if table == "sent" else "body"
    for number, size in db.execute(
        f"SELECT {key}, size FROM {table} WHERE leaf = ? AND NOT is_kept ORDER BY {key}", (leaf,)
    ).fetchall():
        if freed >= excess:
            break
        if table == "sent":
            db.execute("INSERT OR IGNORE INTO dropped VALUES (?, 0)", (number,))
        elif leaf == topics.UP_TELEMETRY:
            (content,) = db.execute(f"SELECT {body} FROM {table} WHERE {key} = ?", (number,)).fetchone()
            window = unpack_window(content)
            samples += window.ok + sum(window.errors.values()) + sum(window.rejects.values())
        db.execute(f"DELETE FROM {table} WHERE {key} = ?", (number,))
        freed += size
        rows += 1
    db.add_tally("dropped", rows)
    db.add_tally("dropped_samples", samples)
    if table == "waiting":
        db.add_tally("undeclared", rows)
        db.add_tally("undeclared_samples", samples)
    return freed
