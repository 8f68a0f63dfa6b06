"""The spool: one identity and one set of bytes a row, nothing lost without being said."""

import random
import sqlite3
import threading
import tracemalloc

import pytest

from agent.spool import Spool
from agent.spool.spool import MAX_UNACKED
from bundles.errors import AskPerson, MessageRefused, TryAgain
from bundles.sketch.form import Window
from bundles.wire.codec import decode_up
from bundles.wire.messages import Ack

HOUR = 3_600_000
FULL_BYTES = 96 * 1024


def window(n=0, *, start=0, end=HOUR, bundle="b" * 64, pad=0):
    rejects = {f"INPUT_{i}_{n}": 1 for i in range(pad)}
    return Window("t/m", bundle, "1", "v", "c" * 64, start, end, ok=10, rejects=rejects)


def bulky(n):
    """A window of about 4 kB that does not compress; two merged are no larger than one."""
    chance = random.Random(n)
    classes = [chance.randrange(2**30) for _ in range(1000)]
    return Window("t/m", "b" * 64, "1", "v", "c" * 64, n * HOUR, (n + 1) * HOUR, ok=10, classes=classes)


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool.db", "dev-1")
    yield spool
    spool.close()


def events(spool, n):
    for i in range(n):
        spool.add_event("phase", at_ms=i, data={"i": i})


def read(row):
    return decode_up(row.leaf, row.payload)


def test_sequence_numbers_are_given_at_first_send_and_stay(spool):
    events(spool, 3)
    assert spool.status().unsent == 3
    batch = spool.next_batch(1_000)
    assert [row.seq for row in batch] == [1, 2, 3]
    assert [(m.seq, m.boot_epoch, m.device, m.data["i"]) for m in map(read, batch)] == [
        (seq, spool.boot_epoch, "dev-1", seq - 1) for seq in (1, 2, 3)
    ]
    assert len({read(row).event_id for row in batch}) == 3
    assert spool.next_batch(1_001) == []
    assert spool.next_batch(31_000) == batch, "byte-identical, at the same place"


