"""Transactions: committed on leaving, undone on any exception, and writers never lose one another's work."""

from __future__ import annotations

import threading

import pytest
from sqlmodel import select

from control_plane.db.engine import before_commit
from control_plane.db.tables import Outbox


def _outbox(key: str, attempts: int = 0) -> Outbox:
    return Outbox(kind="test", key=key, body_json="{}", created_ms=1, due_ms=1, attempts=attempts)


def test_what_was_written_is_there_for_the_next_reader(database):
    with database.write() as session:
        session.add(_outbox("a"))
    with database.read() as session:
        assert session.exec(select(Outbox.key)).all() == ["a"]


def test_an_exception_leaves_nothing_behind(database):
    def undone() -> None:
        with database.write() as session:
            session.add(_outbox("a"))
            session.flush()
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        undone()
    with database.read() as session:
        assert session.exec(select(Outbox)).all() == []


def test_what_is_left_for_the_end_runs_once_and_inside_the_transaction(database):
    with database.write() as session:
        for _ in range(2):
            before_commit(session, "tally", lambda s: s.add(_outbox("last")))
        session.add(_outbox("first"))
    with database.read() as session:
        assert sorted(session.exec(select(Outbox.key)).all()) == ["first", "last"]


def test_concurrent_writers_each_see_the_others_work(database):
    with database.write() as session:
        session.add(_outbox("counter"))

    def raise_counter() -> None:
        for _ in range(5):
            with database.write() as session:
                row = session.exec(select(Outbox).where(Outbox.key == "counter").with_for_update()).one()
                row.attempts += 1
                session.add(row)

    threads = [threading.Thread(target=raise_counter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert session.exec(select(Outbox.attempts)).one() == 20


def test_a_reader_is_not_stopped_by_an_open_writer(database):
    with database.write() as writing:
        writing.add(_outbox("a"))
        writing.flush()
        with database.read() as reading:
            assert reading.exec(select(Outbox)).all() == []
