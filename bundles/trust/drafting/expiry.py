"""What is about to expire, how soon, and the command that mends it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bundles.trust.roles import DAY_S, Lifetimes

Level = Literal["60d", "30d", "7d", "1d", "expired"]
LEVELS: tuple[tuple[int, Level], ...] = ((1, "1d"), (7, "7d"), (30, "30d"), (60, "60d"))
"""Days left up to which a level holds; a new alert is due when the level changes."""
WARN_S = 60 * DAY_S
MISSED_DAYS = 3
"""Online roles are signed again by the server; people hear of it when so many daily signatures are missing."""


@dataclass(frozen=True)
class Deadline:
    """Something else that expires: a certificate authority, a server certificate, a kit, a token.

    Attributes:
        expires_ms: when, UTC epoch ms.
        command: what mends it.
    """

    expires_ms: int
    command: str


@dataclass(frozen=True)
class Expiring:
    """One thing that is about to expire, or has.

    Attributes:
        role: the role, or the name of something else.
        expires_ms: when, UTC epoch ms.
        days_left: whole days, rounded down; negative after it.
        level: ``60d``, ``30d``, ``7d``, ``1d`` or ``expired``.
        command: the exact command that mends it.
    """

    role: str
    expires_ms: int
    days_left: int
    level: Level
    command: str


def expiring(
    expires: Mapping[str, int],
    now_ms: int,
    warn_s: int = WARN_S,
    extra: Mapping[str, Deadline] | None = None,
    lifetimes: Lifetimes | None = None,
    place: str = "SERVER",
) -> list[Expiring]:
    """Return what expires within ``warn_s`` seconds, soonest first.

    Snapshot and timestamp live for days only and are signed again by the server, so they are named not when little
    time is left but when the server has missed three of its daily signatures.

    Args:
        expires: role -> expiry in UTC epoch ms, as ``state.state_expiries`` says.
        now_ms: time now.
        warn_s: how far to look ahead.
        extra: other things that expire, by name.
        lifetimes: life of the online roles.
        place: the repository as commands name it: a server's address, or its data folder.
    """
    life = lifetimes or Lifetimes()
    # The timestamp is signed daily; the snapshot once half its life is over.
    quiet = {
        "timestamp": life.timestamp_s - MISSED_DAYS * DAY_S,
        "snapshot": life.snapshot_s // 2 - MISSED_DAYS * DAY_S,
    }
    deadlines = {role: Deadline(at_ms, _command(role, place)) for role, at_ms in expires.items()} | dict(extra or {})
    found = [
        Expiring(name, deadline.expires_ms, days, level_of(deadline.expires_ms, now_ms), deadline.command)
        for name, deadline in deadlines.items()
        if deadline.expires_ms - now_ms <= min(warn_s, quiet.get(name, warn_s)) * 1000
        for days in [(deadline.expires_ms - now_ms) // (DAY_S * 1000)]
    ]
    return sorted(found, key=lambda entry: (entry.expires_ms, entry.role))


def level_of(expires_ms: int, now_ms: int) -> Level:
    """Return how urgent an expiry is; beyond 60 days it is still ``60d``."""
    left_ms = expires_ms - now_ms
    if left_ms <= 0:
        return "expired"
    return next((level for days, level in LEVELS if left_ms <= days * DAY_S * 1000), "60d")


def _command(role: str, place: str) -> str:
    if role in ("snapshot", "timestamp"):
        return "wavegate server run"
    # An address could serve anything, so its metadata is judged by the root that the person holds.
    root = " --root root.json" if place.startswith(("http://", "https://")) else ""
    return f"wavegate trust renew --role {role} --metadata {place}{root} --out renew-{role}"