def test_resends_back_off_to_five_minutes(spool):
    events(spool, 1)
    now, waits = 0, []
    spool.next_batch(now)
    for _ in range(6):
        start = now
        while not spool.next_batch(now):
            now += 1_000
        waits.append((now - start) // 1_000)
    assert waits == [30, 60, 120, 240, 300, 300]


def test_a_clock_set_back_does_not_hold_rows_for_long(spool):
    events(spool, 1)
    spool.next_batch(10**12)
    assert len(spool.next_batch(1_000)) == 1


def test_only_an_ack_of_this_epoch_deletes(spool):
    events(spool, 3)
    spool.next_batch(0)
    assert spool.acked(Ack("0" * 16, 3)) == 0
    assert spool.status().pending == 3
    assert spool.acked(Ack(spool.boot_epoch, 2)) == 2
    assert [row.seq for row in spool.next_batch(30_000)] == [3]


def test_an_ack_with_holes_deletes_what_is_stored_and_hurries_the_rest(spool):
    events(spool, 5)
    spool.next_batch(0)
    spool.acked(Ack(spool.boot_epoch, 1, missing=[2, 4], also=[3, 5]))
    assert [row.seq for row in spool.next_batch(1)] == [2, 4]


def test_an_ack_that_contradicts_itself_deletes_the_less(spool):
    events(spool, 3)
    spool.next_batch(0)
    assert spool.acked(Ack(spool.boot_epoch, 3, missing=[2])) == 2
    assert [row.seq for row in spool.next_batch(1)] == [2]


def test_an_ack_never_deletes_what_was_not_sent(spool):
    events(spool, 2)
    spool.acked(Ack(spool.boot_epoch, 10**6, also=[1, 2]))
    assert spool.status().unsent == 2


def test_rows_and_identity_survive_a_restart_and_are_due_at_once(tmp_path, spool):
    events(spool, 2)
    sent = spool.next_batch(5_000, limit=1)
    again = Spool(tmp_path / "spool.db", "dev-1", new_epoch=lambda: "f" * 16)
    assert again.boot_epoch == spool.boot_epoch
    batch = again.next_batch(5_001)
    assert batch[0] == sent[0]
    assert [row.seq for row in batch] == [1, 2]
    again.close()


def test_events_go_before_windows_and_rows_in_flight_are_bounded(spool):
    spool.add_window(window())
    events(spool, MAX_UNACKED + 5)
    first = spool.next_batch(0, limit=1000)
    assert len(first) == MAX_UNACKED
    assert {row.leaf for row in first} == {"up/event"}
    spool.acked(Ack(spool.boot_epoch, MAX_UNACKED))
    assert [row.leaf for row in spool.next_batch(1)] == ["up/event"] * 5 + ["up/tel"]


def test_a_window_travels_as_telemetry(spool):
    spool.add_window(window(start=HOUR, end=2 * HOUR))
    message = read(spool.next_batch(77)[0])
    assert (message.seq, message.sent_ms, message.window.ok, message.window.start_ms) == (1, 77, 10, HOUR)


def test_a_full_spool_merges_unsent_neighbours_before_it_drops(tmp_path):
    spool = Spool(tmp_path / "s.db", "d", max_bytes=FULL_BYTES)
    for n in range(24):
        spool.add_window(bulky(n))
    spool.add_event("crash", at_ms=0)
    assert spool.status().bytes <= FULL_BYTES
    assert spool.status().dropped == 0, "two windows take the room of one"
    batch = [read(row) for row in spool.next_batch(0)]
    windows = [m.window for m in batch if hasattr(m, "window")]
    assert 1 < len(windows) < 24
    assert sum(w.ok for w in windows) == 24 * 10
    assert (min(w.start_ms for w in windows), max(w.end_ms for w in windows)) == (0, 24 * HOUR)
    assert [m.kind for m in batch if not hasattr(m, "window")] == ["crash"]
    spool.close()


def test_sent_windows_and_windows_of_other_bundles_never_merge(tmp_path):
    spool = Spool(tmp_path / "s.db", "d", max_bytes=3_000)
    spool.add_window(window(0, pad=30))
    sent = spool.next_batch(0)
    spool.add_window(window(1, bundle="d" * 64, pad=30))
    spool.add_window(window(2, bundle="e" * 64, pad=30))
    assert spool.next_batch(30_000)[0] == sent[0]
    assert {read(row).window.bundle_sha256[0] for row in spool.next_batch(90_000)} <= {"b", "d", "e"}
    spool.close()


def test_windows_that_refuse_to_merge_do_not_block_the_spool(tmp_path):
    def refuse(a, b):
        raise MessageRefused("no")

    spool = Spool(tmp_path / "s.db", "d", max_bytes=FULL_BYTES, merge=refuse)
    for n in range(12):
        spool.add_window(bulky(n))
    assert 0 < spool.status().dropped < 12
    spool.close()


def test_evicted_rows_that_were_sent_are_declared_by_range(tmp_path):
    spool = Spool(tmp_path / "s.db", "d", max_bytes=FULL_BYTES)
    for n in range(4):
        spool.add_window(bulky(n))
        spool.next_batch(0)
    for _ in range(100):
        spool.add_event("phase", at_ms=0, detail="x" * 200)
    held = {row.seq for row in spool.next_batch(30_000, limit=1000)}
    declared = [
        m.data for m in map(read, spool.next_batch(60_000, limit=1000)) if getattr(m, "kind", "") == "spool_dropped"
    ]
    named = {seq for d in declared for seq in range(d["seq"], d["seq"] + d["n"])}
    assert named
    assert not named & held
    assert {1, 2, 3, 4} <= named | held
    assert sum(sum(d.get("each", [])) for d in declared) == 10 * len(named & {1, 2, 3, 4}), "and what each counted"
    assert all(d["boot_epoch"] == spool.boot_epoch for d in declared)
    assert spool.next_batch(60_001) == [], "declared once"
    spool.close()


def test_what_the_control_plane_lost_after_its_ack_is_declared_so_that_its_watermark_can_pass(spool):
    events(spool, 3)
    spool.next_batch(0)
    spool.acked(Ack(spool.boot_epoch, 2))
    spool.acked(Ack(spool.boot_epoch, 0, missing=[1, 2], also=[3]))
    spool.acked(Ack(spool.boot_epoch, 0, missing=[1, 2], also=[3]))
    (row,) = spool.next_batch(1)
    assert {k: read(row).data[k] for k in ("seq", "n", "unsent")} == {"seq": 1, "n": 2, "unsent": 0}


def test_a_message_too_large_for_the_wire_is_refused_at_the_door(spool):
    with pytest.raises(MessageRefused) as caught:
        spool.add_event("phase", at_ms=0, detail="x" * 300_000)
    assert caught.value.code == "MESSAGE_TOO_LARGE"
    assert spool.status().pending == 0


def test_a_damaged_file_is_set_aside_and_the_new_one_has_a_new_epoch(tmp_path, spool):
    events(spool, 1)
    epoch = spool.boot_epoch
    spool.close()
    path = tmp_path / "spool.db"
    path.write_bytes(b"not a database" * 500)
    again = Spool(path, "dev-1")
    assert again.boot_epoch != epoch
    assert path.with_name("spool.db.damaged").exists()
    assert again.status().pending == 0
    again.close()
    spool.close()


def test_a_file_of_a_later_agent_is_left_alone(tmp_path):
    db = sqlite3.connect(tmp_path / "s.db")
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(AskPerson) as caught:
        Spool(tmp_path / "s.db", "d")
    assert caught.value.code == "SPOOL_VERSION"


def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path, spool):
    events(spool, 3)
    pages = spool._file._opened().value("PRAGMA page_count")
    spool._file._db.execute(f"PRAGMA max_page_count = {pages}")

    def fill():
        for _ in range(200):
            spool.add_event("phase", at_ms=0, detail="x" * 2_000)

    with pytest.raises(TryAgain) as caught:
        fill()
    assert caught.value.code == "DISK_FULL"
    assert caught.value.remedy
    before = spool.status().pending
    assert before >= 3
    spool._file._db.execute("PRAGMA max_page_count = 100000")
    spool.add_event("phase", at_ms=0)
    assert spool.status().pending == before + 1


