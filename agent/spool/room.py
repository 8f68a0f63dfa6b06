"""Making room in a full spool: merge neighbouring unsent windows, and only then drop, and count what was dropped."""

from __future__ import annotations

import contextlib
import heapq
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise

import msgspec

from agent.spool.file import WAL_BYTES, Db
from bundles.digest import sha256_hex
from bundles.errors import MessageRefused
from bundles.sketch.form import Window
from bundles.wire import codec, topics
from bundles.wire.messages import Telemetry

MAX_BYTES = 8 * 1024 * 1024
LEAST_BYTES = 64 * 1024
"""An empty file takes about half of this."""
ROW_OVERHEAD_BYTES = 64
"""What a row costs beside its body: keys, times, the table's own structure."""
MAX_MERGED_SPAN_MS = 24 * 3_600_000
STEP_BYTES = 64 * 1024
"""So much more than needed is made free in a full spool, so that not every row added to it has to make room; no more,
because what one transaction changes lies in the write-ahead log too."""
MERGES_A_LOOK = 128
MAX_BODY_BYTES = codec.MAX_PAYLOAD_BYTES - 1024
"""Leaves room for device, epoch and sequence number around the body."""
UNREADABLE = (zlib.error, msgspec.DecodeError, UnicodeDecodeError)
"""What reading a row raises whose bytes are not what was written."""


def pack_window(window: Window) -> bytes:
    """Return a window as an unsent row keeps it."""
    return zlib.compress(msgspec.msgpack.encode(window), 6)


def unpack_window(body: bytes) -> Window:
    """Read what ``pack_window`` wrote."""
    return msgspec.msgpack.decode(zlib.decompress(body), type=Window)


def samples_of(window: Window) -> int:
    """Return how many requests a window counted."""
    return window.ok + sum(window.errors.values()) + sum(window.rejects.values())


def merge_key(window: Window) -> str:
    """Return what two windows must share to be merged: gates and roll-ups are by bundle and variant."""
    shared = (window.model, window.bundle_sha256, window.variant, window.baseline_id, window.stage)
    return sha256_hex("\n".join(shared).encode())[:16]


