"""Every certificate a device was given: issued within a rate, all revoked together, told to the broker once.

Renewals overlap, so a device may hold several good certificates at once; whoever revokes it means all of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from sqlalchemy import func, update
from sqlmodel import Session, col, select

from bundles.errors import TryAgain
from control_plane.db.tables import Device, DeviceCertificate
from control_plane.identity.authority import Authority

MAX_AN_HOUR = 6
"""Certificates a device may take in an hour: an honest one needs one, and a few more where answers get lost."""
HOUR_MS = 3_600_000
LISTED_AFTER_EXPIRY_MS = dt.timedelta(days=30) // dt.timedelta(milliseconds=1)
"""A revoked certificate leaves the list this long after it expired, which refuses it anyway."""


@dataclass(frozen=True)
class Unlisted:
    """A device whose certificates were revoked and whom the broker has not been told of."""

    device: str
    serials: tuple[str, ...]


def issue(session: Session, authority: Authority, row: Device, key: EllipticCurvePublicKey, now_ms: int) -> str:
    """Issue a certificate for ``row`` and note it; returns it, PEM.

    Raises:
        TryAgain: ``CERTIFICATES_TOO_OFTEN``.
    """
    recent = session.exec(
        select(func.count())
        .select_from(DeviceCertificate)
        .where(DeviceCertificate.device == row.id, DeviceCertificate.issued_ms > now_ms - HOUR_MS)
    ).one()
    if recent >= MAX_AN_HOUR:
        raise TryAgain(
            f"{row.id!r} was given {recent} certificates within an hour.",
            code="CERTIFICATES_TOO_OFTEN",
            remedy="Wait an hour; look whether two agents share this identity.",
        )
    issued = authority.issue_device(row.id, key, now_ms)
    row.certificate_pem = issued.certificate_pem.decode()
    row.certificate_serial = issued.serial
    row.certificate_expires_ms = issued.expires_ms
    session.add(row)
    session.flush()
    session.add(DeviceCertificate(serial=issued.serial, device=row.id, issued_ms=now_ms, expires_ms=issued.expires_ms))
    return row.certificate_pem


def revoke_all(session: Session, device: str, now_ms: int) -> None:
    """Revoke every certificate ``device`` ever had; the broker is told by whoever calls ``unlisted``."""
    session.execute(
        update(DeviceCertificate)
        .where(col(DeviceCertificate.device) == device, col(DeviceCertificate.revoked_ms).is_(None))
        .values(revoked_ms=now_ms)
    )


def revoked_serials(session: Session, now_ms: int) -> list[str]:
    """Return the serials the broker must refuse, in a fixed order."""
    rows = session.exec(
        select(DeviceCertificate.serial).where(
            col(DeviceCertificate.revoked_ms).is_not(None),
            DeviceCertificate.expires_ms > now_ms - LISTED_AFTER_EXPIRY_MS,
        )
    )
    return sorted(rows)


def unlisted(session: Session) -> list[Unlisted]:
    """Return the devices with revoked certificates that no revocation list in force has named yet."""
    rows = session.exec(
        select(DeviceCertificate.device, DeviceCertificate.serial).where(
            col(DeviceCertificate.revoked_ms).is_not(None), col(DeviceCertificate.listed_ms).is_(None)
        )
    )
    found: dict[str, list[str]] = {}
    for device, serial in rows:
        found.setdefault(device, []).append(serial)
    return [Unlisted(device, tuple(serials)) for device, serials in sorted(found.items())]


def listed(session: Session, serials: Sequence[str], now_ms: int) -> None:
    """Note that the broker refuses ``serials`` and that their sessions were ended."""
    session.execute(
        update(DeviceCertificate).where(col(DeviceCertificate.serial).in_(serials)).values(listed_ms=now_ms)
    )
