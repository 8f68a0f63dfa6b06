"""Alerts, newest first; an open one can be acknowledged."""

from __future__ import annotations

from typing import Any

from control_plane.auth import Role
from control_plane.db.queries.alerts import list_alerts
from control_plane.web.page import Page, Visit
from control_plane.web.query import choice, whole_number

PAGE_SIZE = 50
STATES = ("open", "firing", "acknowledged", "resolved", "all")


def _list(visit: Visit) -> dict[str, Any]:
    state = choice(visit.query, "state", STATES) or "open"
    after = whole_number(visit.query, "after") or None
    items, following = list_alerts(visit.session, state="" if state == "all" else state, after=after, limit=PAGE_SIZE)
    return {
        "title": "Alerts",
        "alerts": items,
        "state": state,
        "states": STATES,
        "may_acknowledge": visit.caller.role >= Role.OPERATOR,
        "is_later_page": after is not None,
        "next": str(following or ""),
    }


ALERTS = Page("/alerts", "alerts.html", ("alerts",), _list)
