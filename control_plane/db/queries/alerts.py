"""Alerts, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlmodel import Session, col, select

from control_plane.db.queries.pages import cut
from control_plane.db.tables import Alert
from control_plane.errors import NotFound


@dataclass(frozen=True)
class AlertView:
    """One alert. ``fingerprint`` is the sha256 of its sorted labels; ``state``: firing | acknowledged | resolved."""

    id: int
    fingerprint: str
    name: str
    severity: str
    state: str
    labels: dict[str, str]
    summary: str
    detail: dict[str, Any]
    first_ms: int
    last_ms: int
    count: int


@dataclass(frozen=True)
class AlertPage:
    """One page of alerts; ``next`` is the cursor of the following page, empty at the end."""

    items: list[AlertView]
    next: str


def list_alerts(
    session: Session, *, state: str = "", name: str = "", after: int | None = None, limit: int = 50
) -> tuple[list[AlertView], int | None]:
    """Return a page of alerts, newest first, and the id to go on from.

    Args:
        session: of ``Database.read``.
        state: keep only this state, where not empty; ``open`` means not resolved.
        name: keep only alerts of this name, where not empty.
        after: id of the last alert seen.
        limit: size of the page.
    """
    statement = select(Alert)
    if state == "open":
        statement = statement.where(col(Alert.state) != "resolved")
    elif state:
        statement = statement.where(col(Alert.state) == state)
    if name:
        statement = statement.where(col(Alert.name) == name)
    if after is not None:
        statement = statement.where(col(Alert.id) < after)
    rows = session.exec(statement.order_by(col(Alert.id).desc()).limit(limit + 1)).all()
    return cut([view_of(row) for row in rows], limit, lambda view: view.id)


def view_of(row: Alert) -> AlertView:
    """Return ``row`` as plain values."""
    assert row.id is not None
    return AlertView(
        id=row.id,
        fingerprint=row.fingerprint,
        name=row.name,
        severity=row.severity,
        state=row.state,
        labels=msgspec.json.decode(row.labels_json, type=dict[str, str]),
        summary=row.summary,
        detail=msgspec.json.decode(row.detail_json, type=dict[str, Any]),
        first_ms=row.first_ms,
        last_ms=row.last_ms,
        count=row.count,
    )


def alert_unknown(alert: int) -> NotFound:
    """Return the error for an id no alert has."""
    return NotFound(f"No alert has the id {alert}.", code="ALERT_UNKNOWN", remedy="See `wavegate alerts list`.")
