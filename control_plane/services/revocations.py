"""Bundles that signed metadata forbids, as the database knows them: what rollouts and the registry are held against.

The truth is the metadata (``services.trust`` reads it); the table is its copy, so that a transaction which chooses a
bundle sees it. The server only stops choosing such a bundle. Whether a device may go on running one is the device's
own judgement, which takes more signatures: revoking is no switch to turn a fleet off with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlmodel import Session, col, select

from control_plane.db.tables import RevokedBundle
from control_plane.errors import Conflict
from control_plane.services import audit

SYSTEM = "system:trust"


@dataclass(frozen=True)
class Forbidden:
    """Why, how strongly and when a bundle was forbidden.

    Attributes:
        reason: in a person's words.
        strength: signatures; devices that run it heed it from 2 on.
        at_ms: when it was signed, UTC epoch ms.
    """

    reason: str
    strength: int
    at_ms: int


def forbidden_among(session: Session, digests: Iterable[str]) -> dict[str, Forbidden]:
    """Return those of ``digests`` that are forbidden."""
    rows = session.exec(select(RevokedBundle).where(col(RevokedBundle.sha256).in_(list(digests)))).all()
    return {row.sha256: Forbidden(row.reason, row.strength, row.at_ms) for row in rows}


def all_forbidden(session: Session) -> dict[str, Forbidden]:
    """Return every forbidden digest."""
    rows = session.exec(select(RevokedBundle)).all()
    return {row.sha256: Forbidden(row.reason, row.strength, row.at_ms) for row in rows}


def check_clear(session: Session, sha256: str) -> None:
    """Check that the bundle ``sha256`` may be chosen.

    Raises:
        Conflict: ``TRUST_REVOKED``.
    """
    found = forbidden_among(session, [sha256]).get(sha256)
    if found is not None:
        raise Conflict(
            f"The bundle {sha256[:12]} is revoked: {found.reason or 'no reason was given'}.",
            code="TRUST_REVOKED",
            remedy="Publish its content mended, as a new version with a higher release counter, and roll that out.",
            details={"sha256": sha256, "reason": found.reason, "strength": found.strength, "at_ms": found.at_ms},
        )


def is_noted(session: Session, forbidden: Mapping[str, Forbidden]) -> bool:
    """Whether ``note`` would change nothing."""
    known = all_forbidden(session)
    return known.keys() == forbidden.keys() and all(_covers(known[digest], forbidden[digest]) for digest in known)


def note(session: Session, forbidden: Mapping[str, Forbidden], now_ms: int) -> None:
    """Bring the table to what the metadata says now; noting it again changes nothing.

    A strength once seen is kept. An entry ends only with the keys that signed it (recovery from a stolen one).
    """
    known = {row.sha256: row for row in session.exec(select(RevokedBundle)).all()}
    for sha256 in known.keys() - forbidden.keys():
        session.delete(known[sha256])
        audit.record(session, "audit", SYSTEM, "release.unrevoke", f"release:{sha256}", {}, now_ms)
    for sha256, entry in forbidden.items():
        row = known.get(sha256)
        if row is not None and _covers(Forbidden(row.reason, row.strength, row.at_ms), entry):
            continue
        if row is None:
            row = RevokedBundle(sha256=sha256, strength=0, at_ms=entry.at_ms, noted_ms=now_ms)
        row.reason, row.strength = entry.reason, max(row.strength, entry.strength)
        session.add(row)
        body = {"reason": row.reason, "strength": row.strength}
        audit.record(session, "audit", SYSTEM, "release.revoke", f"release:{sha256}", body, now_ms)
    session.flush()


def _covers(known: Forbidden, entry: Forbidden) -> bool:
    return known.strength >= entry.strength and known.reason == entry.reason
