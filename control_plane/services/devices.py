"""What operators do to devices: claim tokens, retiring, revoking. Enrolling itself is ``enrolment``'s.

A device that is retired or revoked is refused on every request from the moment of the commit; the broker's workers see
the state in the database and end its session.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sqlmodel import Session

from bundles.digest import canonical_json, sha256_hex
from bundles.wire.topics import is_device_id
from control_plane.db.engine import ROW_LOCK
from control_plane.db.queries.devices import device_unknown
from control_plane.db.tables import Device, EnrolToken
from control_plane.errors import Conflict, RequestRefused
from control_plane.services import audit, certificates, commands, desired, rollouts

PREFIX = "wge_"
MAX_USES = 100_000
MAX_LIFE_S = 366 * 24 * 3600
_FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class NewEnrolToken:
    """A claim token as it is shown once."""

    id: str
    token: str
    uses: int
    expires_ms: int
    device: str
    hardware: str
    labels: dict[str, str]
    serial: str = ""
    key_sha256: str = ""


def create_enrol_token(
    session: Session,
    *,
    uses: int,
    life_s: int,
    hardware: str = "",
    labels: Mapping[str, str] | None = None,
    device: str = "",
    serial: str = "",
    key_sha256: str = "",
    actor: str,
    now_ms: int,
    random_bytes: Callable[[int], bytes],
) -> NewEnrolToken:
    """Make a claim token (256 random bits; only its hash is kept).

    Args:
        session: of ``Database.write``.
        uses: devices it may enrol.
        life_s: seconds until it expires.
        hardware: hardware class of those devices; empty = what they say.
        labels: traits of those devices.
        device: the one device id it is for; empty = any.
        serial: the one hardware serial number it is for; empty = any.
        key_sha256: fingerprint of the one key it is for; empty = any.
        actor: who asks.
        now_ms: server clock.
        random_bytes: source of randomness.

    Raises:
        RequestRefused: ``ENROL_TOKEN_USES``, ``ENROL_TOKEN_LIFE``, ``KEY_FINGERPRINT`` or ``DEVICE_ID``.
    """
    if not 1 <= uses <= MAX_USES or ((device or serial or key_sha256) and uses != 1):
        raise RequestRefused(
            f"A claim token enrols 1 to {MAX_USES} devices, and exactly one where it is bound to one.",
            code="ENROL_TOKEN_USES",
            remedy="Ask for fewer uses, or name no device.",
        )
    if not 0 < life_s <= MAX_LIFE_S:
        raise RequestRefused(
            f"A claim token lives for 1 to {MAX_LIFE_S} seconds.", code="ENROL_TOKEN_LIFE", remedy="Shorten its life."
        )
    if device and not is_device_id(device):
        raise RequestRefused(
            f"{device!r} may not name a device.",
            code="DEVICE_ID",
            remedy="Use 1 to 64 of a-z, 0-9 and '-', not starting or ending with '-'.",
        )
    if key_sha256 and not _FINGERPRINT.match(key_sha256):
        raise RequestRefused(
            "A key's fingerprint has 64 digits of 0-9 and a-f.",
            code="KEY_FINGERPRINT",
            remedy="Give the sha256 of its SubjectPublicKeyInfo, DER: openssl pkey -pubout -outform DER | sha256sum.",
        )
    token = PREFIX + random_bytes(32).hex()
    row = EnrolToken(
        id=random_bytes(8).hex(),
        token_sha256=sha256_hex(token.encode()),
        uses_left=uses,
        expires_ms=now_ms + life_s * 1000,
        hardware=hardware,
        labels_json=canonical_json(dict(labels or {})).decode(),
        device=device,
        serial=serial,
        key_sha256=key_sha256,
        created_by=actor,
        created_ms=now_ms,
    )
    session.add(row)
    body = {"uses": uses, "expires_ms": row.expires_ms, "device": device, "hardware": hardware, "serial": serial}
    audit.record(session, "audit", actor, "enrol_token.create", f"enrol_token:{row.id}", body, now_ms)
    return NewEnrolToken(row.id, token, uses, row.expires_ms, device, hardware, dict(labels or {}), serial, key_sha256)


def end(
    session: Session, device: str, state: Literal["retired", "revoked"], *, reason: str, actor: str, now_ms: int
) -> None:
    """Retire (out of service) or revoke (not trusted any more) a device; doing it again changes nothing.

    Its rollouts stop counting on it; its retained desired document is told again, which empties it.

    Raises:
        NotFound: ``DEVICE_UNKNOWN``.
        Conflict: ``DEVICE_REVOKED`` for retiring what is revoked already.
    """
    row = session.get(Device, device, with_for_update=ROW_LOCK)
    if row is None:
        raise device_unknown(device)
    if row.state == state:
        return
    if row.state == "revoked":
        raise Conflict(
            f"The device {device!r} is revoked, which is final.", code="DEVICE_REVOKED", remedy="Nothing is left to do."
        )
    row.state = state
    session.add(row)
    session.flush()
    certificates.revoke_all(session, device, now_ms)
    commands.forget_device(session, device, now_ms)
    rollouts.device_ended(session, device, state, now_ms)
    desired.needs_republish(session, device)
    audit.record(session, "audit", actor, f"device.{state}", f"device:{device}", {"reason": reason}, now_ms)
