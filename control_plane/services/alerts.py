"""Alerts in the database: a finding is folded into its incident, told once, and acknowledged by people.

What is a finding is judged elsewhere (``drift``, ``workers.watch``); when to tell somebody is ``core.alerts``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlmodel import Session, col, select

from bundles.digest import canonical_json
from control_plane.core import alerts
from control_plane.core.alerts import Finding, fingerprint
from control_plane.db.queries.alerts import AlertView, alert_unknown, view_of
from control_plane.db.tables import Alert, Outbox
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


def observe(
    session: Session,
    finding: Finding,
    *,
    room: str,
    detail: dict[str, Any],
    now_ms: int,
    clear_windows: int = alerts.CLEAR_WINDOWS,
) -> None:
    """Fold ``finding`` into the alert of its labels and put what is to be told into the outbox.

    Args:
        session: of ``Database.write``.
        finding: what the newest window says; one that is not newer than the last changes nothing.
        room: who judged, such as ``system:drift``.
        detail: shown with the alert, beside the value.
        now_ms: server clock.
        clear_windows: clear findings in a row after which it resolves.
    """
    row = _newest(session, fingerprint(finding.labels))
    before = msgspec.json.decode(row.core_json, type=alerts.Alert) if row else None
    after, effects = alerts.observe(before, finding, now_ms, clear_windows=clear_windows)
    if after is None or after == before:
        return
    row = _row_for(row, before, after)
    if row.state == "acknowledged" and any(isinstance(one, alerts.Notify) and one.reason == "worse" for one in effects):
        row.state = "firing"  # what somebody took care of was less than this
    row.severity, row.summary = after.severity, after.sentence
    row.core_json = canonical_json(after).decode()
    row.detail_json = canonical_json({"value": after.value, **detail}).decode()
    row.last_ms = now_ms
    if finding.is_firing:
        row.count += 1
    if not after.is_firing:
        row.state = "resolved"
    session.add(row)
    for effect in effects:
        _tell(session, effect, room, now_ms)


def open_alerts(session: Session, names: Sequence[str]) -> list[alerts.Alert]:
    """Return the alerts called one of ``names`` that have not resolved."""
    rows = session.exec(
        select(Alert.core_json).where(col(Alert.name).in_(names), Alert.state != "resolved").order_by(col(Alert.id))
    ).all()
    return [msgspec.json.decode(core, type=alerts.Alert) for core in rows]


def _newest(session: Session, fingerprint: str) -> Alert | None:
    statement = select(Alert).where(Alert.fingerprint == fingerprint).order_by(col(Alert.id).desc()).limit(1)
    return session.exec(statement).first()


def _row_for(row: Alert | None, before: alerts.Alert | None, after: alerts.Alert) -> Alert:
    """Return the row of this incident: a new one when the alert was resolved and fires again."""
    if row is not None and not (before is not None and not before.is_firing and after.is_firing):
        return row
    return Alert(
        fingerprint=after.fingerprint,
        name=after.labels.get("alert", ""),
        severity=after.severity,
        labels_json=canonical_json(after.labels).decode(),
        summary=after.sentence,
        first_ms=after.started_ms,
        last_ms=after.started_ms,
        count=0,
    )


def _tell(session: Session, effect: alerts.Effect, room: str, now_ms: int) -> None:
    alert = effect.alert
    kind = "alert.firing" if isinstance(effect, alerts.Notify) else "alert.resolved"
    session.add(
        Outbox(
            kind=kind,
            key=f"{kind}:{alert.fingerprint}:{alert.window_end_ms}",
            body_json=canonical_json(alert).decode(),
            created_ms=now_ms,
            due_ms=now_ms,
        )
    )
    audit.record(
        session,
        "decision",
        room,
        kind,
        f"alert:{alert.fingerprint}",
        {"labels": alert.labels, "severity": alert.severity, "sentence": alert.sentence},
        now_ms,
    )
