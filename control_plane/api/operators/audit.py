"""``/api/v1/audit``: the hash-chained log, and whether it is whole."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Response

from control_plane.api.deps import DepsNow
from control_plane.api.json import Cursor, Limit, Word, answer, make_cursor, read_cursor
from control_plane.api.problems import responses
from control_plane.api.security import Viewer
from control_plane.db.queries.decisions import DecisionPage, list_decisions
from control_plane.services import audit

router = APIRouter(prefix="/audit", tags=["audit"])


@dataclass(frozen=True)
class ChainView:
    """Whether every row follows the one before: ``head`` is the last good hash, ``first_bad`` the row that does not."""

    is_whole: bool
    rows: int
    head: str
    first_bad: int | None


@router.get("", response_model=DecisionPage, responses=responses(404))
def list_all(
    deps: DepsNow,
    caller: Viewer,
    subject: Word = "",
    kind: Word = "",
    actor: Word = "",
    cursor: Cursor = "",
    limit: Limit = 50,
) -> Response:
    """List audit rows, decisions and gate evaluations, newest first."""
    after = read_cursor(cursor, int)
    with deps.db.read() as session:
        items, key = list_decisions(session, subject=subject, kind=kind, actor=actor, after=after, limit=limit)
    return answer(DecisionPage(items, make_cursor(key)))


@router.get("/verify", response_model=ChainView)
def verify(deps: DepsNow, caller: Viewer) -> Response:
    """Recompute the whole chain."""
    with deps.db.read() as session:
        report = audit.verify(session)
    return answer(ChainView(report.is_whole, report.rows, report.head, report.first_bad))
