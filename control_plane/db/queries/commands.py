"""Commands to devices and their support bundles, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlmodel import Session, col, select, tuple_

from bundles.wire.commands import DIAGNOSE
from control_plane.db.queries.devices import check_device
from control_plane.db.queries.pages import cut
from control_plane.db.tables import DeviceCommand, DiagnosisPart
from control_plane.errors import NotFound

Key = tuple[int, str]


@dataclass(frozen=True)
class CommandView:
    """One command.

    Attributes:
        do: diagnose | selftest | status | rollback.
        actor: who asked; ``system:rollout`` where a rollout did by itself.
        why: as they said.
        state: waiting | done | failed | expired | withdrawn.
        code: why it failed, where it did.
        data: what the device answered.
        bundle_bytes: length of the support bundle that is kept, 0 = none is.
        bundle_sha256: its digest.
        rollout: that asked by itself; empty where a person did.
        wave: of that rollout, from 1; 0 = none.
        failure: reason of the failure it was asked for.
    """

    id: str
    device: str
    do: str
    actor: str
    why: str
    state: str
    issued_ms: int
    expires_ms: int
    ended_ms: int | None
    code: str
    detail: str
    data: dict[str, Any]
    bundle_bytes: int
    bundle_sha256: str
    rollout: str
    wave: int
    failure: str


@dataclass(frozen=True)
class CommandPage:
    """One page of commands; ``next`` is the cursor of the following page, empty at the end."""

    items: list[CommandView]
    next: str


def list_commands(
    session: Session, device: str, *, do: str = "", after: Key | None = None, limit: int = 50
) -> tuple[list[CommandView], Key | None]:
    """Return a page of a device's commands, newest first, and the key to go on from.

    Args:
        session: of ``Database.read``.
        device: id.
        do: keep only this word, where not empty.
        after: (issued_ms, id) of the last command seen.
        limit: size of the page.

    Raises:
        NotFound: ``DEVICE_UNKNOWN``.
    """
    check_device(session, device)
    statement = select(DeviceCommand).where(DeviceCommand.device == device)
    if do:
        statement = statement.where(DeviceCommand.do == do)
    if after is not None:
        statement = statement.where(tuple_(col(DeviceCommand.issued_ms), col(DeviceCommand.id)) < after)
    order = (col(DeviceCommand.issued_ms).desc(), col(DeviceCommand.id).desc())
    rows = session.exec(statement.order_by(*order).limit(limit + 1)).all()
    return cut([command_view(row) for row in rows], limit, lambda view: (view.issued_ms, view.id))


def show_command(session: Session, device: str, command: str) -> CommandView:
    """Return one command.

    Raises:
        NotFound: ``COMMAND_UNKNOWN``.
    """
    return command_view(command_row(session, device, command))


def diagnoses_of_rollout(session: Session, rollout: str) -> list[CommandView]:
    """Return the diagnoses that a rollout asked for by itself, in the order they were asked for."""
    order = (col(DeviceCommand.issued_ms), col(DeviceCommand.id))
    rows = session.exec(select(DeviceCommand).where(DeviceCommand.rollout == rollout).order_by(*order)).all()
    return [command_view(row) for row in rows]


def read_bundle(session: Session, device: str, command: str) -> bytes:
    """Return a support bundle.

    Raises:
        NotFound: ``COMMAND_UNKNOWN``, or ``DIAGNOSIS_NOT_KEPT``: it has not come, or newer ones have taken its place.
    """
    row = command_row(session, device, command)
    if row.do != DIAGNOSE or not row.is_kept:
        raise NotFound(
            f"No support bundle of the command {command!r} is kept.",
            code="DIAGNOSIS_NOT_KEPT",
            remedy="See `wavegate device commands DEVICE`, or ask again: wavegate device diagnose DEVICE --wait.",
        )
    parts = session.exec(
        select(DiagnosisPart.content).where(DiagnosisPart.command == command).order_by(col(DiagnosisPart.number))
    ).all()
    return b"".join(parts)


def command_row(session: Session, device: str, command: str) -> DeviceCommand:
    """Return the row of a device's command.

    Raises:
        NotFound: ``COMMAND_UNKNOWN``.
    """
    row = session.get(DeviceCommand, command)
    if row is None or row.device != device:
        raise NotFound(
            f"The device {device!r} has no command {command!r}.",
            code="COMMAND_UNKNOWN",
            remedy="See `wavegate device commands DEVICE`.",
        )
    return row


def command_view(row: DeviceCommand) -> CommandView:
    """Return ``row`` as plain values."""
    return CommandView(
        id=row.id,
        device=row.device,
        do=row.do,
        actor=row.actor,
        why=row.why,
        state=row.state,
        issued_ms=row.issued_ms,
        expires_ms=row.expires_ms,
        ended_ms=row.ended_ms,
        code=row.code,
        detail=row.detail,
        data=msgspec.json.decode(row.data_json),
        bundle_bytes=row.length if row.is_kept else 0,
        bundle_sha256=row.sha256 if row.is_kept else "",
        rollout=row.rollout,
        wave=row.wave + 1 if row.rollout else 0,
        failure=row.failure,
    )