def test_threads_share_one_spool(spool):
    def work(k):
        for i in range(20):
            spool.add_event("phase", at_ms=i, data={"k": k, "i": i})
            spool.next_batch(0, limit=3)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spool.next_batch(0, limit=1000)
    batch = spool.next_batch(30_000, limit=1000)
    assert [row.seq for row in batch] == list(range(1, 81))
    assert {(m.data["k"], m.data["i"]) for m in map(read, batch)} == {(k, i) for k in range(4) for i in range(20)}


def spoil(path, how):
    data = bytearray(path.read_bytes())
    if how == "a bad page":
        data[4096 * 2 : 4096 * 3] = bytes(range(256)) * 16
    elif how == "zero length":
        data.clear()
    elif how == "cut short":
        del data[len(data) // 2 :]
    elif how == "not a database":
        data[:] = b"not a database" * 500
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["a bad page", "zero length", "cut short", "not a database", "gone"])
def test_a_spool_damaged_while_the_agent_was_off_begins_anew_and_says_so(tmp_path, how):
    path = tmp_path / "spool.db"
    spool = Spool(path, "dev-1")
    events(spool, 40)
    spool.next_batch(0)
    epoch = spool.boot_epoch
    spool.close()
    if how == "gone":
        path.unlink()
    else:
        spoil(path, how)
    again = Spool(path, "dev-1")
    assert again.boot_epoch != epoch
    events(again, 1)
    said = [read(row) for row in again.next_batch(77)]
    assert [(m.kind, m.code, m.at_ms) for m in said] == [("degraded", "SPOOL_DAMAGED", 77), ("phase", "", 0)]
    assert [m.seq for m in said] == [1, 2]
    again.close()
    third = Spool(path, "dev-1")
    assert third.boot_epoch == again.boot_epoch
    third.close()


def test_a_spool_damaged_under_a_running_agent_begins_anew_in_the_same_call(tmp_path):
    path = tmp_path / "spool.db"
    spool = Spool(path, "dev-1")
    events(spool, 200)
    epoch = spool.boot_epoch
    for suffix in ("", "-wal"):
        damaged = path.with_name(path.name + suffix)
        with damaged.open("r+b") as file:
            file.write(b"x" * damaged.stat().st_size)
    spool._file._opened().execute("PRAGMA shrink_memory")
    events(spool, 1)
    said = [read(row) for row in spool.next_batch(77)]
    assert spool.boot_epoch != epoch
    assert [m.kind for m in said] == ["degraded", "phase"]
    assert [p.name for p in tmp_path.glob("*.damaged")] == ["spool.db.damaged"]
    spool.close()


def test_a_file_that_lost_commits_never_gives_a_number_twice(tmp_path):
    path = tmp_path / "spool.db"
    spool = Spool(path, "dev-1")
    spool.close()
    before = path.read_bytes()
    spool = Spool(path, "dev-1")
    events(spool, 3)
    assert [row.seq for row in spool.next_batch(0)] == [1, 2, 3]
    epoch = spool.boot_epoch
    spool.close()
    path.write_bytes(before)  # as a log cut short, or storage that only said it had synced
    again = Spool(path, "dev-1")
    assert again.boot_epoch != epoch
    (said,) = (read(row) for row in again.next_batch(1))
    assert (said.code, "3 was handed out" in said.detail) == ("SPOOL_DAMAGED", True)
    again.close()


