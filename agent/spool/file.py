"""The spool's file: SQLite in WAL mode with synchronous FULL, one lock, one family of errors."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bundles.errors import AskPerson, TryAgain, WavegateError

SPOOL_VERSION = 1
# Bodies come last, so that summing sizes does not read them. Rows that are kept say what was dropped: never drop those.
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waiting (
  id INTEGER PRIMARY KEY AUTOINCREMENT, leaf TEXT NOT NULL, size INTEGER NOT NULL,
  is_kept INTEGER NOT NULL DEFAULT 0, merge_key TEXT NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL,
  body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS sent (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, leaf TEXT NOT NULL, size INTEGER NOT NULL,
  is_kept INTEGER NOT NULL DEFAULT 0, sends INTEGER NOT NULL, due_ms INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS dropped (seq INTEGER PRIMARY KEY, is_declared INTEGER NOT NULL);
"""
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Db(sqlite3.Connection):
    """A connection with the few questions the spool asks again and again."""

    def value(self, question: str) -> Any:
        """Return the first column of the first row, None where there is none."""
        row = self.execute(question).fetchone()
        return row[0] if row else None

    def tally(self, key: str) -> int:
        """Return a counter kept in the file."""
        row = self.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row else 0

    def add_tally(self, key: str, n: int) -> None:
        """Add to a counter kept in the file."""
        if n:
            self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, self.tally(key) + n))


class SpoolFile:
    """One open file. A damaged one is set aside (``.damaged``) and begun anew: its epoch goes with it."""

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError as error:
            if _code(error) not in _DAMAGED:
                raise _family(error) from error
            _set_aside(Path(path))
            self._db = _open(path)

    @contextmanager
    def transaction(self) -> Iterator[Db]:
        """Do all of a block or nothing; durable when it ends.

        Raises:
            TryAgain: ``DISK_FULL`` or ``SPOOL_IO``.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise _family(error) from error
                raise

    def close(self) -> None:
        """Close the file; later calls fail."""
        with self._lock:
            self._db.close()


def _open(path: Path | str) -> Db:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Db, timeout=5.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 1048576")
        version = int(db.value("PRAGMA user_version"))
        if version > SPOOL_VERSION:
            raise AskPerson(
                f"The spool has version {version}; this agent reads {SPOOL_VERSION}.",
                code="SPOOL_VERSION",
                remedy="Install the agent that wrote it, or move the file away: unsent reports are lost then.",
            )
        db.executescript(_TABLES)
        db.execute(f"PRAGMA user_version = {SPOOL_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _set_aside(path: Path) -> None:
    path.replace(path.with_name(path.name + ".damaged"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _code(error: sqlite3.Error) -> int:
    """The primary result code; Python keeps the extended one."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _family(error: sqlite3.Error) -> WavegateError:
    if _code(error) in _FULL:
        return TryAgain(
            "The disk has no room for the spool.",
            code="DISK_FULL",
            remedy="Free some space on the device; what is queued already stays.",
        )
    return TryAgain(
        f"The spool cannot be used: {error}.",
        code="SPOOL_IO",
        remedy="See whether a second agent uses this folder, and look at the device's disk.",
    )
