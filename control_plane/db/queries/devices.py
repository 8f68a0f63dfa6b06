"""Devices: the list (a hot path: plain rows, one decode each), one device's twin, its timeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Row, Select
from sqlmodel import Session, col, select

from bundles.wire.messages import Profile
from control_plane.db.queries.pages import cut
from control_plane.db.tables import Desired, Device, DeviceEvent, DeviceExecution, SequenceMark
from control_plane.errors import NotFound

MISSED_BEATS = 3
"""A device is offline after this many heartbeats did not come (05-transport: decided by missed heartbeats only)."""
MAX_EXECUTIONS = 20


@dataclass(frozen=True)
class RunningModel:
    """What a device says of one model."""

    sha256: str = ""
    version: str = ""
    variant: str = ""
    runtime: str = ""
    accelerator: str = ""
    phase: str = "idle"
    target_sha256: str = ""
    reason: str = ""
    detail: str = ""
    healthy: bool = True


@dataclass(frozen=True)
class DeviceView:
    """One device in a list.

    Attributes:
        state: pending | enrolled | revoked | retired.
        online: heard of within three heartbeats.
        desired_gen: newest generation asked for.
        reported_gen: generation it says it works on.
        models: by ``team/model``.
    """

    id: str
    hardware: str
    state: str
    cohort: str
    tier: str
    labels: dict[str, str]
    last_seen_ms: int | None
    online: bool
    presence: str
    desired_gen: int
    reported_gen: int
    models: dict[str, RunningModel]


@dataclass(frozen=True)
class DevicePage:
    """One page of devices, by id; ``next`` is the cursor of the following page, empty at the end."""

    items: list[DeviceView]
    next: str


@dataclass(frozen=True)
class ExecutionView:
    """Where a device stands in one rollout; ``wave`` counts from 1."""

    rollout: str
    device: str
    wave: int
    stratum: str
    state: str
    reason: str
    variant: str
    active: bool
    generation: int
    updated_ms: int
    deadline_ms: int | None
    previous_sha256: str


@dataclass(frozen=True)
class AskedModel:
    """What a device is asked to run of one model."""

    target: str
    sha256: str
    counter: int
    stage: str = "run"


@dataclass(frozen=True)
class SpoolView:
    """What is stored of one spool of a device: whole when ``stored`` = ``upto_seq`` = ``max_seq``.

    Attributes:
        boot_epoch: which spool.
        upto_seq: every row up to this one is stored.
        max_seq: the highest row stored.
        stored: rows stored, each counted once however often it came.
    """

    boot_epoch: str
    upto_seq: int
    max_seq: int
    stored: int


@dataclass(frozen=True)
class DeviceDetail:
    """A device's twin, whole.

    Attributes:
        desired: what it is asked to run, by ``team/model``.
        reported: its last heartbeat as plain values, empty before the first.
        executions: its newest rollouts first, at most 20.
        spools: what arrived of its exactly-once reports.
    """

    device: DeviceView
    enrolled_ms: int
    certificate_serial: str
    certificate_expires_ms: int | None
    desired: dict[str, AskedModel]
    desired_rollout: str
    published_gen: int
    reported: dict[str, Any]
    executions: list[ExecutionView]
    spools: list[SpoolView]


@dataclass(frozen=True)
class EventView:
    """One line of a device's timeline."""

    id: int
    device: str
    at_ms: int
    received_ms: int
    kind: str
    model: str
    sha256: str
    code: str
    detail: str
    data: dict[str, Any]


@dataclass(frozen=True)
class EventPage:
    """One page of a timeline, newest first; ``next`` is the cursor of the following page, empty at the end."""

    items: list[EventView]
    next: str


class _ReportedModels(msgspec.Struct):
    models: dict[str, RunningModel] = {}


_reported = msgspec.json.Decoder(_ReportedModels)
_profile = msgspec.json.Decoder(Profile)
_labels = msgspec.json.Decoder(dict[str, str])
_COLUMNS: list[Any] = [
    Device.id,
    Device.hardware,
    Device.state,
    Device.cohort,
    Device.tier,
    Device.labels_json,
    Device.last_seen_ms,
    Device.presence,
    Device.reported_gen,
    Device.reported_json,
    Desired.gen,
    Desired.profile_json,
]


