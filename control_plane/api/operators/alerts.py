"""``/api/v1/alerts`` and ``/api/v1/drift``: what is wrong, and what the drift room last judged."""

from __future__ import annotations

from fastapi import APIRouter, Response

from control_plane.api.deps import DepsNow
from control_plane.api.json import Cursor, Limit, RowId, Word, answer, make_cursor, read_cursor
from control_plane.api.problems import responses
from control_plane.api.security import Operator, Viewer
from control_plane.db.queries.alerts import AlertPage, AlertView, list_alerts
from control_plane.db.queries.drift import DriftList, list_drift
from control_plane.services import alerts

router = APIRouter(tags=["alerts"])


@router.get("/alerts", response_model=AlertPage, responses=responses(404))
def list_all(
    deps: DepsNow, caller: Viewer, state: Word = "", name: Word = "", cursor: Cursor = "", limit: Limit = 50
) -> Response:
    """List alerts, newest first; `state=open` leaves out the resolved ones."""
    after = read_cursor(cursor, int)
    with deps.db.read() as session:
        items, key = list_alerts(session, state=state, name=name, after=after, limit=limit)
    return answer(AlertPage(items, make_cursor(key)))


@router.post("/alerts/{alert}/ack", response_model=AlertView, responses=responses(404, 409))
def acknowledge(deps: DepsNow, caller: Operator, alert: RowId) -> Response:
    """Say that somebody takes care of an alert."""
    with deps.db.write() as session:
        return answer(alerts.acknowledge(session, alert, actor=caller.name, now_ms=deps.clock.now_ms()))


@router.get("/drift", response_model=DriftList)
def drift(deps: DepsNow, caller: Viewer, model: Word = "", cohort: Word = "", limit: Limit = 500) -> Response:
    """Show the newest drift verdict of every model, bundle and cohort."""
    with deps.db.read() as session:
        return answer(DriftList(list_drift(session, model=model, cohort=cohort, limit=limit)))
