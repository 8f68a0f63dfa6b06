"""One database by URL: SQLite (WAL, FULL, one writer) or PostgreSQL. Tables are ``tables``'s, meaning is ``services``'.

``read`` and ``write`` are the only ways to a session. Rules kept here:

- SQLite: a write transaction begins with ``BEGIN IMMEDIATE`` under one lock of this process, so that two writers
  queue instead of failing in the middle; readers never wait (WAL). ``synchronous=FULL``: what was committed survives
  a power cut.
- PostgreSQL: a plain READ COMMITTED transaction; whoever loads, decides and saves locks the row first. Where one
  transaction locks several, the order is device, rollout, desired document.
- What must be written last (the hash chain, whose lock is then held for moments only) is left with ``before_commit``.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlmodel import Session

from control_plane.errors import SetUpWrong

BUSY_TIMEOUT_MS = 10_000
ROW_LOCK: Final[dict[str, Any]] = {"key_share": True}
"""For ``with_for_update`` on rows that others refer to: FOR NO KEY UPDATE. With FOR UPDATE a transaction that holds a
rollout and writes a row of a device would wait for the one that holds the device and waits for the rollout."""
MIGRATIONS = Path(__file__).parent / "migrations"
_WRITES = "wavegate_writes"
_LAST = "wavegate_before_commit"


class Database:
    """A connection pool with a reading and a writing door.

    Args:
        url: ``sqlite:////absolute/path.db`` or ``postgresql://user@host/name`` (any SQLAlchemy form of these).

    Raises:
        SetUpWrong: ``DATABASE_URL`` where the address is neither.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._writer = self._engine.execution_options(**{_WRITES: True})
        self._lock: threading.Lock | None = threading.Lock() if self.is_sqlite else None

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite."""
        return self._engine.dialect.name == "sqlite"

    @property
    def engine(self) -> Engine:
        """The engine, for migrations and checks of the schema."""
        return self._engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session on one consistent snapshot (SQLite) or statement snapshots (PostgreSQL); never commits."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a writing transaction: commits on leaving, rolls back on any exception."""
        if self._lock is None:
            with self._transaction() as session:
                yield session
        else:
            with self._lock, self._transaction() as session:
                yield session

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with Session(self._writer, expire_on_commit=False) as session:
            yield session
            finish: dict[str, Callable[[Session], None]] = session.info.pop(_LAST, {})
            for action in finish.values():
                action(session)
            session.commit()

    def upgrade(self) -> None:
        """Bring the schema to the newest revision; starts from an empty database as well."""
        with self._engine.connect() as connection:
            command.upgrade(_migrations(connection), "head")
            connection.commit()

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()


def before_commit(session: Session, key: str, action: Callable[[Session], None]) -> None:
    """Have ``action`` run once, last in the transaction of ``session``; a second one under ``key`` is ignored."""
    session.info.setdefault(_LAST, {}).setdefault(key, action)


def _migrations(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _engine(url: str) -> Engine:
    remedy = "Use sqlite:////absolute/path/wavegate.db or postgresql://user@host/name."
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SetUpWrong("The database address cannot be read.", code="DATABASE_URL", remedy=remedy) from error
    match parsed.get_backend_name():
        case "sqlite" if parsed.database not in (None, "", ":memory:"):
            engine = create_engine(
                parsed.set(drivername="sqlite+pysqlite"),
                pool_size=8,
                max_overflow=56,  # the API's 40 threads and the workers' own; a SQLite connection is a file handle
                connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
            )
            event.listen(engine, "connect", _sqlite_connect)
            event.listen(engine, "begin", _sqlite_begin)
            return engine
        case "postgresql":
            return create_engine(
                parsed.set(drivername="postgresql+psycopg"), pool_size=8, max_overflow=24, pool_pre_ping=True
            )
        case other:
            raise SetUpWrong(
                f"A database of kind {other!r} at this address is not supported.", code="DATABASE_URL", remedy=remedy
            )


def _sqlite_connect(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _sqlite_begin says, not where the driver guesses
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


def _sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
