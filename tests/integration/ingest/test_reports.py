"""Ingest on both databases: exactly once whatever is repeated, reordered or unreadable."""

from __future__ import annotations

import random

import msgspec
import pytest
from sqlmodel import select

from bundles.sketch.form import ColumnCounts, LatencyHistogram, Window
from bundles.wire import topics
from bundles.wire.codec import encode
from bundles.wire.messages import Event, ModelReported, Presence, Reported, Telemetry
from control_plane.db.tables import DeadLetter, Device, DeviceEvent, DeviceWindow, RawMessage, SketchRollup
from control_plane.services import reports
from control_plane.services.reports import Inbound

NOW = 1_800_000_000_000
BUCKET_MS = 60_000
EPOCH = "0123456789abcdef"


@pytest.fixture
def devices(database) -> list[str]:
    ids = ["cam-1", "cam-2"]
    with database.write() as session:
        for device in ids:
            session.add(Device(id=device, public_key_pem=device, enrolled_ms=NOW, cohort="north"))
    return ids


def window(start_ms: int = NOW, *, ok: int = 10) -> Window:
    return Window(
        model="vision/digits",
        bundle_sha256="b" * 64,
        version="1.0.0",
        variant="onnx",
        baseline_id="c" * 64,
        start_ms=start_ms,
        end_ms=start_ms + 5_000,
        ok=ok,
        errors={"timeout": 1},
        classes=[ok, 0, 2],
        latency=LatencyHistogram(offset=3, counts=[ok], n=ok, sum_us=ok * 100),
        columns={"sharpness": ColumnCounts(counts=[ok, 1], n=ok + 1, sum_q=7)},
    )


def telemetry(device: str, seq: int, *, start_ms: int = NOW, ok: int = 10) -> Inbound:
    message = Telemetry(device=device, boot_epoch=EPOCH, seq=seq, sent_ms=NOW, window=window(start_ms, ok=ok))
    return Inbound(device, topics.UP_TELEMETRY, encode(message))


def event(device: str, seq: int, kind: str = "phase", data: dict | None = None) -> Inbound:
    message = Event(device=device, boot_epoch=EPOCH, seq=seq, event_id=f"e{seq}", at_ms=NOW, kind=kind, data=data or {})
    return Inbound(device, topics.UP_EVENT, encode(message))


def reported(device: str, session: int, beat: int, sha256: str) -> Inbound:
    message = Reported(
        device=device,
        boot_epoch=EPOCH,
        session=session,
        beat=beat,
        at_ms=NOW,
        uptime_ms=1,
        gen=beat,
        models={"vision/digits": ModelReported(sha256=sha256)},
        hardware="cam-a",
    )
    return Inbound(device, topics.UP_REPORTED, encode(message))


class Heard:
    """What the rollouts were told."""

    def __init__(self) -> None:
        self.beats: list[tuple[str, int]] = []

    def __call__(self, _session, message: Reported, _now_ms: int) -> None:
        self.beats.append((message.device, message.beat))


def ingest(database, batch, heard=None, now_ms: int = NOW):
    with database.write() as session:
        return reports.ingest(session, batch, bucket_ms=BUCKET_MS, observe_reported=heard or Heard(), now_ms=now_ms)


def rollups(database) -> tuple:
    with database.read() as session:
        counters = [row.model_dump() for row in session.exec(select(DeviceWindow).order_by(DeviceWindow.device))]
        sketches = [row.model_dump() for row in session.exec(select(SketchRollup).order_by(SketchRollup.cohort))]
    return counters, sketches


def test_a_whole_spool_replayed_in_any_order_changes_no_bit(database, devices):
    seed = 20260401
    print(f"seed {seed}")
    chance = random.Random(seed)
    batch = [telemetry(device, seq, ok=chance.randrange(50)) for device in devices for seq in range(1, 21)]
    first = ingest(database, batch)
    assert (first.fresh, first.repeated) == (40, 0)
    assert {device: ack.upto_seq for device, ack in first.acks.items()} == {"cam-1": 20, "cam-2": 20}
    before = rollups(database)
    assert before[0][0]["windows"] == 20
    for _ in range(3):
        chance.shuffle(batch)
        again = ingest(database, batch)
        assert (again.fresh, again.repeated) == (0, 40)
        assert again.acks == first.acks
    assert rollups(database) == before


