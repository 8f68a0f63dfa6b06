"""Claim tokens for a batch of hardware: one single-use token a row, bound to that row's serial number.

Running the same list again makes nothing twice: a serial number that has a token or a device keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sqlmodel import Session, col, select

from bundles.errors import WavegateError
from control_plane.db.tables import Device, EnrolToken
from control_plane.errors import RequestRefused
from control_plane.services import devices

MAX_ROWS = 10_000
MAX_SERIAL = 100
State = Literal["made", "exists", "enrolled"]


@dataclass(frozen=True)
class Row:
    """One line of a list of hardware.

    Attributes:
        serial: the hardware's serial number.
        device: id to give; empty = the device's wish.
        hardware: hardware class; empty = what the device says.
        labels: traits given to it.
    """

    serial: str
    device: str = ""
    hardware: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RowToken:
    """What became of a row. ``token`` is shown where it was ``made``, and never again."""

    serial: str
    state: State
    token: str
    device: str
    expires_ms: int


def make_tokens(
    session: Session,
    rows: Sequence[Row],
    *,
    life_s: int,
    replace: bool = False,
    actor: str,
    now_ms: int,
    random_bytes: Callable[[int], bytes],
) -> list[RowToken]:
    """Make the tokens of ``rows`` that are missing, all or none.

    Args:
        session: of ``Database.write``.
        rows: one for each piece of hardware.
        life_s: seconds until the tokens expire.
        replace: end tokens that were not used yet and make new ones, where the old ones were lost.
        actor: who asks.
        now_ms: server clock.
        random_bytes: source of randomness.

    Returns:
        One for each row, in their order.

    Raises:
        RequestRefused: ``ENROL_ROW``, naming the row (from 1): no serial number, one that is too long or comes twice,
            or what ``devices.create_enrol_token`` refuses; ``ENROL_ROWS``: none, or too many.
    """
    if not 1 <= len(rows) <= MAX_ROWS:
        raise RequestRefused(
            f"A list has 1 to {MAX_ROWS} rows; this one has {len(rows)}.", code="ENROL_ROWS", remedy="Split the list."
        )
    _check(rows)
    serials = [row.serial for row in rows]
    living: dict[str, EnrolToken] = {}
    enrolled: dict[str, str] = {}
    for start in range(0, len(serials), 500):
        part = serials[start : start + 500]
        unused = select(EnrolToken).where(
            col(EnrolToken.serial).in_(part), EnrolToken.expires_ms > now_ms, EnrolToken.uses_left > 0
        )
        living |= {token.serial: token for token in session.exec(unused)}
        devices_of = select(Device.serial, Device.id).where(col(Device.serial).in_(part), Device.state == "enrolled")
        enrolled |= dict(session.exec(devices_of).all())
    made = []
    for number, row in enumerate(rows, 1):
        if row.serial in enrolled:
            made.append(RowToken(row.serial, "enrolled", "", enrolled[row.serial], 0))
            continue
        if (token_row := living.get(row.serial)) is not None:
            if not replace:
                made.append(RowToken(row.serial, "exists", "", token_row.device, token_row.expires_ms))
                continue
            token_row.uses_left = 0
            session.add(token_row)
        try:
            new = devices.create_enrol_token(
                session,
                uses=1,
                life_s=life_s,
                hardware=row.hardware,
                labels=row.labels,
                device=row.device,
                serial=row.serial,
                actor=actor,
                now_ms=now_ms,
                random_bytes=random_bytes,
            )
        except WavegateError as error:
            raise _row_refused(number, row, error.sentence) from error
        made.append(RowToken(row.serial, "made", new.token, row.device, new.expires_ms))
    return made


def _check(rows: Sequence[Row]) -> None:
    serials: dict[str, int] = {}
    names: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        if not row.serial.strip() or row.serial != row.serial.strip() or len(row.serial) > MAX_SERIAL:
            raise _row_refused(number, row, f"A serial number has 1 to {MAX_SERIAL} characters and no space around it.")
        if row.serial in serials:
            raise _row_refused(number, row, f"The serial number is that of row {serials[row.serial]}.")
        if row.device and row.device in names:
            raise _row_refused(number, row, f"The device id is that of row {names[row.device]}.")
        serials[row.serial] = names[row.device] = number


def _row_refused(number: int, row: Row, sentence: str) -> RequestRefused:
    return RequestRefused(
        f"Row {number} (serial number {row.serial!r}): {sentence}",
        code="ENROL_ROW",
        remedy="Correct this row; no token was made for any row.",
        details={"row": number, "serial": row.serial},
    )
