"""Enrolment without a token: a key asks, people see it, one of them says yes or no, and the device asks again.

Anybody who reaches the devices' door may ask, so nothing is given for asking: no device, no name. The table is small
and forgets who stopped asking. Names a device asks for are a wish until approval, and may be overruled there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from sqlalchemy import delete, func
from sqlmodel import Session, col, select

from bundles.digest import canonical_json
from bundles.errors import TryAgain
from bundles.wire.messages import Profile
from control_plane.db.engine import ROW_LOCK
from control_plane.db.tables import Device, PendingEnrolment
from control_plane.errors import Conflict, NotAllowed, NotFound, RequestRefused
from control_plane.identity.authority import key_fingerprint, public_key_pem
from control_plane.services import audit, enrolment

MAX_PENDING = 1_000
MAX_TEXT = 100
MAX_LABELS = 32
FORGOTTEN_AFTER_MS = 7 * 24 * 3_600_000


@dataclass(frozen=True)
class PendingView:
    """A key that asked to become a device.

    Attributes:
        fingerprint: sha256 of the key (SubjectPublicKeyInfo, DER); the device shows its beginning.
        name, hardware, serial, labels: what it says of itself; nobody has checked it.
        state: pending | approved | denied.
        device: the device it became.
    """

    fingerprint: str
    name: str
    hardware: str
    serial: str
    labels: dict[str, str]
    state: str
    asked_ms: int
    last_ms: int
    decided_by: str
    device: str


def ask(
    session: Session,
    key: EllipticCurvePublicKey,
    *,
    name: str,
    hardware: str,
    serial: str,
    labels: dict[str, str],
    now_ms: int,
) -> str:
    """Note that ``key`` asks; asking again only shows that it still does. Returns its fingerprint.

    Raises:
        NotAllowed: ``ENROL_DENIED``.
        RequestRefused: ``ENROL_REQUEST``: what it says of itself is too long.
        TryAgain: ``ENROL_CROWDED``: too many keys wait.
    """
    fingerprint = key_fingerprint(key)
    session.exec(delete(PendingEnrolment).where(col(PendingEnrolment.last_ms) < now_ms - FORGOTTEN_AFTER_MS))
    row = session.get(PendingEnrolment, fingerprint, with_for_update=True)
    if row is not None and row.state == "denied":
        raise NotAllowed(
            "An operator denied this device's enrolment.",
            code="ENROL_DENIED",
            remedy="Ask an operator for a claim token, or enrol with a new key.",
        )
    if row is None:
        texts = [name, hardware, serial, *labels, *labels.values()]
        if len(labels) > MAX_LABELS or any(len(text) > MAX_TEXT for text in texts):
            raise RequestRefused(
                f"A name, hardware, serial number or label has more than {MAX_TEXT} characters, or there are too many.",
                code="ENROL_REQUEST",
                remedy="Say less.",
            )
        waiting = select(func.count()).select_from(PendingEnrolment).where(PendingEnrolment.state == "pending")
        if session.exec(waiting).one() >= MAX_PENDING:
            raise TryAgain(
                "Too many devices wait for approval.",
                code="ENROL_CROWDED",
                remedy="Approve or deny some: wavegate device pending; or use a claim token.",
            )
        row = PendingEnrolment(
            fingerprint=fingerprint,
            public_key_pem=public_key_pem(key),
            name=name,
            hardware=hardware,
            serial=serial,
            labels_json=canonical_json(labels).decode(),
            asked_ms=now_ms,
            last_ms=now_ms,
        )
    row.last_ms = now_ms
    session.add(row)
    return fingerprint


def list_pending(session: Session, state: str = "pending") -> list[PendingView]:
    """Return the keys in ``state`` (empty = all), the longest waiting first."""
    statement = select(PendingEnrolment).order_by(col(PendingEnrolment.asked_ms), col(PendingEnrolment.fingerprint))
    if state:
        statement = statement.where(PendingEnrolment.state == state)
    return [_view(row) for row in session.exec(statement)]


def decide(
    session: Session,
    fingerprint: str,
    verdict: Literal["approved", "denied"],
    *,
    device: str = "",
    profile: Profile,
    actor: str,
    now_ms: int,
) -> PendingView:
    """Approve or deny a key; the same verdict again changes nothing.

    Args:
        session: of ``Database.write``.
        fingerprint: of the key, or its beginning (8 digits at least) where only one key has it.
        verdict: ``approved`` makes the device; its next request is answered with a certificate.
        device: id to give; empty = the one asked for, or one derived from the key.
        profile: timing of its first, empty desired document.
        actor: who decides.
        now_ms: server clock.

    Raises:
        NotFound: ``ENROL_PENDING_UNKNOWN``.
        Conflict: ``ENROL_DECIDED``: decided otherwise before; ``ENROL_NAME_TAKEN``.
        RequestRefused: ``DEVICE_ID``.
    """
    row = _find(session, fingerprint)
    if row.state == verdict:
        return _view(row)
    if row.state == "approved":
        raise Conflict(
            f"This key is the device {row.device!r} already.",
            code="ENROL_DECIDED",
            remedy=f"Revoke it: wavegate device revoke {row.device}.",
        )
    row.state, row.decided_by = verdict, actor
    if verdict == "approved":
        made = enrolment.make_device(
            session,
            key_pem=row.public_key_pem,
            device=device or row.name,
            hardware=row.hardware,
            serial=row.serial,
            labels=json.loads(row.labels_json),
            profile=profile,
            now_ms=now_ms,
        )
        row.device = made.id
    session.add(row)
    body = {"fingerprint": row.fingerprint, "device": row.device}
    audit.record(session, "audit", actor, f"enrolment.{verdict}", f"enrolment:{row.fingerprint}", body, now_ms)
    return _view(row)


def approved(session: Session, key: EllipticCurvePublicKey) -> Device | None:
    """Return the device that ``key`` became by approval, locked; None where it did not."""
    row = session.get(PendingEnrolment, key_fingerprint(key))
    if row is None or row.state != "approved":
        return None
    device = session.get(Device, row.device, with_for_update=ROW_LOCK)
    # After a renewal the key of before must not bring itself back without the device's word.
    return device if device is not None and device.public_key_pem == row.public_key_pem else None


def _find(session: Session, fingerprint: str) -> PendingEnrolment:
    rows = []
    if len(fingerprint) >= 8 and fingerprint.isalnum():
        statement = select(PendingEnrolment).where(col(PendingEnrolment.fingerprint).startswith(fingerprint.lower()))
        rows = list(session.exec(statement.limit(2).with_for_update()))
    if len(rows) != 1:
        raise NotFound(
            f"Not exactly one key that asked has a fingerprint beginning with {fingerprint!r}.",
            code="ENROL_PENDING_UNKNOWN",
            remedy="See `wavegate device pending`; give 8 digits or more.",
        )
    return rows[0]


def _view(row: PendingEnrolment) -> PendingView:
    return PendingView(
        fingerprint=row.fingerprint,
        name=row.name,
        hardware=row.hardware,
        serial=row.serial,
        labels=json.loads(row.labels_json),
        state=row.state,
        asked_ms=row.asked_ms,
        last_ms=row.last_ms,
        decided_by=row.decided_by,
        device=row.device,
    )
