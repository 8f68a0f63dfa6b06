"""The power is cut at every write of the spool: nothing promised is lost, nothing is counted twice by the real ingest.

Recorded and rebuilt as in ``test_every_power_cut``: pages of the write-ahead log, checkpoints, the mark beside the
file. The control plane is the real one over SQLite. Twice from each disk: once everything handed out had arrived, its
ack lost; once nothing had but what was acked.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from powercut.disk import Op, crashes
from powercut.spooling import DEVICE, NOW_MS
from powercut.tracing import record
from sqlmodel import select

from agent.spool import Spool
from agent.spool.spool import SpoolRow
from bundles.wire.messages import Ack
from control_plane.db.engine import Database
from control_plane.db.tables import Device, DeviceEvent, DeviceWindow
from control_plane.services import reports
from control_plane.services.reports import Inbound

IN_MEMORY = Path("/dev/shm")
BUCKET_MS = 3_600_000


@dataclass(frozen=True)
class Promises:
    """What the spool had promised when the power went."""

    events: frozenset[int]
    windows: frozenset[int]
    handed: frozenset[int]
    acked: int

    @classmethod
    def of(cls, ops: list[Op]) -> Promises:
        said = [op.text.split() for op in ops if op.kind == "mark"]
        numbers = {word: [int(n) for w, *rest in said if w == word for n in rest] for word in ("event", "window")}
        handed = frozenset(int(seq) for word, *seqs in said if word == "handed" for seq in seqs)
        acked = max((int(rest[0]) for word, *rest in said if word == "ack"), default=0)
        return cls(frozenset(numbers["event"]), frozenset(numbers["window"]), handed, acked)


class Counting:
    """The real control plane's ingest; what came in the same way before is not counted a second time."""

    def __init__(self, template: Path, folder: Path) -> None:
        self._template, self._folder = template, folder
        self._known: dict[tuple[tuple[SpoolRow, ...], ...], tuple[list[int], int]] = {}

    def counted(self, *batches: tuple[SpoolRow, ...]) -> tuple[list[int], int]:
        """Take in the batches; return the numbers of the events on the timeline, and the requests in all windows."""
        if batches not in self._known:
            self._folder.mkdir()
            shutil.copy(self._template, self._folder / "wavegate.db")
            with closing(Database(f"sqlite:///{self._folder / 'wavegate.db'}")) as database:
                self._known[batches] = self._count(database, batches)
            shutil.rmtree(self._folder)
        return self._known[batches]

    def _count(self, database: Database, batches: tuple[tuple[SpoolRow, ...], ...]) -> tuple[list[int], int]:
        for rows in filter(None, batches):
            with database.write() as session:
                batch = [Inbound(DEVICE, row.leaf, row.payload) for row in rows]
                done = reports.ingest(
                    session, batch, bucket_ms=BUCKET_MS, observe_reported=lambda *_: None, now_ms=NOW_MS
                )
            assert done.acks[DEVICE].upto_seq == max(row.seq for row in rows), "a number is missing"
        with database.read() as session:
            events = [json.loads(event.data_json) for event in session.exec(select(DeviceEvent))]
            ok = sum(row.ok for row in session.exec(select(DeviceWindow)))
        return sorted(data["n"] for data in events if "n" in data), ok


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    place = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="wg-spoolcut-", dir=place))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def template(scratch) -> Path:
    path = scratch / "template.db"
    with closing(Database(f"sqlite:///{path}")) as database:
        database.upgrade()
        with database.write() as session:
            session.add(Device(id=DEVICE, public_key_pem="", enrolled_ms=NOW_MS, cohort="north"))
    return path


def test_nothing_promised_is_lost_and_nothing_counted_twice_whenever_the_power_fails(template, scratch, capsys):
    root, rows = scratch / "root", scratch / "rows"
    root.mkdir()
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-m", "powercut.spooling", str(root / "spool.db"), str(rows)]
    before, ops = record(command, root, scratch, {"PYTHONPATH": path})
    sent = pickle.loads(rows.read_bytes())
    assert len(Promises.of(ops).events) == 8
    server, disks = Counting(template, scratch / "server"), 0
    for crash in crashes(before, ops, singles=False):
        disks += 1
        promised, coming = Promises.of(ops[: crash.after]), Promises.of(ops[: next_mark(ops, crash.after)])
        for arrived in {promised.handed, frozenset(seq for seq in promised.handed if seq <= promised.acked)}:
            folder = scratch / "device"
            folder.mkdir()
            crash.disk.write_out(folder)
            try:
                survive(folder, server, promised, coming, sent, arrived)
            except AssertionError as error:
                last = ops[max(0, crash.after - 3) : crash.after]
                raise AssertionError(f"after {crash.after} operations ({crash.how}): {error!r}; {last}") from error
            shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\nthe spool: {sum(op.kind != 'mark' for op in ops) + 1} points, {disks} different disks", end="")
    assert disks > 100


def next_mark(ops: list[Op], start: int) -> int:
    """Return the number behind the next mark: what it says was being done when the power went."""
    return next((i + 1 for i in range(start, len(ops)) if ops[i].kind == "mark"), len(ops))


def survive(
    folder: Path,
    server: Counting,
    promised: Promises,
    coming: Promises,
    sent: dict[int, SpoolRow],
    arrived: frozenset[int],
) -> None:
    """Start on what is left of the spool, send everything, and count what the control plane has.

    Args:
        folder: holds the spool.
        server: the control plane.
        promised: before the power went.
        coming: that, and what was being promised.
        sent: the rows that were handed out, by number.
        arrived: numbers that the control plane had before.
    """
    with closing(Spool(folder / "spool.db", DEVICE)) as spool:
        rows = spool.next_batch(NOW_MS + 1_000_000, 64)
        held = {row.seq: row for row in rows}
        for seq in promised.handed:
            may_be_gone = seq <= promised.acked
            assert held.get(seq, sent[seq] if may_be_gone else None) == sent[seq], "a row handed out has changed"
        if rows:
            spool.acked(Ack(spool.boot_epoch, max(held)))
        assert (spool.status().pending, spool.status().dropped) == (0, 0)
    events, ok = server.counted(tuple(sent[seq] for seq in sorted(arrived)), tuple(rows))
    assert len(events) == len(set(events)), "an event is there twice"
    assert promised.events <= set(events) <= coming.events, f"events {events}"
    windows = {n for n in range(ok.bit_length()) if ok >> n & 1}
    assert promised.windows <= windows <= coming.windows, f"windows {windows}"
