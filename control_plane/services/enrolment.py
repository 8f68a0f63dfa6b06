"""How a device gets its name and its certificate, and how it renews them.

A claim token (>= 128 bits, only its hash stored) turns a key into a device. The same token with the same key is
idempotent, so that an answer lost on the way costs nothing. Everything a certificate request asks for is ignored but
its key; the name is asked for beside it and given only where it is free.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sqlmodel import Session, col, select

from bundles.digest import canonical_json, sha256_hex
from bundles.wire.messages import Profile
from bundles.wire.topics import is_device_id
from control_plane.db.tables import Device, EnrolToken
from control_plane.errors import Conflict, NotAllowed, RequestRefused, Unauthenticated
from control_plane.identity.authority import Authority, Issued, public_key_pem, read_request
from control_plane.services import audit, desired

ACTIVE_STATES = ("enrolled",)


@dataclass(frozen=True)
class Enrolled:
    """What enrolment gives."""

    device: str
    certificate_pem: str
    created: bool


def enrol(
    session: Session,
    authority: Authority,
    *,
    token: str,
    request_pem: str,
    name: str,
    hardware: str,
    labels: dict[str, str],
    profile: Profile,
    now_ms: int,
) -> Enrolled:
    """Turn a claim token and a key into a device.

    Args:
        session: of ``Database.write``.
        authority: the device CA.
        token: the claim token.
        request_pem: certificate request; only its key counts.
        name: id asked for; empty = derived from the key.
        hardware: hardware class; the token's own wins.
        labels: traits; the token's own win.
        profile: timing of the first, empty desired document.
        now_ms: server clock.

    Raises:
        Unauthenticated: ``ENROL_TOKEN``: unknown, expired or used up.
        RequestRefused: ``DEVICE_ID``: the name is not allowed.
        Conflict: ``ENROL_NAME_TAKEN``: another key has that name.
        Refused: ``CSR_INVALID``.
    """
    key = read_request(request_pem.encode())
    key_pem = public_key_pem(key)
    row = session.exec(
        select(EnrolToken).where(EnrolToken.token_sha256 == sha256_hex(token.encode())).with_for_update()
    ).first()
    if row is None or row.expires_ms <= now_ms:
        raise _token_refused()
    known = session.exec(select(Device).where(Device.public_key_pem == key_pem)).first()
    if known is not None:
        return _again(session, authority, known, now_ms)
    if row.uses_left < 1:
        raise _token_refused()
    device = _name(row.device or name, key_pem)
    if session.get(Device, device) is not None:
        raise Conflict(
            f"The name {device!r} belongs to a device with another key.",
            code="ENROL_NAME_TAKEN",
            remedy="Choose another name, or retire that device first.",
            details={"device": device},
        )
    labels = {**labels, **json.loads(row.labels_json)}
    issued = authority.issue_device(device, key, now_ms)
    new = Device(
        id=device,
        hardware=row.hardware or hardware,
        labels_json=canonical_json(labels).decode(),
        cohort=labels.get("cohort") or labels.get("site") or "default",
        public_key_pem=key_pem,
        enrolled_ms=now_ms,
    )
    _keep(new, issued)
    session.add(new)
    session.flush()
    row.uses_left -= 1
    session.add(row)
    desired.ensure_desired(session, device, profile, now_ms)
    audit.record(
        session, "audit", f"device:{device}", "device.enrol", f"device:{device}",
        {"token": row.id, "hardware": new.hardware, "serial": issued.serial}, now_ms,
    )  # fmt: skip
    return Enrolled(device, issued.certificate_pem.decode(), created=True)


def renew(session: Session, authority: Authority, device: str, request_pem: str, now_ms: int) -> str:
    """Issue a certificate for the device's new key; both keys count until the device first uses the new one.

    An expired certificate may always renew: the caller proved the present key, and revocation is in the database.

    Returns:
        The certificate, PEM.

    Raises:
        NotAllowed: ``DEVICE_REVOKED``.
        Refused: ``CSR_INVALID``.
    """
    row = session.get(Device, device, with_for_update=True)
    if row is None or row.state not in ACTIVE_STATES:
        raise revoked(device)
    key = read_request(request_pem.encode())
    issued = authority.issue_device(device, key, now_ms)
    row.next_public_key_pem = public_key_pem(key)
    _keep(row, issued)
    session.add(row)
    audit.record(
        session, "audit", f"device:{device}", "device.renew", f"device:{device}", {"serial": issued.serial}, now_ms
    )
    return issued.certificate_pem.decode()


def revoked(device: str) -> NotAllowed:
    """Return the refusal of a device that may not log in."""
    return NotAllowed(
        f"The device {device!r} is revoked, retired or unknown.",
        code="DEVICE_REVOKED",
        remedy="Enrol it again with a new token, if it is meant to come back.",
    )


def revoked_serials(session: Session) -> list[str]:
    """Return the certificate serials the broker must refuse."""
    rows = session.exec(
        select(Device.certificate_serial).where(
            col(Device.state).not_in(ACTIVE_STATES), Device.certificate_serial != ""
        )
    )
    return sorted(rows)


def _again(session: Session, authority: Authority, row: Device, now_ms: int) -> Enrolled:
    """The same key once more: its first answer was lost, or a person ran the command twice."""
    if row.state not in ACTIVE_STATES:
        raise revoked(row.id)
    half_life = dt.timedelta(days=180) // dt.timedelta(milliseconds=1)
    if not row.certificate_pem or (row.certificate_expires_ms or 0) - now_ms < half_life:
        _keep(row, authority.issue_device(row.id, read_key(row.public_key_pem), now_ms))
        session.add(row)
    return Enrolled(row.id, row.certificate_pem, created=False)


def read_key(pem: str) -> EllipticCurvePublicKey:
    """Return a stored device key."""
    key = load_pem_public_key(pem.encode())
    assert isinstance(key, EllipticCurvePublicKey)  # nothing else is ever stored
    return key


def _name(asked: str, key_pem: str) -> str:
    name = asked or "dev-" + sha256_hex(key_pem.encode())[:12]
    if not is_device_id(name):
        raise RequestRefused(
            f"{name!r} is not allowed as a device id.",
            code="DEVICE_ID",
            remedy="Use 1 to 64 of a-z, 0-9 and '-', starting and ending with a letter or digit.",
        )
    return name


def _keep(row: Device, issued: Issued) -> None:
    row.certificate_pem = issued.certificate_pem.decode()
    row.certificate_serial = issued.serial
    row.certificate_expires_ms = issued.expires_ms


def _token_refused() -> Unauthenticated:
    return Unauthenticated(
        "The claim token is unknown, expired or used up.",
        code="ENROL_TOKEN",
        remedy="Ask an operator for a new one: wavegate device enroll-token.",
    )
