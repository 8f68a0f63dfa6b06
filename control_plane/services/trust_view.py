"""What people are shown of trust: roles and how soon they expire, floors, revoked bundles, who signs. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from bundles.trust.drafting.expiry import Deadline, Expiring, expiring
from bundles.trust.roles import Lifetimes, timestamp_life_s
from control_plane.services.revocations import Forbidden
from control_plane.services.trust import ServedTrust


@dataclass(frozen=True)
class RoleView:
    """One role.

    Attributes:
        version: newest; 0 for a role without metadata of its own (director, kit).
        expires_ms: UTC epoch ms; 0 where there is no metadata.
        level: ``60d``, ``30d``, ``7d``, ``1d`` or ``expired`` where it is about to expire, else empty.
        threshold: signatures needed.
        keys: ids of the keys trusted for it.
        signed_by: ids of those that have signed the newest version.
        listed: bundles it lists.
    """

    role: str
    version: int
    expires_ms: int
    level: str
    threshold: int
    keys: list[str]
    signed_by: list[str]
    listed: int


@dataclass(frozen=True)
class ExpiringView:
    """Something that is about to expire, and the command that mends it."""

    item: str
    expires_ms: int
    days_left: int
    level: str
    command: str


@dataclass(frozen=True)
class TrustView:
    """Trust at a glance.

    Attributes:
        timestamp_version: of the state being served.
        profile: ``solo``, ``team`` or ``regulated``.
        is_reviewed: whether root and targets each need more than one signature.
        roles: top-level roles first.
        floors: signed lowest release counters by ``team/model``.
        revoked: why each forbidden bundle is, by digest.
        remarks: sentences a person should read.
        expiring: what is about to expire, soonest first.
    """

    timestamp_version: int
    profile: str
    is_reviewed: bool
    roles: list[RoleView]
    floors: dict[str, int]
    revoked: dict[str, Forbidden]
    remarks: list[str]
    expiring: list[ExpiringView]


def trust_view(trust: ServedTrust, now_ms: int, extra: dict[str, Deadline] | None = None) -> TrustView:
    """Return what the metadata being served says.

    Args:
        trust: the served repository.
        now_ms: server clock.
        extra: other things that expire, by name.
    """
    status = trust.status()
    due = due_soon(trust, now_ms, extra)
    levels = {one.role: one.level for one in due}
    return TrustView(
        timestamp_version=trust.timestamp_version,
        profile=status.profile,
        is_reviewed=all(one.threshold > 1 for one in status.roles if one.role in ("root", "targets")),
        roles=[
            RoleView(
                role=one.role,
                version=one.version,
                expires_ms=one.expires_ms,
                level=levels.get(one.role, ""),
                threshold=one.threshold,
                keys=one.keys,
                signed_by=one.signed_by,
                listed=one.listed,
            )
            for one in status.roles
        ],
        floors=status.floors,
        revoked=trust.forbidden(),
        remarks=status.remarks,
        expiring=[ExpiringView(one.role, one.expires_ms, one.days_left, one.level, one.command) for one in due],
    )


def due_soon(trust: ServedTrust, now_ms: int, extra: dict[str, Deadline] | None = None) -> list[Expiring]:
    """Return what is about to expire, soonest first; arguments as ``trust_view``."""
    life = Lifetimes(timestamp_s=timestamp_life_s(trust.repository.state.root))
    return expiring(trust.repository.expiries(), now_ms, extra=extra or {}, lifetimes=life, place=trust.place)