def list_devices(
    session: Session,
    *,
    now_ms: int,
    state: str = "",
    hardware: str = "",
    cohort: str = "",
    after: str | None = None,
    limit: int = 50,
) -> tuple[list[DeviceView], str | None]:
    """Return a page of devices in the order of their ids, and the id to go on from.

    Args:
        session: of ``Database.read``.
        now_ms: server clock; decides who is online.
        state: keep only this state, where not empty.
        hardware: keep only this hardware, where not empty.
        cohort: keep only this cohort, where not empty.
        after: id of the last device seen.
        limit: size of the page.
    """
    statement = _select()
    for column, wanted in ((Device.state, state), (Device.hardware, hardware), (Device.cohort, cohort)):
        if wanted:
            statement = statement.where(col(column) == wanted)
    if after is not None:
        statement = statement.where(col(Device.id) > after)
    rows = session.execute(statement.order_by(col(Device.id)).limit(limit + 1)).all()
    return cut([_view(row, now_ms) for row in rows], limit, lambda view: view.id)


def show_device(session: Session, device: str, now_ms: int) -> DeviceDetail:
    """Return one device's twin.

    Raises:
        NotFound: ``DEVICE_UNKNOWN``.
    """
    row = session.execute(_select().where(col(Device.id) == device)).one_or_none()
    if row is None:
        raise device_unknown(device)
    stored = session.get(Device, device)
    assert stored is not None
    desired = session.get(Desired, device)
    executions = session.exec(
        select(DeviceExecution)
        .where(col(DeviceExecution.device) == device)
        .order_by(col(DeviceExecution.id).desc())
        .limit(MAX_EXECUTIONS)
    ).all()
    return DeviceDetail(
        device=_view(row, now_ms),
        enrolled_ms=stored.enrolled_ms,
        certificate_serial=stored.certificate_serial,
        certificate_expires_ms=stored.certificate_expires_ms,
        desired=msgspec.json.decode(desired.models_json, type=dict[str, AskedModel]) if desired else {},
        desired_rollout=desired.rollout if desired else "",
        published_gen=desired.published_gen if desired else 0,
        reported=msgspec.json.decode(stored.reported_json) if stored.reported_json else {},
        executions=[execution_view(execution) for execution in executions],
        spools=[
            SpoolView(mark.boot_epoch, mark.upto_seq, mark.max_seq, mark.stored)
            for mark in session.exec(select(SequenceMark).where(SequenceMark.device == device))
        ],
    )


def list_events(
    session: Session, device: str, *, after: int | None = None, limit: int = 50
) -> tuple[list[EventView], int | None]:
    """Return a page of the timeline of ``device``, newest first, and the id to go on from.

    Raises:
        NotFound: ``DEVICE_UNKNOWN``.
    """
    check_device(session, device)
    statement = select(DeviceEvent).where(col(DeviceEvent.device) == device)
    if after is not None:
        statement = statement.where(col(DeviceEvent.id) < after)
    rows = session.exec(statement.order_by(col(DeviceEvent.id).desc()).limit(limit + 1)).all()
    return cut([_event(row) for row in rows], limit, lambda view: view.id)


def check_device(session: Session, device: str) -> Device:
    """Return the row of ``device``.

    Raises:
        NotFound: ``DEVICE_UNKNOWN``.
    """
    row = session.get(Device, device)
    if row is None:
        raise device_unknown(device)
    return row


def execution_view(row: DeviceExecution) -> ExecutionView:
    """Return ``row`` as plain values."""
    values = {name: getattr(row, name) for name in ExecutionView.__dataclass_fields__}
    return ExecutionView(**{**values, "wave": row.wave + 1})


def device_unknown(device: str) -> NotFound:
    """Return the error for an id no device has."""
    return NotFound(f"No device is called {device!r}.", code="DEVICE_UNKNOWN", remedy="See `wavegate device list`.")


def _select() -> Select[Any]:
    statement: Select[Any] = select(*_COLUMNS).join(Desired, col(Desired.device) == col(Device.id), isouter=True)
    return statement


def _view(row: Row[Any], now_ms: int) -> DeviceView:
    profile = _profile.decode(row.profile_json or "{}")
    patience_ms = int(MISSED_BEATS * profile.heartbeat_s * 1000)
    return DeviceView(
        id=row.id,
        hardware=row.hardware,
        state=row.state,
        cohort=row.cohort,
        tier=row.tier,
        labels=_labels.decode(row.labels_json),
        last_seen_ms=row.last_seen_ms,
        online=row.last_seen_ms is not None and now_ms - row.last_seen_ms <= patience_ms,
        presence=row.presence,
        desired_gen=row.gen or 0,
        reported_gen=row.reported_gen,
        models=_reported.decode(row.reported_json).models if row.reported_json else {},
    )


def _event(row: DeviceEvent) -> EventView:
    assert row.id is not None
    return EventView(
        id=row.id,
        device=row.device,
        at_ms=row.at_ms,
        received_ms=row.received_ms,
        kind=row.kind,
        model=row.model,
        sha256=row.sha256,
        code=row.code,
        detail=row.detail,
        data=msgspec.json.decode(row.data_json, type=dict[str, Any]),
    )
