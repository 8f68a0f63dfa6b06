"""What changed since last time: looked up in the database, told to whoever watches.

Level-triggered: compares what is there with what was there, so that nothing is missed across processes or a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from control_plane.db.engine import Database
from control_plane.db.tables import Alert, Decision, Device, RolloutRow

MAX_DECISIONS = 200


@dataclass(frozen=True)
class Change:
    """One event: a name (``rollout``, ``decision``, ``alert``, ``fleet``) and plain JSON values."""

    name: str
    data: dict[str, Any]


Look = Callable[[dict[str, Any]], Iterable[Change]]
"""Given the marks kept from last time (changed in place), return what is new."""


def look(db: Database) -> Look:
    """Return the function that finds changes in ``db``; its first call sets the marks and tells every rollout once."""

    def find(marks: dict[str, Any]) -> list[Change]:
        with db.read() as session:
            return [
                *_rollouts(session, marks),
                *_decisions(session, marks),
                *_alerts(session, marks),
                *_fleet(session, marks),
            ]

    return find


def _rollouts(session: Session, marks: dict[str, Any]) -> list[Change]:
    known: dict[str, int] = marks.setdefault("rollouts", {})
    columns: list[Any] = [RolloutRow.id, RolloutRow.revision, RolloutRow.version, RolloutRow.phase]
    changes = []
    for rollout, revision, version, phase in session.execute(select(*columns)):
        if known.get(rollout) != revision:
            known[rollout] = revision
            data = {"id": rollout, "revision": revision, "version": version, "phase": phase}
            changes.append(Change("rollout", data))
    return changes


def _decisions(session: Session, marks: dict[str, Any]) -> list[Change]:
    newest = session.exec(select(func.max(Decision.id))).one() or 0
    last: int = marks.setdefault("decision", newest)
    if newest <= last:
        return []
    marks["decision"] = newest
    statement = select(Decision).where(col(Decision.id) > last).order_by(col(Decision.id)).limit(MAX_DECISIONS)
    return [
        Change("decision", {"id": row.id, "kind": row.kind, "action": row.action, "subject": row.subject})
        for row in session.exec(statement)
    ]


def _alerts(session: Session, marks: dict[str, Any]) -> list[Change]:
    known: dict[int, tuple[str, int]] = marks.setdefault("alerts", {})
    is_first = "alerts_seen" not in marks
    marks["alerts_seen"] = True
    columns: list[Any] = [Alert.id, Alert.state, Alert.last_ms, Alert.name, Alert.severity, Alert.summary]
    changes = []
    for alert, state, last_ms, name, severity, summary in session.execute(select(*columns)):
        if known.get(alert) != (state, last_ms):
            known[alert] = (state, last_ms)
            data = {"id": alert, "state": state, "name": name, "severity": severity, "summary": summary}
            changes.append(Change("alert", data))
    return [] if is_first else changes


def _fleet(session: Session, marks: dict[str, Any]) -> list[Change]:
    rows = session.execute(select(Device.state, func.count()).group_by(col(Device.state)))
    counts = {str(state): int(count) for state, count in rows}
    beat = session.exec(select(func.max(Device.last_seen_ms))).one() or 0
    if marks.get("fleet") == (counts, beat):
        return []
    marks["fleet"] = (counts, beat)
    return [Change("fleet", {"devices": counts, "last_seen_ms": beat})]
