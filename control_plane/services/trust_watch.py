"""What is about to expire, and an online signer that has stopped signing, as alerts.

One alert for each thing that expires. It rises at 60, 30, 7 and 1 days and when it has expired, is repeated daily, and
resolves by itself once the thing is renewed. Pages nobody for the roles the server signs itself: for those
``signer_stalled`` says that three daily signatures are missing.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session

from bundles.trust.drafting.expiry import MISSED_DAYS, Expiring
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.roles import DAY_S, epoch_ms, timestamp_life_s
from control_plane.core.alerts import Finding, Severity, fingerprint
from control_plane.services import alerts

EXPIRY, STALLED = "trust_expiry", "signer_stalled"
ROOM = "system:upkeep"
SIGNED_HERE = ("snapshot", "timestamp")
REPEAT_MS = 3_600_000
"""A firing alert whose level is as it was is folded in at most once an hour."""
_SEVERITY: dict[str, Severity] = {
    "60d": "watch",
    "30d": "warning",
    "7d": "critical",
    "1d": "critical",
    "expired": "critical",
}
_VALUE = {"60d": 1.0, "30d": 2.0, "7d": 4.0, "1d": 8.0, "expired": 16.0}
"""Each level is twice the one before: what ``core.alerts`` tells as worse."""


def watch(session: Session, expiring: Sequence[Expiring], repository: OnlineRepository, now_ms: int) -> None:
    """Bring the alerts about expiry and about the online signer to what holds now.

    Args:
        session: of ``Database.write``.
        expiring: what is about to expire.
        repository: the served repository.
        now_ms: server clock.
    """
    found = [_expiry(one, now_ms) for one in expiring if one.role not in SIGNED_HERE]
    if (missed := missed_signatures(repository, now_ms)) >= MISSED_DAYS:
        found.append(_stalled(missed, now_ms))
    open_now = {one.fingerprint: one for one in alerts.open_alerts(session, [EXPIRY, STALLED])}
    for finding in found:
        before = open_now.pop(fingerprint(finding.labels), None)
        if before and before.value == finding.value and now_ms - before.window_end_ms < REPEAT_MS:
            continue
        command = finding.sentence.rpartition(": ")[2]
        alerts.observe(session, finding, room=ROOM, detail={"command": command}, now_ms=now_ms)
    for alert in open_now.values():
        over = Finding(alert.labels, False, alert.severity, alert.value, alert.sentence, now_ms)
        alerts.observe(session, over, room=ROOM, detail={}, now_ms=now_ms, clear_windows=1)


def missed_signatures(repository: OnlineRepository, now_ms: int) -> int:
    """Return how many daily signatures of the timestamp are missing."""
    state = repository.state
    signed_ms = epoch_ms(state.timestamp.expires) - timestamp_life_s(state.root) * 1000
    return max(0, (now_ms - signed_ms) // (DAY_S * 1000))


def _expiry(one: Expiring, now_ms: int) -> Finding:
    if one.level == "expired":
        when = "has expired"
    else:
        when = "expires today" if one.days_left < 1 else f"expires in {one.days_left} days"
    return Finding(
        labels={"alert": EXPIRY, "item": one.role},
        is_firing=True,
        severity=_SEVERITY[one.level],
        value=_VALUE[one.level],
        sentence=f"{one.role} {when}. Renew it: {one.command}",
        window_end_ms=now_ms,
    )


def _stalled(missed: int, now_ms: int) -> Finding:
    return Finding(
        labels={"alert": STALLED, "item": "timestamp"},
        is_firing=True,
        severity="critical",
        value=1.0,
        sentence=f"The timestamp was not signed for {missed} days: devices will take nothing new. See why the server "
        "cannot write its metadata, then start it: wavegate server run",
        window_end_ms=now_ms,
    )