def test_a_row_the_disk_has_changed_is_declared_and_does_not_hold_up_the_others(spool):
    for n in range(3):
        spool.add_window(window(n, start=n * HOUR))
    spool._file.do(lambda db: db.execute("UPDATE waiting SET body = x'00' WHERE id = 2"))
    assert [row.seq for row in spool.next_batch(0)] == [1, 3]
    spool._file.do(lambda db: db.execute("UPDATE sent SET payload = x'00' WHERE seq = 3"))
    again = spool.next_batch(30_000) + spool.next_batch(60_001)
    declared = [m.data for m in map(read, again) if getattr(m, "kind", "") == "spool_dropped"]
    assert {seq for d in declared for seq in range(d["seq"], d["seq"] + d["n"])} == {2, 3}


def test_a_full_disk_counts_the_event_keeps_the_window_and_raises_one_family(tmp_path, spool):
    events(spool, 2)
    db = spool._file._opened()
    db.execute(f"PRAGMA max_page_count = {db.value('PRAGMA page_count')}")
    for n in range(3):
        for _ in range(4):
            with pytest.raises(TryAgain):
                spool.add_event("phase", at_ms=0, detail="x" * 9_000)
        with pytest.raises(TryAgain):
            spool.add_window(bulky(n))
    status = spool.status()
    assert (status.dropped, status.dropped_samples, status.unsent) == (12, 0, 3), "three windows wait as one"
    db.execute("PRAGMA max_page_count = 100000")
    said = [read(row) for row in spool.next_batch(0)]
    (declared,) = (m.data for m in said if getattr(m, "kind", "") == "spool_dropped")
    assert declared["unsent"] == 12
    assert [m.window.ok for m in said if hasattr(m, "window")] == [30]
    assert spool.status().dropped == 12


def test_a_spool_that_cannot_be_opened_is_tried_again_at_each_call(tmp_path):
    path = tmp_path / "later" / "spool.db"
    spool = Spool(path, "dev-1")
    with pytest.raises(TryAgain):
        spool.add_event("phase", at_ms=0)
    path.parent.mkdir()
    spool.add_event("phase", at_ms=0)
    assert sorted(read(row).kind for row in spool.next_batch(0)) == ["phase", "spool_dropped"]
    spool.close()


def test_both_clocks_travel_with_what_is_said(spool):
    spool.add_event("phase", at_ms=5, moment=(7, 1_234))
    spool.add_window(window(), (7, 5_678))
    assert [(m.session, m.uptime_ms) for m in map(read, spool.next_batch(0))] == [(7, 1_234), (7, 5_678)]


def test_a_batch_is_bounded_in_bytes(spool):
    for _ in range(10):
        spool.add_event("phase", at_ms=0, detail="x" * 200_000)
    batch = spool.next_batch(0)
    assert 0 < sum(len(row.payload) for row in batch) <= 512 * 1024
    assert len(batch) + len(spool.next_batch(0)) == 4


@pytest.mark.parametrize(
    ("days", "cap"), [(1, 128 * 1024), pytest.param(7, 512 * 1024, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_days_without_a_broker_keep_the_file_and_the_memory_bounded(tmp_path, days, cap):
    minute = 60_000
    spool = Spool(tmp_path / "spool.db", "dev-1", max_bytes=cap)
    tracemalloc.start()
    sizes, memory, asked = [], [], 0
    for n in range(days * 1440):
        start = n * minute
        spool.add_window(Window("t/m", "b" * 64, "1", "v", "c" * 64, start, start + minute, ok=1 + n % 7))
        asked += 1 + n % 7
        if n % 96 == 95:
            sizes.append(sum(p.stat().st_size for p in tmp_path.glob("spool.db*") if p.suffix != ".db-shm"))
            memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(sizes) <= cap + 64 * 1024
    assert memory[-1] - memory[len(memory) // 2] < 64 * 1024
    status, held = spool.status(), 0
    while batch := spool.next_batch(0):
        held += sum(message.window.ok for message in map(read, batch))
        spool.acked(Ack(spool.boot_epoch, max(row.seq for row in batch)))
    assert (held, status.dropped) == (asked, 0), "small windows all merge: a week is kept to the last request"
    spool.close()
