"""A full disk on the server: a clear answer, nothing half done, and the same request works once there is room."""

from __future__ import annotations

import dataclasses
import errno

from sqlalchemy import event
from sqlmodel import select

from control_plane.db.tables import Release


class FullDisk:
    """A blob store on a disk that is full; reading still works."""

    def __init__(self, real) -> None:
        self._real = real

    def put(self, sha256, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name):
        return getattr(self._real, name)


def test_publishing_onto_a_full_disk_changes_nothing_and_can_be_done_again(api):
    path = api.bundle("1.0.0", 1)
    deps = api.app.state.deps
    api.app.state.deps = dataclasses.replace(deps, storage=FullDisk(deps.storage))
    answer = api.publish(path)
    assert (answer.status_code, answer.json()["code"]) == (507, "DISK_FULL")
    assert answer.json()["remedy"]
    with api.db.read() as session:
        assert session.exec(select(Release)).all() == []
    assert api.repository.listed() == {}
    api.app.state.deps = deps
    assert api.publish(path).status_code == 201


def test_a_database_without_room_answers_so_and_keeps_what_it_has(sqlite_api):
    api = sqlite_api
    assert api.publish(api.bundle("1.0.0", 1)).status_code == 201

    def no_room(connection, _record, _proxy) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "database or disk is full"

    event.listen(api.db.engine, "checkout", no_room)
    for n in range(1, 40):  # until the room within the pages it has is used up
        path = api.bundle(f"1.0.{n}", n + 1, content=bytes([n]))
        answer = api.publish(path)
        if answer.status_code != 201:
            break
    assert (answer.status_code, answer.json()["code"]) == (507, "DISK_FULL")
    assert api.viewer.get("/api/v1/releases").status_code == 200, "what it has can still be read"
    event.remove(api.db.engine, "checkout", no_room)
    with api.db.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    api.db.close()  # drop pooled connections that still hold the limit
    again = api.publish(path)
    assert again.status_code == 201, again.text
