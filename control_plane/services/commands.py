"""Commands to devices: asked for by people, told, ended, and kept within bounds.

A command is a row before it is a message: it is told again until it is answered or has expired, and the device does it
once. Every command has its audit row, whoever asked. Leaves publishing to ``workers``, what devices answer to
``answers``, support bundles to ``diagnoses``, and what devices do to the agent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import delete, func, update
from sqlmodel import Session, col, select

from bundles.digest import canonical_json
from bundles.wire import commands as wire
from bundles.wire.commands import Command
from control_plane.db.queries.commands import CommandView, command_view
from control_plane.db.queries.devices import check_device
from control_plane.db.tables import Device, DeviceCommand, DiagnosisPart
from control_plane.errors import Conflict, RequestRefused
from control_plane.services import audit

WAITING, DONE, FAILED, EXPIRED, WITHDRAWN = "waiting", "done", "failed", "expired", "withdrawn"
LIFE_S = {wire.DIAGNOSE: 24 * 3600, wire.SELFTEST: 3600, wire.STATUS: 3600, wire.ROLLBACK: 3600}
"""A device that was away comes back to a diagnosis; a roll back that nobody thinks of any more is not done."""
MAX_LIFE_S = 7 * 24 * 3600
BETWEEN_MS = 60_000
"""Between two commands of one kind to a device, unless forced."""
KEPT_COMMANDS = 100
HOUSEKEEPING = "system:commands"


@dataclass(frozen=True)
class Asked:
    """What a person asks of a device.

    Attributes:
        device: id.
        do: one of ``bundles.wire.commands.DOINGS``.
        model: of a roll back: ``team/model``; empty = the only one.
        why: for the audit.
        life_s: seconds in which it may begin; 0 = as usual for the word.
        is_forced: also where one is under way, or ended a moment ago.
    """

    device: str
    do: str
    model: str = ""
    why: str = ""
    life_s: int = 0
    is_forced: bool = False


def ask(
    session: Session,
    asked: Asked,
    *,
    actor: str,
    may: Callable[[str], None],
    now_ms: int,
    random_bytes: Callable[[int], bytes],
) -> CommandView:
    """Ask something of a device.

    Args:
        session: of ``Database.write``.
        asked: what.
        actor: who asks.
        may: refuses where they may not act for a team; told the team of a model that is rolled back.
        now_ms: server clock.
        random_bytes: source of randomness.

    Raises:
        NotFound: ``DEVICE_UNKNOWN``.
        RequestRefused: ``COMMAND_UNKNOWN``, ``COMMAND_LIFE`` or ``COMMAND_MODEL``.
        Conflict: ``DEVICE_NOT_ENROLLED``, ``COMMAND_UNDER_WAY`` or ``COMMAND_TOO_SOON``.
    """
    if asked.do not in wire.DOINGS:
        raise RequestRefused(
            f"{asked.do!r} is nothing a device can be asked.",
            code="COMMAND_UNKNOWN",
            remedy=f"Use one of {', '.join(wire.DOINGS)}.",
        )
    if not 0 <= asked.life_s <= MAX_LIFE_S:
        raise RequestRefused(
            f"A command lives for 1 to {MAX_LIFE_S} seconds.", code="COMMAND_LIFE", remedy="Shorten its life."
        )
    row = check_device(session, asked.device)
    _check_enrolled(row)
    if not asked.is_forced:
        _check_pace(session, asked, now_ms)
    args = _rollback_args(row, asked.model, actor) if asked.do == wire.ROLLBACK else {}
    if args:
        may(str(args["model"]).partition("/")[0])
    made = DeviceCommand(
        id=random_bytes(12).hex(),
        device=asked.device,
        do=asked.do,
        args_json=canonical_json(args).decode(),
        actor=actor,
        why=asked.why,
        issued_ms=now_ms,
        expires_ms=now_ms + (asked.life_s or LIFE_S[asked.do]) * 1000,
    )
    add(session, made, now_ms)
    return command_view(made)


def add(session: Session, row: DeviceCommand, now_ms: int) -> None:
    """Add a command with its audit row; the oldest that have ended make room where a device has many."""
    session.add(row)
    session.flush()
    old = session.exec(
        select(DeviceCommand.id)
        .where(DeviceCommand.device == row.device, DeviceCommand.state != WAITING)
        .order_by(col(DeviceCommand.issued_ms).desc(), col(DeviceCommand.id).desc())
        .offset(KEPT_COMMANDS)
    ).all()
    if old:
        drop_parts(session, list(old))
        session.exec(delete(DeviceCommand).where(col(DeviceCommand.id).in_(old)))
    body = {"command": row.id, "do": row.do, "why": row.why, "expires_ms": row.expires_ms}
    if row.rollout:
        body |= {"rollout": row.rollout, "wave": row.wave, "failure": row.failure}
    audit.record(session, "audit", row.actor, f"device.{row.do}", f"device:{row.device}", body, now_ms)


def end(session: Session, row: DeviceCommand, state: str, code: str, detail: str, now_ms: int) -> None:
    """End a command with its audit row; parts of a support bundle that is not kept go with it."""
    row.state, row.code, row.detail, row.ended_ms = state, code, detail, now_ms
    session.add(row)
    if not row.is_kept:
        drop_parts(session, [row.id])
    body: dict[str, Any] = {"command": row.id, "do": row.do, "state": state, "code": code}
    if row.is_kept:
        body |= {"sha256": row.sha256, "bytes": row.length}
    device = f"device:{row.device}"
    is_answered = state in (DONE, FAILED)
    action = "device.answer" if is_answered else f"device.command.{state}"
    audit.record(session, "audit", device if is_answered else HOUSEKEEPING, action, device, body, now_ms)


def drop_parts(session: Session, commands: list[str]) -> None:
    """Delete the support bundles of these commands, whole or not."""
    session.exec(delete(DiagnosisPart).where(col(DiagnosisPart.command).in_(commands)))


def waiting_for(session: Session, device: str, now_ms: int) -> list[Command]:
    """Return what waits for ``device``, the oldest first."""
    rows = session.exec(
        select(DeviceCommand)
        .where(DeviceCommand.device == device, DeviceCommand.state == WAITING, col(DeviceCommand.expires_ms) >= now_ms)
        .order_by(col(DeviceCommand.issued_ms), col(DeviceCommand.id))
        .limit(KEPT_COMMANDS)
    )
    return [message_of(row) for row in rows]


def count_waiting(session: Session, device: str, now_ms: int) -> int:
    """Return how many commands wait for ``device``: asked with every batch of reports, and answered by an index."""
    return session.exec(
        select(func.count()).where(
            DeviceCommand.device == device, DeviceCommand.state == WAITING, col(DeviceCommand.expires_ms) >= now_ms
        )
    ).one()


def untold(session: Session, now_ms: int, again_ms: int, limit: int) -> list[tuple[str, Command]]:
    """Return what is to be told over the broker now: (device, command)."""
    rows = session.exec(
        select(DeviceCommand)
        .where(
            DeviceCommand.state == WAITING,
            col(DeviceCommand.told_ms) <= now_ms - again_ms,
            col(DeviceCommand.expires_ms) >= now_ms,
        )
        .order_by(col(DeviceCommand.told_ms), col(DeviceCommand.id))
        .limit(limit)
    )
    return [(row.device, message_of(row)) for row in rows]


def mark_told(session: Session, commands: list[str], now_ms: int) -> None:
    """Note that these were published."""
    session.exec(update(DeviceCommand).where(col(DeviceCommand.id).in_(commands)).values(told_ms=now_ms))


def has_expired(session: Session, now_ms: int) -> bool:
    """Whether ``expire`` would end anything."""
    found = select(DeviceCommand.id).where(DeviceCommand.state == WAITING, col(DeviceCommand.expires_ms) < now_ms)
    return session.exec(found.limit(1)).first() is not None


def expire(session: Session, now_ms: int) -> int:
    """End what nobody answered in time; return how many."""
    # Locked, and what is being answered at this very moment is passed over: its answer counts.
    late = (
        select(DeviceCommand)
        .where(DeviceCommand.state == WAITING, col(DeviceCommand.expires_ms) < now_ms)
        .with_for_update(skip_locked=True)
    )
    rows = session.exec(late).all()
    for row in rows:
        end(session, row, EXPIRED, "COMMAND_EXPIRED", "The device did not answer in time.", now_ms)
    return len(rows)


def forget_device(session: Session, device: str, now_ms: int) -> None:
    """Withdraw what waits for a device that is no more, and delete its support bundles."""
    rows = session.exec(select(DeviceCommand).where(DeviceCommand.device == device).with_for_update()).all()
    drop_parts(session, [row.id for row in rows])
    for row in rows:
        row.is_kept = False
        if row.state == WAITING:
            end(session, row, WITHDRAWN, "DEVICE_ENDED", "The device was taken out of service.", now_ms)
        session.add(row)


def message_of(row: DeviceCommand) -> Command:
    """Return ``row`` as it is told to the device."""
    args: dict[str, Any] = msgspec.json.decode(row.args_json)
    return Command(row.id, row.do, row.issued_ms, row.expires_ms, args)


def _check_enrolled(row: Device) -> None:
    if row.state != "enrolled":
        raise Conflict(
            f"The device {row.id!r} is {row.state}.",
            code="DEVICE_NOT_ENROLLED",
            remedy="Only devices in service can be asked.",
        )


def _check_pace(session: Session, asked: Asked, now_ms: int) -> None:
    last = session.exec(
        select(DeviceCommand)
        .where(DeviceCommand.device == asked.device, DeviceCommand.do == asked.do)
        .order_by(col(DeviceCommand.issued_ms).desc())
        .limit(1)
    ).first()
    if last is None:
        return
    if last.state == WAITING and last.expires_ms >= now_ms:
        raise Conflict(
            f"The device {asked.device!r} was asked already and has not answered: command {last.id}.",
            code="COMMAND_UNDER_WAY",
            remedy="Wait for its answer, or say --force.",
            details={"command": last.id},
        )
    if now_ms - last.issued_ms < BETWEEN_MS:
        raise Conflict(
            f"The device {asked.device!r} was asked less than {BETWEEN_MS // 1000} s ago: command {last.id}.",
            code="COMMAND_TOO_SOON",
            remedy="Look at that answer, wait, or say --force.",
            details={"command": last.id},
        )


def _rollback_args(row: Device, model: str, actor: str) -> dict[str, Any]:
    """Name the release to leave as the device last said, so that the same command leads back once."""
    models: Mapping[str, Any] = msgspec.json.decode(row.reported_json).get("models", {}) if row.reported_json else {}
    if not model and len(models) == 1:
        model = next(iter(models))
    if model not in models:
        known = ", ".join(sorted(models)) or "none"
        raise RequestRefused(
            f"The device {row.id!r} has said nothing of a model {model!r}.",
            code="COMMAND_MODEL",
            remedy=f"Name one with --model; it reports: {known}.",
        )
    return {"model": model, "actor": actor, "sha256": models[model].get("sha256", "")}
