"""Rows of the append-only log, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlmodel import Session, col, select

from control_plane.db.queries.pages import cut
from control_plane.db.tables import Decision


@dataclass(frozen=True)
class DecisionView:
    """One row of the log. ``kind``: audit | decision | gate; ``hash`` covers the row and ``previous_hash``."""

    id: int
    at_ms: int
    kind: str
    actor: str
    action: str
    subject: str
    body: dict[str, Any]
    previous_hash: str
    hash: str


@dataclass(frozen=True)
class DecisionPage:
    """One page of the log; ``next`` is the cursor of the following page, empty at the end."""

    items: list[DecisionView]
    next: str


def list_decisions(
    session: Session,
    *,
    subject: str = "",
    kind: str = "",
    actor: str = "",
    after: int | None = None,
    limit: int = 50,
) -> tuple[list[DecisionView], int | None]:
    """Return a page of the log, newest first, and the id to go on from.

    Args:
        session: of ``Database.read``.
        subject: such as ``rollout:<id>``; keep only rows about it, where not empty.
        kind: keep only this kind, where not empty.
        actor: keep only this actor's, where not empty.
        after: id of the last row seen.
        limit: size of the page.
    """
    statement = select(Decision)
    for column, wanted in ((Decision.subject, subject), (Decision.kind, kind), (Decision.actor, actor)):
        if wanted:
            statement = statement.where(col(column) == wanted)
    if after is not None:
        statement = statement.where(col(Decision.id) < after)
    rows = session.exec(statement.order_by(col(Decision.id).desc()).limit(limit + 1)).all()
    return cut([_view(row) for row in rows], limit, lambda view: view.id)


def _view(row: Decision) -> DecisionView:
    assert row.id is not None
    return DecisionView(
        id=row.id,
        at_ms=row.at_ms,
        kind=row.kind,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        body=msgspec.json.decode(row.body_json, type=dict[str, Any]),
        previous_hash=row.previous_hash,
        hash=row.hash,
    )