def test_the_order_of_arrival_does_not_change_the_rollups(database, devices):
    batch = [telemetry("cam-1", seq, ok=seq * 3) for seq in range(1, 11)]
    for item in reversed(batch):
        ingest(database, [item])
    one_by_one = rollups(database)
    with database.write() as session:
        for row in [*session.exec(select(RawMessage)), *session.exec(select(DeviceWindow))]:
            session.delete(row)
        for row in session.exec(select(SketchRollup)):
            session.delete(row)
    ingest(database, batch)
    at_once = rollups(database)
    assert one_by_one[0] == at_once[0]
    assert one_by_one[1][0]["body"] == at_once[1][0]["body"]


def test_a_message_twice_in_one_batch_counts_once(database, devices):
    outcome = ingest(database, [telemetry("cam-1", 1), telemetry("cam-1", 1)])
    assert outcome.fresh == 1
    assert rollups(database)[0][0]["ok"] == 10


def test_the_ack_names_gaps_and_what_came_ahead(database, devices):
    outcome = ingest(database, [telemetry("cam-1", seq) for seq in (1, 2, 5, 7)])
    ack = outcome.acks["cam-1"]
    assert (ack.boot_epoch, ack.upto_seq, ack.missing, ack.also) == (EPOCH, 2, [3, 4, 6], [5, 7])
    later = ingest(database, [event("cam-1", seq) for seq in (3, 4, 6)]).acks["cam-1"]
    assert (later.upto_seq, later.missing, later.also) == (7, [], [])


def test_rows_a_device_says_it_dropped_are_not_waited_for(database, devices):
    declared = event("cam-1", 4, kind="spool_dropped", data={"boot_epoch": EPOCH, "seq": 1, "n": 3})
    outcome = ingest(database, [telemetry("cam-1", 2), declared])
    assert outcome.acks["cam-1"].upto_seq == 4
    assert rollups(database)[0][0]["windows"] == 1, "the one that did arrive still counts, once"
    assert ingest(database, [telemetry("cam-1", 1)]).fresh == 0, "a dropped row that turns up late is not added"


def test_what_cannot_be_read_is_set_aside_and_acknowledged(database, devices):
    newer = msgspec.json.encode({"v": 9, "device": "cam-1", "boot_epoch": EPOCH, "seq": 1})
    batch = [
        Inbound("cam-1", topics.UP_EVENT, newer),
        Inbound("cam-1", topics.UP_TELEMETRY, b"garbage"),
        Inbound("cam-1", topics.UP_EVENT, event("cam-2", 1).payload),
        Inbound("stranger", topics.UP_EVENT, event("stranger", 1).payload),
        event("cam-1", 2),
    ]
    outcome = ingest(database, batch)
    with database.read() as session:
        codes = sorted(session.exec(select(DeadLetter.code)))
        timeline = list(session.exec(select(DeviceEvent.device)))
    assert codes == ["DEVICE_UNKNOWN", "MESSAGE_IDENTITY", "MESSAGE_INVALID", "MESSAGE_VERSION"]
    assert timeline == ["cam-1"]
    assert outcome.acks["cam-1"].upto_seq == 2, "a message of a version we cannot read does not come back for ever"
    assert "stranger" not in outcome.acks


def test_a_window_with_counts_that_cannot_be_is_set_aside(database, devices):
    forged = window()
    forged.columns["sharpness"].counts[0] = -(2**40)
    message = Telemetry(device="cam-1", boot_epoch=EPOCH, seq=1, sent_ms=NOW, window=forged)
    outcome = ingest(database, [Inbound("cam-1", topics.UP_TELEMETRY, encode(message)), telemetry("cam-1", 2)])
    assert (outcome.unreadable, outcome.acks["cam-1"].upto_seq) == (1, 2)
    assert rollups(database)[0][0]["windows"] == 1


