"""The spool's file: SQLite in WAL mode with synchronous FULL, one lock, one family of errors.

What this keeps: a damaged file is set aside (``.damaged``, one is kept) and begun anew, at the start or in the middle
of the work, so that an agent goes on whatever its disk did; and a file that cannot be opened now (disk full, read
only) is tried again at each call. Beside it lies a *mark* (``.mark``): the newest sequence number handed out, written
after the commit that gave it. A file that is behind its mark has lost commits (a truncated log, storage that lied
about syncing, a copy put back): its numbers would be given a second time, and the control plane would take new reports
for old ones; so it counts as damaged too.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bundles.errors import AskPerson, TryAgain, WavegateError

SPOOL_VERSION = 1
MEMORY = ":memory:"
CHECKPOINT_PAGES = 16
WAL_BYTES = 1024 * 1024
"""What the write-ahead log takes at most: the pages up to a checkpoint and the largest transaction after them."""
# Bodies come last, so that looking at the other columns of a large row does not read them. Rows that are kept say what
# was dropped: never drop those.
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
CREATE TABLE IF NOT EXISTS dropped_samples (seq INTEGER PRIMARY KEY, samples INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS moment (id INTEGER PRIMARY KEY, session INTEGER NOT NULL, uptime_ms INTEGER NOT NULL);
"""
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
T = TypeVar("T")


class Damaged(Exception):
    """The file cannot be what this agent wrote; its text says why. Never leaves this package."""


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

    def last_seq(self) -> int:
        """Return the newest sequence number given."""
        return int(self.value("SELECT seq FROM sqlite_sequence WHERE name = 'sent'") or 0)

    def used_bytes(self) -> int:
        """Return the bytes of the pages in use; free pages of the file are used again before it grows."""
        pages = int(self.value("PRAGMA page_count")) - int(self.value("PRAGMA freelist_count"))
        return pages * int(self.value("PRAGMA page_size"))


class SpoolFile:
    """One file, opened when it is first needed.

    Args:
        path: the file, or ``:memory:``.
        begin: called in a transaction after each opening, with what was wrong with the file set aside before it (empty
            = nothing); returns the epoch of the file.
    """

    def __init__(self, path: Path | str, begin: Callable[[Db, str], str]) -> None:
        self._path = None if str(path) == MEMORY else Path(path)
        self._begin = begin
        self._lock = threading.Lock()
        self._db: Db | None = None
        self._is_closed = False
        self._damage = ""

    def do(self, work: Callable[[Db], T]) -> T:
        """Do all of ``work`` or nothing, and return what it returns; durable then.

        Args:
            work: done again from its beginning on a new file where the old one turns out to be damaged.

        Raises:
            TryAgain: ``DISK_FULL`` or ``SPOOL_IO``.
            AskPerson: ``SPOOL_VERSION``: a later agent wrote the file.
        """
        with self._lock:
            for _ in range(2):
                try:
                    return _transaction(self._opened(), work)
                except Damaged as damage:
                    self._set_aside(str(damage))
                except sqlite3.Error as error:
                    if _code(error) not in _DAMAGED:
                        raise _family(error) from error
                    self._set_aside(str(error))
            raise _unusable("it is damaged, and so is a new one")

    def mark(self, epoch: str, seq: int) -> None:
        """Note beside the file that ``seq`` was handed out. A mark that cannot be written is left for the next time:
        it bears witness against a damaged file and is no part of what makes a row durable.
        """
        if self._path is None:
            return
        text = f"{epoch} {seq:020d}"
        with contextlib.suppress(OSError):
            descriptor = os.open(self._mark_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(descriptor, f"{text} {zlib.crc32(text.encode()):08x}\n".encode("ascii"), 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def marked(self) -> tuple[str, int]:
        """Return epoch and number of the mark, ``("", 0)`` where there is none that can be read."""
        if self._path is not None:
            with contextlib.suppress(OSError, ValueError):
                text, _, check = self._mark_path.read_text("ascii").strip().rpartition(" ")
                if zlib.crc32(text.encode()) == int(check, 16):
                    epoch, seq = text.split()
                    return epoch, int(seq)
        return "", 0

    def close(self) -> None:
        """Close the file; later calls fail."""
        with self._lock:
            self._is_closed = True
            self._let_go()

    @property
    def _mark_path(self) -> Path:
        assert self._path is not None
        return self._path.with_name(self._path.name + ".mark")

    def _opened(self) -> Db:
        if self._is_closed:
            raise _unusable("it is closed")
        if self._db is None:
            db = _open(self._path or MEMORY)
            try:
                epoch_before = db.value("SELECT value FROM meta WHERE key = 'boot_epoch'")
                last, (marked_epoch, marked) = db.last_seq(), self.marked()
                if not self._damage and epoch_before is None and marked_epoch:
                    self._damage = "it was empty or gone"
                if marked_epoch == epoch_before and marked > last:
                    raise Damaged(f"it ends at number {last}, and {marked} was handed out")
                epoch = _transaction(db, lambda db: self._begin(db, self._damage))
            except BaseException:
                db.close()
                raise
            self._db, self._damage = db, ""
            if marked_epoch != epoch:
                self.mark(epoch, last)
        return self._db

    def _set_aside(self, damage: str) -> None:
        self._let_go()
        self._damage = damage
        if self._path is None:
            return
        try:
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self._path.replace(self._path.with_name(self._path.name + ".damaged"))
        except OSError as error:
            raise _unusable(f"it is damaged and cannot be moved away ({error})") from error

    def _let_go(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            with contextlib.suppress(sqlite3.Error):
                db.close()


def _transaction(db: Db, work: Callable[[Db], T]) -> T:
    try:
        db.execute("BEGIN IMMEDIATE")
        result = work(db)
        db.execute("COMMIT")
        return result
    except BaseException:
        if db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        raise


def _open(path: Path | str) -> Db:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Db, timeout=5.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        db.execute("PRAGMA journal_size_limit = 0")  # a log that was large once does not stay so
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA cache_size = -1024")
        version = int(db.value("PRAGMA user_version"))
        if version > SPOOL_VERSION:
            raise AskPerson(
                f"The spool has version {version}; this agent reads {SPOOL_VERSION}.",
                code="SPOOL_VERSION",
                remedy="Install the agent that wrote it, or move the file away: unsent reports are lost then.",
            )
        # Reads the whole file, which is small: damage found now costs what is unsent, found later also what was added.
        if (found := db.value("PRAGMA quick_check(1)")) != "ok":
            raise Damaged(str(found))
        db.executescript(_TABLES)
        db.execute(f"PRAGMA user_version = {SPOOL_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


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
    return _unusable(str(error))


def _unusable(why: str) -> TryAgain:
    return TryAgain(
        f"The spool cannot be used: {why}.",
        code="SPOOL_IO",
        remedy="See whether a second agent uses this folder, and look at the device's disk.",
    )
