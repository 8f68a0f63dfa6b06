"""The hash chain: it grows in the order of commits, and any change to a stored row is found."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text
from sqlmodel import select

from control_plane.db.queries.decisions import list_decisions
from control_plane.db.tables import Decision
from control_plane.services import audit


def _record(database, action: str, *, subject: str = "thing:1", kind: str = "audit") -> None:
    with database.write() as session:
        audit.record(session, kind, "ada", action, subject, {"n": 1}, 1_000)


def test_every_row_follows_the_one_before(database):
    for action in ("one", "two", "three"):
        _record(database, action)
    with database.read() as session:
        rows = session.exec(select(Decision).order_by(Decision.id)).all()
        report = audit.verify(session)
    assert [row.action for row in rows] == ["one", "two", "three"]
    assert rows[0].previous_hash == audit.GENESIS
    assert [row.previous_hash for row in rows[1:]] == [row.hash for row in rows[:-1]]
    assert report.is_whole
    assert (report.rows, report.head) == (3, rows[-1].hash)


def test_an_empty_chain_is_whole(database):
    with database.read() as session:
        assert audit.verify(session) == audit.ChainReport(rows=0, head=audit.GENESIS, first_bad=None)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE decision SET actor = 'eve' WHERE action = 'two'",
        "UPDATE decision SET body_json = '{}' WHERE action = 'two'",
        "UPDATE decision SET at_ms = at_ms + 1 WHERE action = 'two'",
        "UPDATE decision SET kind = 'gate' WHERE action = 'two'",
    ],
)
def test_a_changed_row_is_found(database, damage):
    for action in ("one", "two", "three"):
        _record(database, action)
    with database.write() as session:
        session.execute(text(damage))
        bad = session.exec(select(Decision.id).where(Decision.action == "two")).one()
    with database.read() as session:
        assert audit.verify(session).first_bad == bad


def test_a_removed_row_is_found_at_the_one_after_it(database):
    for action in ("one", "two", "three"):
        _record(database, action)
    with database.write() as session:
        session.execute(text("DELETE FROM decision WHERE action = 'two'"))
        after = session.exec(select(Decision.id).where(Decision.action == "three")).one()
    with database.read() as session:
        assert audit.verify(session).first_bad == after


def test_nothing_is_recorded_for_work_that_was_undone(database):
    def undone() -> None:
        with database.write() as session:
            audit.record(session, "audit", "ada", "never", "thing:1", {}, 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        undone()
    with database.read() as session:
        assert session.exec(select(Decision)).all() == []


def test_concurrent_transactions_make_one_chain(database):
    def work(name: str) -> None:
        for n in range(5):
            _record(database, f"{name}{n}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        report = audit.verify(session)
    assert report.is_whole
    assert report.rows == 20


def test_the_log_is_read_in_pages_newest_first_and_by_subject(database):
    for n in range(5):
        _record(database, f"a{n}", subject=f"thing:{n % 2}", kind="gate" if n == 4 else "audit")
    with database.read() as session:
        first, key = list_decisions(session, limit=3)
        rest, end = list_decisions(session, limit=3, after=key)
        only, _ = list_decisions(session, subject="thing:1")
        gates, _ = list_decisions(session, kind="gate")
    assert [row.action for row in first + rest] == ["a4", "a3", "a2", "a1", "a0"]
    assert end is None
    assert [row.action for row in only] == ["a3", "a1"]
    assert [row.action for row in gates] == ["a4"]