def test_only_a_newer_heartbeat_moves_the_twin(database, devices):
    heard = Heard()
    ingest(database, [reported("cam-1", 1, 2, "a" * 64), reported("cam-1", 1, 1, "b" * 64)], heard)
    ingest(database, [reported("cam-1", 1, 2, "c" * 64)], heard)
    assert heard.beats == [("cam-1", 2)]
    with database.read() as session:
        row = session.get(Device, "cam-1")
        assert row.last_seen_ms == NOW
        assert msgspec.json.decode(row.reported_json, type=Reported).models["vision/digits"].sha256 == "a" * 64
    ingest(database, [reported("cam-1", 2, 1, "d" * 64)], heard)
    assert heard.beats[-1] == ("cam-1", 1), "a new session begins its beats anew"


def test_presence_is_a_hint_and_an_old_session_cannot_change_it(database, devices):
    def presence(session: int, state: str) -> Inbound:
        return Inbound("cam-1", topics.UP_PRESENCE, encode(Presence("cam-1", session, NOW, state)))

    ingest(database, [presence(2, "online"), presence(1, "lost")])
    ingest(database, [reported("cam-1", 2, 1, "a" * 64)])
    ingest(database, [presence(1, "lost")])
    with database.read() as session:
        assert session.get(Device, "cam-1").presence == "online"


def test_a_window_with_a_wrong_clock_is_bucketed_by_arrival(database, devices):
    ingest(database, [telemetry("cam-1", 1, start_ms=1_000)])
    assert rollups(database)[0][0]["bucket_ms"] == NOW - NOW % BUCKET_MS


def test_a_failed_transaction_leaves_nothing_behind(database, devices):
    class Fails(Exception):
        pass

    def fail(*_arguments) -> None:
        raise Fails

    with pytest.raises(Fails):
        ingest(database, [telemetry("cam-1", 1), reported("cam-1", 1, 1, "a" * 64)], fail)
    with database.read() as session:
        assert list(session.exec(select(RawMessage.seq))) == []
    assert rollups(database) == ([], [])
    assert ingest(database, [telemetry("cam-1", 1)]).fresh == 1


def test_a_row_that_comes_in_one_batch_with_the_word_that_it_was_dropped_is_kept(database, devices):
    data = {"boot_epoch": EPOCH, "seq": 1, "n": 2, "each": [10, 7]}
    ingest(database, [telemetry("cam-1", 1), event("cam-1", 3, kind="spool_dropped", data=data)])
    with database.read() as session:
        rows = {row.seq: row for row in session.exec(select(RawMessage))}
    assert (rows[1].leaf, rows[2].leaf) == (topics.UP_TELEMETRY, "dropped")
    assert msgspec.json.decode(rows[2].payload) == {"samples": 7}, "subtracted, because it never came"
    assert rollups(database)[0][0]["ok"] == 10


def test_an_hour_that_arrives_late_by_a_right_clock_is_counted_where_it_began(database, devices):
    began = NOW - 5 * 3_600_000
    ingest(database, [telemetry("cam-1", 1, start_ms=began)])
    assert rollups(database)[0][0]["bucket_ms"] == began - began % BUCKET_MS


@pytest.mark.parametrize("skew_ms", [-3_600_000, 3_600_000, 10 * 365 * 86_400_000])
def test_windows_of_a_clock_that_is_wrong_are_bucketed_by_arrival(database, devices, skew_ms):
    ingest(database, [telemetry("cam-1", 1, start_ms=NOW + skew_ms)], now_ms=NOW - skew_ms)
    received = NOW - skew_ms
    assert rollups(database)[0][0]["bucket_ms"] == received - received % BUCKET_MS
