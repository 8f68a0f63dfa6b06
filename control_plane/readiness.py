"""What ``/readyz`` says of the revocation list and of trust.

An expired revocation list makes the broker refuse every device: not ready. Expired trust metadata does not: devices go
on running and reporting through this server, and only take nothing new; so it is told, and alerted, but nobody is sent
away for it.
"""

from __future__ import annotations

from pathlib import Path

from control_plane.api.deps import Check
from control_plane.deadlines import list_deadline_ms
from control_plane.services.trust import ServedTrust
from control_plane.services.trust_view import due_soon

DAY_MS = 86_400_000


def revocations_check(path: Path | None, now_ms: int) -> Check:
    """Return how long the list in ``path`` is good for; None = no broker needs one."""
    if path is None:
        return Check("revocation_list", True, "none; there is no broker")
    expires_ms = list_deadline_ms(path)
    if expires_ms is None:
        return Check("revocation_list", False, "it cannot be read: restart the server")
    if expires_ms <= now_ms:
        return Check("revocation_list", False, "it has expired and the broker refuses every device: restart the server")
    return Check("revocation_list", True, f"good for {(expires_ms - now_ms) // DAY_MS} days")


def trust_check(trust: ServedTrust, now_ms: int) -> Check:
    """Return what of the trust metadata has expired or is about to."""
    due = due_soon(trust, now_ms)
    told = [f"{one.role} {'has expired' if one.level == 'expired' else f'expires in {one.days_left} d'}" for one in due]
    return Check("trust", True, "; ".join(told) if told else f"version {trust.timestamp_version}")
