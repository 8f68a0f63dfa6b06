"""How a device gets its name and its certificate, and how it renews them.

A claim token (>= 128 bits, only its hash stored) turns a key into a device. The same token with the same key is
idempotent, so that an answer lost on the way costs nothing. Everything a certificate request asks for is ignored but
its key; the name is asked for beside it and given only where it is free.
"""

from __future__ import annotations

import datetime as dt
import hmac
import json
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sqlmodel import Session, select

from bundles.digest import canonical_json, sha256_hex
from bundles.wire.messages import Profile
from bundles.wire.topics import is_device_id
from control_plane.db.engine import ROW_LOCK
from control_plane.db.tables import Device, EnrolToken
from control_plane.errors import Conflict, NotAllowed, RequestRefused, Unauthenticated
from control_plane.identity.authority import Authority, key_fingerprint, public_key_pem, read_request
from control_plane.services import audit, certificates, desired

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
    serial: str = "",
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
        serial: the hardware's serial number, as the device says.

    Raises:
        Unauthenticated: ``ENROL_TOKEN``: unknown, expired, used up, or for another serial number or key.
        RequestRefused: ``DEVICE_ID``: the name is not allowed.
        Conflict: ``ENROL_NAME_TAKEN``: another key has that name.
        Refused: ``CSR_INVALID``.
    """
    key = read_request(request_pem.encode())
    key_pem = public_key_pem(key)
    row = session.exec(
        select(EnrolToken).where(EnrolToken.token_sha256 == sha256_hex(token.encode())).with_for_update()
    ).first()
    if row is None:
        raise _token_refused()
    known = session.exec(select(Device).where(Device.public_key_pem == key_pem).with_for_update(**ROW_LOCK)).first()
    check_token(row, serial, key, now_ms, is_again=known is not None)
    if known is not None:
        return again(session, authority, known, now_ms)
    new = make_device(
        session,
        key_pem=key_pem,
        device=row.device or name,
        hardware=row.hardware or hardware,
        serial=serial,
        labels={**labels, **json.loads(row.labels_json)},
        profile=profile,
        now_ms=now_ms,
    )
    certificate = certificates.issue(session, authority, new, key, now_ms)
    row.uses_left -= 1
    session.add(row)
    audit.record(
        session, "audit", f"device:{new.id}", "device.enrol", f"device:{new.id}",
        {"token": row.id, "hardware": new.hardware, "serial": new.certificate_serial}, now_ms,
    )  # fmt: skip
    return Enrolled(new.id, certificate, created=True)


def check_token(row: EnrolToken, serial: str, key: EllipticCurvePublicKey, now_ms: int, *, is_again: bool) -> None:
    """Check that a claim token is good for this device: in time, for its serial number and key, with a use left.

    Args:
        row: the token.
        serial: the hardware's serial number, as the device says.
        key: the device's.
        now_ms: server clock.
        is_again: whether this key is a device's already, whose first answer was lost: that costs no use.

    Raises:
        Unauthenticated: ``ENROL_TOKEN``.
    """
    is_spent = not is_again and _is_used_up(row)
    if row.expires_ms <= now_ms or is_spent or not _is_bound_to(row, serial, key):
        raise _token_refused()


def make_device(
    session: Session,
    *,
    key_pem: str,
    device: str,
    hardware: str,
    serial: str,
    labels: dict[str, str],
    profile: Profile,
    now_ms: int,
) -> Device:
    """Make a device of a key, without a certificate yet.

    Raises:
        RequestRefused: ``DEVICE_ID``: the name is not allowed.
        Conflict: ``ENROL_NAME_TAKEN``: another key has that name.
    """
    device = _name(device, key_pem)
    if session.get(Device, device) is not None:
        raise Conflict(
            f"The name {device!r} belongs to a device with another key.",
            code="ENROL_NAME_TAKEN",
            remedy="Choose another name, or retire that device first.",
            details={"device": device},
        )
    new = Device(
        id=device,
        hardware=hardware,
        labels_json=canonical_json(labels).decode(),
        cohort=labels.get("cohort") or labels.get("site") or "default",
        public_key_pem=key_pem,
        enrolled_ms=now_ms,
        serial=serial,
    )
    session.add(new)
    session.flush()
    desired.ensure_desired(session, device, profile, now_ms)
    return new


def renew(session: Session, authority: Authority, device: str, request_pem: str, now_ms: int) -> str:
    """Issue a certificate for the device's new key; both keys count until the device first uses the new one.

    An expired certificate may always renew: the caller proved the present key, and revocation is in the database.

    Returns:
        The certificate, PEM.

    Raises:
        NotAllowed: ``DEVICE_REVOKED``.
        Refused: ``CSR_INVALID``.
        TryAgain: ``CERTIFICATES_TOO_OFTEN``.
    """
    row = session.get(Device, device, with_for_update=ROW_LOCK)
    if row is None or row.state not in ACTIVE_STATES:
        raise revoked(device)
    key = read_request(request_pem.encode())
    key_pem = public_key_pem(key)
    if key_pem == row.next_public_key_pem and _is_for(row.certificate_pem, key_pem):
        return row.certificate_pem  # asked before: the answer got lost
    certificate = certificates.issue(session, authority, row, key, now_ms)
    row.next_public_key_pem = key_pem
    session.add(row)
    body = {"serial": row.certificate_serial}
    audit.record(session, "audit", f"device:{device}", "device.renew", f"device:{device}", body, now_ms)
    return certificate


def revoked(device: str) -> NotAllowed:
    """Return the refusal of a device that may not log in."""
    return NotAllowed(
        f"The device {device!r} is revoked, retired or unknown.",
        code="DEVICE_REVOKED",
        remedy="Enrol it again with a new token, if it is meant to come back.",
    )


def again(session: Session, authority: Authority, row: Device, now_ms: int) -> Enrolled:
    """The same key once more: its first answer was lost, a person ran the command twice, or it has been approved.

    Raises:
        NotAllowed: ``DEVICE_REVOKED``.
        TryAgain: ``CERTIFICATES_TOO_OFTEN``.
    """
    if row.state not in ACTIVE_STATES:
        raise revoked(row.id)
    half_life = dt.timedelta(days=180) // dt.timedelta(milliseconds=1)
    is_old = (row.certificate_expires_ms or 0) - now_ms < half_life
    if is_old or not _is_for(row.certificate_pem, row.public_key_pem):
        certificates.issue(session, authority, row, read_key(row.public_key_pem), now_ms)
        row.next_public_key_pem = ""  # whoever holds the key of before did not get as far as using the next
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


def _is_bound_to(row: EnrolToken, serial: str, key: EllipticCurvePublicKey) -> bool:
    """Whether a token is for this hardware and this key, as far as it is for one at all."""
    is_serial = not row.serial or hmac.compare_digest(row.serial.encode(), serial.encode())
    return is_serial and row.key_sha256 in ("", key_fingerprint(key))


def _is_used_up(row: EnrolToken) -> bool:
    return row.uses_left < 1


def _is_for(certificate_pem: str, key_pem: str) -> bool:
    if not certificate_pem:
        return False
    public = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
    return isinstance(public, EllipticCurvePublicKey) and public_key_pem(public) == key_pem


def _token_refused() -> Unauthenticated:
    return Unauthenticated(
        "The claim token is unknown, expired, used up, or for another device.",
        code="ENROL_TOKEN",
        remedy="Ask an operator for a new one: wavegate device enroll-token.",
    )