class Room:
    """The bound of one spool: of the bytes it takes on disk, write-ahead log included."""

    def __init__(self, max_bytes: int, merge: Callable[[Window, Window], Window]) -> None:
        whole = max(max_bytes, LEAST_BYTES)
        self._budget = whole - min(WAL_BYTES, whole // 4)
        self._step = min(STEP_BYTES, self._budget // 16)
        self._merge = merge

    def make(self, db: Db, needed: int) -> None:
        """Merge, then drop, until ``needed`` more bytes fit."""
        needed += 2 * int(db.value("PRAGMA page_size"))  # a page that splits becomes two
        if db.used_bytes() + needed <= self._budget:
            return
        goal = max(0, self._budget - needed - self._step)
        while db.used_bytes() > goal and self._merge_neighbours(db, goal):
            pass
        # A row that was sent may well have arrived, so it goes first; events go last.
        for table, key, order, leaf in (
            ("sent", "seq", "seq", topics.UP_TELEMETRY),
            ("waiting", "id", "start_ms, id", topics.UP_TELEMETRY),
            ("waiting", "id", "id", topics.UP_EVENT),
            ("sent", "seq", "seq", topics.UP_EVENT),
        ):
            if db.used_bytes() <= goal:
                return
            _drop_oldest(db, table, key, order, leaf, goal)

    def _merge_neighbours(self, db: Db, goal: int) -> bool:
        """Merge unsent windows pairwise, shortest spans first; return whether any were."""
        found = heapq.nsmallest(2 * MERGES_A_LOOK, _neighbours(db))
        taken: set[int] = set()
        has_merged = False
        for _, _, first, second in found:
            if taken & {first, second}:
                continue
            taken |= {first, second}
            has_merged = self._merge_pair(db, first, second) or has_merged
            if db.used_bytes() <= goal:
                break
        return has_merged

    def _merge_pair(self, db: Db, first: int, second: int) -> bool:
        """Put one window for two at the end of the table, so that the pages of the old ones come free one by one."""
        bodies = [db.execute("SELECT body FROM waiting WHERE id = ?", (i,)).fetchone()[0] for i in (first, second)]
        try:
            body = pack_window(window := self._merge(*map(unpack_window, bodies)))
            if len(body) > MAX_BODY_BYTES:
                raise MessageRefused("The merged window is too large for the wire.", code="MESSAGE_TOO_LARGE")
        except (MessageRefused, *UNREADABLE):
            # Whatever kept them apart, it must not be tried again at every full spool.
            db.execute("UPDATE waiting SET merge_key = '' WHERE id = ?", (second,))
            return False
        moment = db.execute("SELECT session, uptime_ms FROM moment WHERE id = ?", (second,)).fetchone()
        for row_id in (first, second):
            delete_waiting(db, row_id)
        insert_waiting(db, topics.UP_TELEMETRY, body, window, moment=moment or (0, 0))
        return True


def insert_waiting(
    db: Db,
    leaf: str,
    body: bytes,
    window: Window | None = None,
    *,
    moment: tuple[int, int] = (0, 0),
    is_kept: bool = False,
) -> None:
    """Add an unsent row; ``moment`` is session and uptime (ms) of a window's end."""
    key, span = (merge_key(window), (window.start_ms, window.end_ms)) if window else ("", (0, 0))
    cursor = db.execute(
        "INSERT INTO waiting (leaf, body, size, is_kept, merge_key, start_ms, end_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (leaf, body, len(body) + ROW_OVERHEAD_BYTES, is_kept, key, *span),
    )
    if window is not None and moment != (0, 0):
        db.execute("INSERT INTO moment VALUES (?, ?, ?)", (cursor.lastrowid, *moment))


def delete_waiting(db: Db, row_id: int) -> None:
    """Take an unsent row away."""
    db.execute("DELETE FROM waiting WHERE id = ?", (row_id,))
    db.execute("DELETE FROM moment WHERE id = ?", (row_id,))


def count_dropped(db: Db, rows: int, samples: int) -> None:
    """Count rows dropped before they were sent, to be declared with the next batch."""
    for key in ("dropped", "undeclared"):
        db.add_tally(key, rows)
        db.add_tally(f"{key}_samples", samples)


def drop_sent(db: Db, seq: int, leaf: str, payload: bytes) -> int:
    """Drop a row that was sent, to be declared by its number; return the requests it counted."""
    samples = 0
    if leaf == topics.UP_TELEMETRY:
        with contextlib.suppress(MessageRefused):
            message = codec.decode_up(leaf, payload)
            samples = samples_of(message.window) if isinstance(message, Telemetry) else 0
    db.execute("INSERT OR IGNORE INTO dropped (seq, is_declared) VALUES (?, 0)", (seq,))
    db.execute("INSERT OR REPLACE INTO dropped_samples VALUES (?, ?)", (seq, samples))
    db.execute("DELETE FROM sent WHERE seq = ?", (seq,))
    db.add_tally("dropped", 1)
    return samples


def _neighbours(db: Db) -> Iterator[tuple[int, int, int, int]]:
    """Yield (span, start, first, second) of windows that follow one another and may merge."""
    windows = db.execute(
        "SELECT merge_key, start_ms, end_ms, id FROM waiting WHERE merge_key <> '' ORDER BY merge_key, start_ms, id"
    )
    for a, b in pairwise(windows):
        span = max(a[2], b[2]) - a[1]
        if a[0] == b[0] and span <= MAX_MERGED_SPAN_MS:
            yield span, a[1], a[3], b[3]


def _drop_oldest(db: Db, table: str, key: str, order: str, leaf: str, goal: int) -> None:
    """Drop the oldest rows of one kind until no more than ``goal`` bytes are in use."""
    body = "payload" if table == "sent" else "body"
    oldest = f"SELECT {key}, {body} FROM {table} WHERE leaf = ? AND NOT is_kept ORDER BY {order} LIMIT 1"
    while db.used_bytes() > goal and (row := db.execute(oldest, (leaf,)).fetchone()):
        number, content = row
        if table == "sent":
            drop_sent(db, number, leaf, content)
            continue
        samples = 0
        if leaf == topics.UP_TELEMETRY:
            with contextlib.suppress(*UNREADABLE):
                samples = samples_of(unpack_window(content))
        count_dropped(db, 1, samples)
        delete_waiting(db, number)
