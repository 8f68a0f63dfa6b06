"""The spool: one identity and one set of bytes a row, nothing lost without being said."""

import sqlite3
import threading

import pytest

from agent.spool import Spool
from agent.spool.spool import MAX_UNACKED
from bundles.errors import AskPerson, MessageRefused, TryAgain
from bundles.sketch.form import Window
from bundles.wire.codec import decode_up
from bundles.wire.messages import Ack

HOUR = 3_600_000


def window(n=0, *, start=0, end=HOUR, bundle="b" * 64, pad=0):
    rejects = {f"INPUT_{i}_{n}": 1 for i in range(pad)}
    return Window("t/m", bundle, "1", "v", "c" * 64, start, end, ok=10, rejects=rejects)


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
    spool = Spool(tmp_path / "s.db", "d", max_bytes=6_000)
    for n in range(24):
        spool.add_window(window(n, start=n * HOUR, end=(n + 1) * HOUR, pad=20))
    spool.add_event("crash", at_ms=0)
    assert spool.status().bytes <= 6_000
    batch = [read(row) for row in spool.next_batch(0)]
    windows = [m.window for m in batch if hasattr(m, "window")]
    dropped = spool.status()
    assert len(windows) < 24
    assert (
        sum(w.ok for w in windows) + sum(sum(w.rejects.values()) for w in windows) + dropped.dropped_samples == 24 * 30
    )
    assert [m.kind for m in batch if not hasattr(m, "window")][-1:] in (["crash"], ["spool_dropped"])
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

    spool = Spool(tmp_path / "s.db", "d", max_bytes=3_000, merge=refuse)
    for n in range(12):
        spool.add_window(window(n, start=n * HOUR, pad=20))
    assert 0 < spool.status().dropped < 12
    spool.close()


def test_evicted_rows_that_were_sent_are_declared_by_range(tmp_path):
    spool = Spool(tmp_path / "s.db", "d", max_bytes=4_000)
    for n in range(4):
        spool.add_window(window(n, start=n * HOUR, pad=20))
        spool.next_batch(0)
    for _ in range(40):
        spool.add_event("phase", at_ms=0, detail="x" * 20)
    held = {row.seq for row in spool.next_batch(30_000, limit=1000)}
    declared = [
        m.data for m in map(read, spool.next_batch(60_000, limit=1000)) if getattr(m, "kind", "") == "spool_dropped"
    ]
    named = {seq for d in declared for seq in range(d["seq"], d["seq"] + d["n"])}
    assert named
    assert not named & held
    assert {1, 2, 3, 4} <= named | held
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
    pages = spool._file._db.value("PRAGMA page_count")
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
