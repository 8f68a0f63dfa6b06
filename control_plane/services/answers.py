"""What devices answer to commands, by whichever door: results, and parts of support bundles or whole ones.

An answer that comes twice, or to nothing that waits, changes nothing. Who it is from, the transport has made sure of.
"""

from __future__ import annotations

import structlog
from sqlmodel import Session

from bundles.digest import canonical_json
from bundles.errors import MessageRefused
from bundles.wire import commands as wire
from bundles.wire.commands import CommandResult
from control_plane.db.queries.commands import command_row
from control_plane.db.tables import DeviceCommand
from control_plane.errors import TooLarge
from control_plane.services import commands, diagnoses

log = structlog.get_logger()


def take_in(session: Session, device: str, leaf: str, payload: bytes, now_ms: int) -> None:
    """Take in a result, or a part of a support bundle, from the device that the transport authenticated.

    Args:
        session: of ``Database.write``.
        device: id.
        leaf: ``up/cmd/{id}/result`` or ``up/cmd/{id}/part/{n}``.
        payload: the message.
        now_ms: server clock.

    Raises:
        MessageRefused: it cannot be read.
    """
    where = wire.split_leaf(leaf)
    if where is None:
        raise MessageRefused(f"No message is known for {leaf!r}.", code="MESSAGE_LEAF", remedy="Update this program.")
    command, number = where
    row = session.get(DeviceCommand, command, with_for_update=True)
    if row is None or row.device != device or row.state != commands.WAITING:
        log.info("command_answer_passed_over", device=device, command=command)
    elif number is None:
        _take_result(session, row, wire.decode_result(payload), now_ms)
    elif row.do == wire.DIAGNOSE:
        diagnoses.take_part(session, row, number, payload, now_ms)


def take_bundle(session: Session, device: str, command: str, content: bytes, now_ms: int) -> None:
    """Take in a whole support bundle, as HTTPS brings it.

    Raises:
        TooLarge: ``DIAGNOSIS_TOO_LARGE``.
        NotFound: ``COMMAND_UNKNOWN``.
    """
    if len(content) > wire.MAX_BUNDLE_BYTES:
        raise TooLarge(
            f"A support bundle has at most {wire.MAX_BUNDLE_BYTES} bytes.",
            code="DIAGNOSIS_TOO_LARGE",
            remedy="Check the agent's release.",
        )
    command_row(session, device, command)
    for number, start in enumerate(range(0, len(content), wire.PART_BYTES)):
        part = content[start : start + wire.PART_BYTES]
        take_in(session, device, wire.part_leaf(command, number), part, now_ms)


def _take_result(session: Session, row: DeviceCommand, result: CommandResult, now_ms: int) -> None:
    if result.id != row.id:
        raise MessageRefused("The result is of another command.", code="MESSAGE_IDENTITY")
    row.data_json = canonical_json(result.data).decode()
    if row.do == wire.DIAGNOSE and result.ok:
        diagnoses.take_word(session, row, result, now_ms)
        return
    state = commands.DONE if result.ok else commands.FAILED
    commands.end(session, row, state, result.code[:100], result.detail[:2000], now_ms)
