"""What devices send, however it came: one function serves MQTT and HTTPS.

In ONE transaction: raw rows are inserted, the roll-ups take in the rows that were really inserted, events join the
timeline, the device's last state moves forward and its rollout hears of it. The caller acknowledges after the commit.
Bytes that cannot be read are set aside in the dead-letter table and still acknowledged: sending them again would not
make them readable.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
from sqlalchemy import text
from sqlmodel import Session, col, select

from bundles.digest import canonical_json
from bundles.errors import MessageRefused
from bundles.sketch.merge import check_window
from bundles.wire import topics
from bundles.wire.codec import decode_up
from bundles.wire.messages import Ack, Event, Presence, Reported, Telemetry, UpMessage
from control_plane import metrics
from control_plane.db.engine import ROW_LOCK
from control_plane.db.tables import DeadLetter, Device, DeviceEvent
from control_plane.db.tables import Desired as DesiredRow
from control_plane.services import clones, desired, sequence
from control_plane.services.rollups import FreshWindow, add_windows

log = structlog.get_logger()
_INGEST_LOCK = 0x496E6773  # "Ings": one ingest transaction at a time on PostgreSQL too
DROPPED_EVENT = "spool_dropped"
MAX_DECLARED_DROPS = 10_000
REPUBLISH_AFTER_MS = 10_000
"""A device seen below its generation this long after it was told is told again."""

ObserveReported = Callable[[Session, Reported, int], None]


@dataclass(frozen=True)
class Inbound:
    """One message as it arrived; ``device`` is what the transport authenticated, not what the payload claims."""

    device: str
    leaf: str
    payload: bytes


@dataclass
class Outcome:
    """What a batch did: acknowledgements by device, and the devices whose state people may be watching."""

    acks: dict[str, Ack] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    fresh: int = 0
    repeated: int = 0
    unreadable: int = 0


def ingest(
    session: Session,
    batch: Sequence[Inbound],
    *,
    bucket_ms: int,
    observe_reported: ObserveReported,
    now_ms: int,
) -> Outcome:
    """Take in ``batch`` inside the transaction of ``session``.

    Args:
        session: of ``Database.write``.
        batch: messages in order of arrival; order is never relied on.
        bucket_ms: length of a roll-up bucket.
        observe_reported: what the rollouts do with a heartbeat that moved a device's state forward.
        now_ms: server clock.

    Returns:
        What to acknowledge once the transaction has committed.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _INGEST_LOCK})
    outcome = Outcome()
    devices = _known_devices(session, {item.device for item in batch})
    rows: list[sequence.Row] = []
    messages: dict[tuple[str, str, int], Event | Telemetry] = {}
    states: list[Reported | Presence] = []
    for item in batch:
        if item.device not in devices:
            _set_aside(session, item, "DEVICE_UNKNOWN", now_ms, outcome)
            continue
        try:
            message = _read(item)
        except MessageRefused as error:
            _set_aside(session, item, error.code, now_ms, outcome)
            if (header := _header(item)) is not None:
                rows.append(sequence.Row(item.device, header.boot_epoch, header.seq, item.leaf, b""))
            continue
        if isinstance(message, (Event, Telemetry)):
            row = sequence.Row(item.device, message.boot_epoch, message.seq, item.leaf, item.payload)
            rows.append(row)
            messages[row.key] = message
            rows.extend(_declared_drops(message))
        else:
            states.append(message)
    _take_in(session, rows, messages, outcome, bucket_ms=bucket_ms, now_ms=now_ms)
    _move_states(session, states, devices, outcome, observe_reported, now_ms)
    return outcome


def _take_in(
    session: Session,
    rows: list[sequence.Row],
    messages: dict[tuple[str, str, int], Event | Telemetry],
    outcome: Outcome,
    *,
    bucket_ms: int,
    now_ms: int,
) -> None:
    if not rows:
        return
    fresh = sequence.insert_fresh(session, rows, now_ms)
    windows: list[FreshWindow] = []
    for key in sorted(fresh):
        message = messages.get(key)
        if isinstance(message, Telemetry):
            windows.append(FreshWindow(message.device, message.window, message.sent_ms))
        elif isinstance(message, Event):
            session.add(_timeline(message, now_ms))
            outcome.touched.add(message.device)
    add_windows(session, windows, bucket_ms=bucket_ms, now_ms=now_ms)
    outcome.fresh += len(fresh)
    outcome.repeated += len({row.key for row in rows}) - len(fresh)
    outcome.acks = sequence.advance(session, {(row.device, row.boot_epoch) for row in rows}, sorted(fresh))


