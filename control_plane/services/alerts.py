"""What people do to alerts. Raising and resolving them is the drift room's."""

from __future__ import annotations

from sqlmodel import Session

from control_plane.db.queries.alerts import AlertView, alert_unknown, view_of
from control_plane.db.tables import Alert
from control_plane.errors import Conflict
from control_plane.services import audit


def acknowledge(session: Session, alert: int, *, actor: str, now_ms: int) -> AlertView:
    """Note that somebody takes care of a firing alert; doing it again changes nothing.

    Raises:
        NotFound: ``ALERT_UNKNOWN``.
        Conflict: ``ALERT_RESOLVED``.
    """
    row = session.get(Alert, alert, with_for_update=True)
    if row is None:
        raise alert_unknown(alert)
    if row.state == "resolved":
        raise Conflict(
            f"Alert {alert} is resolved already.", code="ALERT_RESOLVED", remedy="See `wavegate alerts list`."
        )
    if row.state == "firing":
        row.state = "acknowledged"
        session.add(row)
        audit.record(session, "audit", actor, "alert.acknowledge", f"alert:{alert}", {"name": row.name}, now_ms)
    return view_of(row)
