"""Support bundles: asked for where devices fail in a rollout, put together from their parts, kept within bounds.

A bundle is kept once its parts make up what the device said it is, byte by byte; until then it is nothing. Kept are the
newest of each device, for a time, and no more bytes of the whole fleet than the disk is meant to hold: the oldest go
first, their commands stay. Leaves commands to ``commands``, and looking into bundles to people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func
from sqlmodel import Session, col, select

from bundles.digest import canonical_json, is_sha256, sha256_hex
from bundles.errors import MessageRefused
from bundles.wire import commands as wire
from bundles.wire.commands import CommandResult
from control_plane.db.tables import Device, DeviceCommand, DiagnosisPart
from control_plane.services import commands

SYSTEM = "system:rollout"
MOST_A_WAVE = 50
"""Asked by themselves, of all reasons together."""
DAY_MS = 24 * 3_600_000


@dataclass(frozen=True)
class Keeping:
    """What is kept.

    Attributes:
        each: bundles of one device.
        days: a bundle is kept.
        total_bytes: of all bundles, those on their way in included.
    """

    each: int = 5
    days: float = 30.0
    total_bytes: int = 1024**3


KEEPING = Keeping()


def ask_about_failure(
    session: Session, *, rollout: str, wave: int, device: str, failure: str, most: int, now_ms: int
) -> None:
    """Ask a device that failed in a rollout for a diagnosis, if it is among the first ``most`` of that reason and wave.

    Asking again changes nothing. Simulated devices have nothing to show and are not asked.

    Args:
        session: of ``Database.write``.
        rollout: id.
        wave: counted from 0.
        device: id.
        failure: reason word; may be empty.
        most: devices asked for one reason in one wave.
        now_ms: server clock.
    """
    in_wave = select(func.count()).where(DeviceCommand.rollout == rollout, DeviceCommand.wave == wave)
    for_this = session.exec(in_wave.where(DeviceCommand.failure == failure)).one()
    if for_this >= most or session.exec(in_wave).one() >= MOST_A_WAVE:  # reasons are words of the devices
        return
    row = session.get(Device, device)
    if row is None or row.state != "enrolled" or row.tier != "real":
        return
    # Derived, so that whoever tells of the same failure twice asks once.
    command = sha256_hex(canonical_json([rollout, wave, device, failure]))[:24]
    if session.get(DeviceCommand, command) is not None:
        return
    asked = DeviceCommand(
        id=command,
        device=device,
        do=wire.DIAGNOSE,
        actor=SYSTEM,
        why=f"Among the first {most} that failed for {failure or 'a reason untold'} in wave {wave + 1} of {rollout}.",
        issued_ms=now_ms,
        expires_ms=now_ms + commands.LIFE_S[wire.DIAGNOSE] * 1000,
        rollout=rollout,
        wave=wave,
        failure=failure,
    )
    commands.add(session, asked, now_ms)


def take_part(session: Session, row: DeviceCommand, number: int, content: bytes, now_ms: int) -> None:
    """Keep a part of the bundle that ``row`` asked for; one that comes again takes the place of the first.

    Raises:
        MessageRefused: ``MESSAGE_TOO_LARGE``.
    """
    if number >= wire.MAX_PARTS or len(content) > wire.PART_BYTES:
        raise MessageRefused(
            "This is no part of a support bundle.", code="MESSAGE_TOO_LARGE", remedy="Check the agent's release."
        )
    session.merge(DiagnosisPart(command=row.id, number=number, content=content))
    session.flush()
    if row.sha256:
        _complete(session, row, now_ms)


def take_word(session: Session, row: DeviceCommand, result: CommandResult, now_ms: int) -> None:
    """Take in what the device says its bundle is; parts may have come before, and may come later.

    Raises:
        MessageRefused: it does not say so.
    """
    sha256, length = result.data.get("sha256"), result.data.get("bytes")
    is_digest = isinstance(sha256, str) and is_sha256(sha256)
    if not is_digest or type(length) is not int or not 0 < length <= wire.MAX_BUNDLE_BYTES:
        raise MessageRefused("The result does not say what its support bundle is.")
    row.sha256, row.length = str(sha256), length
    session.add(row)
    _complete(session, row, now_ms)


def has_excess(session: Session, keeping: Keeping, now_ms: int) -> bool:
    """Whether ``tidy`` would delete anything; asked every second, and one look at an index."""
    total, oldest_ms = session.exec(
        select(func.coalesce(func.sum(DeviceCommand.length), 0), func.min(DeviceCommand.ended_ms)).where(
            col(DeviceCommand.is_kept)
        )
    ).one()
    is_old = oldest_ms is not None and oldest_ms < now_ms - keeping.days * DAY_MS
    return is_old or total + _on_their_way(session) > keeping.total_bytes


def tidy(session: Session, keeping: Keeping, now_ms: int) -> int:
    """Delete bundles that are too old, and the oldest ones beyond the bytes of all; return how many."""
    excess = _excess(session, keeping, now_ms)
    _forget(session, [row for command in excess if (row := session.get(DeviceCommand, command, with_for_update=True))])
    return len(excess)


def _excess(session: Session, keeping: Keeping, now_ms: int) -> list[str]:
    """Return the commands whose bundles are to go."""
    kept = session.exec(
        select(DeviceCommand.id, DeviceCommand.length, DeviceCommand.ended_ms)
        .where(col(DeviceCommand.is_kept))
        .order_by(col(DeviceCommand.issued_ms).desc(), col(DeviceCommand.id).desc())
    )
    excess, total = [], _on_their_way(session)
    for command, length, ended_ms in kept:
        total += length
        if total > keeping.total_bytes or (ended_ms or 0) < now_ms - keeping.days * DAY_MS:
            excess.append(command)
    return excess


def _on_their_way(session: Session) -> int:
    """Return the most bytes that the parts of unfinished bundles can have."""
    parts = session.exec(
        select(func.count())
        .select_from(DiagnosisPart)
        .join(DeviceCommand, col(DeviceCommand.id) == col(DiagnosisPart.command))
        .where(DeviceCommand.state == commands.WAITING)
    ).one()
    return parts * wire.PART_BYTES


def _complete(session: Session, row: DeviceCommand, now_ms: int) -> None:
    """End a diagnosis whose parts are all there; parts of another bundle wait for the device to send them anew."""
    wanted = -(-row.length // wire.PART_BYTES)
    parts = session.exec(
        select(DiagnosisPart).where(DiagnosisPart.command == row.id).order_by(col(DiagnosisPart.number))
    ).all()
    content = b"".join(part.content for part in parts[:wanted])
    if len(content) != row.length or sha256_hex(content) != row.sha256:
        return
    for part in parts[wanted:]:
        session.delete(part)
    row.is_kept = True
    session.flush()
    commands.end(session, row, commands.DONE, "", f"A support bundle of {row.length} bytes.", now_ms)
    session.flush()
    newest = session.exec(
        select(DeviceCommand)
        .where(DeviceCommand.device == row.device, col(DeviceCommand.is_kept))
        .order_by(col(DeviceCommand.issued_ms).desc(), col(DeviceCommand.id).desc())
    ).all()
    _forget(session, newest[KEEPING.each :])


def _forget(session: Session, rows: Sequence[DeviceCommand]) -> None:
    if rows:
        commands.drop_parts(session, [row.id for row in rows])
    for row in rows:
        row.is_kept = False
        session.add(row)