def _move_states(
    session: Session,
    states: list[Reported | Presence],
    devices: dict[str, Device],
    outcome: Outcome,
    observe_reported: ObserveReported,
    now_ms: int,
) -> None:
    moved: list[Reported] = []
    for message in states:
        row = devices[message.device]
        outcome.touched.add(row.id)
        row.last_seen_ms = now_ms
        if isinstance(message, Presence):
            if message.session >= row.session:
                row.presence = message.state
            session.add(row)
            continue
        clones.watch(session, row, message, now_ms)
        if (message.session, message.beat) <= (row.session, row.beat):
            continue  # an older heartbeat that overtook nothing: the newest one stands
        row.session, row.beat = message.session, message.beat
        row.presence = "online"
        row.reported_gen = message.gen
        row.reported_json = canonical_json(message).decode()
        row.hardware = message.hardware or row.hardware
        row.tier = message.tier
        session.add(row)
        observe_reported(session, message, now_ms)
        moved.append(message)
    for message in moved:
        _tell_again_if_behind(session, message, now_ms)


def _tell_again_if_behind(session: Session, reported: Reported, now_ms: int) -> None:
    row = session.get(DesiredRow, reported.device)
    if row is None or reported.gen >= row.gen or row.published_gen < row.gen:
        return
    if now_ms - row.published_ms >= REPUBLISH_AFTER_MS:
        desired.needs_republish(session, reported.device)


def _read(item: Inbound) -> UpMessage:
    message = decode_up(item.leaf, item.payload)
    if message.device != item.device:
        raise MessageRefused(
            f"{item.device!r} sent a message in the name of {message.device!r}.", code="MESSAGE_IDENTITY"
        )
    if isinstance(message, Telemetry):
        check_window(message.window, None)  # counts no honest device can have would spoil every sum they join
    return message


class _Header(msgspec.Struct):
    boot_epoch: str
    seq: int


def _header(item: Inbound) -> _Header | None:
    """Read only what an ack needs, so that a message of another version does not come back for ever."""
    try:
        if item.leaf == topics.UP_TELEMETRY:
            data = zlib.decompressobj().decompress(item.payload, 1 << 20)
            return msgspec.msgpack.decode(data, type=_Header)
        if item.leaf == topics.UP_EVENT:
            return msgspec.json.decode(item.payload, type=_Header)
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return None


def _declared_drops(message: Event | Telemetry) -> list[sequence.Row]:
    """Tombstones of rows the device says it dropped after sending them; a row that did arrive stays what it is."""
    if not isinstance(message, Event) or message.kind != DROPPED_EVENT:
        return []
    try:
        declared = msgspec.convert(message.data, _Drops)
    except msgspec.ValidationError:
        return []
    count = min(declared.n, MAX_DECLARED_DROPS)
    return [
        sequence.Row(
            message.device,
            declared.boot_epoch,
            declared.seq + number,
            sequence.DROPPED_LEAF,
            canonical_json({"samples": declared.each[number] if number < len(declared.each) else 0}),
        )
        for number in range(count)
    ]


class _Drops(msgspec.Struct):
    """``n`` rows from ``seq`` on; ``each`` says how many requests each of them counted."""

    boot_epoch: str
    seq: int
    n: int
    each: list[int] = []


def _timeline(message: Event, now_ms: int) -> DeviceEvent:
    return DeviceEvent(
        device=message.device,
        boot_epoch=message.boot_epoch,
        seq=message.seq,
        at_ms=message.at_ms,
        received_ms=now_ms,
        kind=message.kind,
        model=message.model,
        sha256=message.sha256,
        code=message.code,
        detail=message.detail,
        data_json=canonical_json(message.data).decode(),
    )


def _set_aside(session: Session, item: Inbound, code: str, now_ms: int, outcome: Outcome) -> None:
    outcome.unreadable += 1
    metrics.DEAD_LETTERS.labels(code=code).inc()
    log.warning("message_set_aside", device=item.device, leaf=item.leaf, code=code)
    session.add(DeadLetter(device=item.device, leaf=item.leaf, code=code, received_ms=now_ms, payload=item.payload))


def _known_devices(session: Session, ids: set[str]) -> dict[str, Device]:
    rows = session.exec(
        select(Device)
        .where(col(Device.id).in_(sorted(ids)), col(Device.state) == "enrolled")
        .order_by(col(Device.id))
        .with_for_update(**ROW_LOCK)
    )
    return {row.id: row for row in rows}
