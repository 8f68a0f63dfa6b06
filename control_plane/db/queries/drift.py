"""What the drift room last judged, for each model, bundle and cohort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlmodel import Session, col, select

from control_plane.db.tables import DriftStateRow


@dataclass(frozen=True)
class DriftView:
    """One series: ``verdict`` as the drift core said it, with each column's numbers."""

    model: str
    bundle_sha256: str
    baseline_id: str
    cohort: str
    judged_ms: int
    verdict: dict[str, Any]


@dataclass(frozen=True)
class DriftList:
    """Every series asked for."""

    items: list[DriftView]


def list_drift(session: Session, *, model: str = "", cohort: str = "", limit: int = 500) -> list[DriftView]:
    """Return the newest verdict of every series, last judged first.

    Args:
        session: of ``Database.read``.
        model: ``team/model``; keep only its series, where not empty.
        cohort: keep only this cohort, where not empty.
        limit: most series to return.
    """
    statement = select(DriftStateRow)
    if model:
        statement = statement.where(DriftStateRow.model == model)
    if cohort:
        statement = statement.where(DriftStateRow.cohort == cohort)
    order = (
        col(DriftStateRow.judged_ms).desc(),
        col(DriftStateRow.model),
        col(DriftStateRow.bundle_sha256),
        col(DriftStateRow.cohort),
    )
    return [
        DriftView(
            model=row.model,
            bundle_sha256=row.bundle_sha256,
            baseline_id=row.baseline_id,
            cohort=row.cohort,
            judged_ms=row.judged_ms,
            verdict=msgspec.json.decode(row.verdict_json, type=dict[str, Any]),
        )
        for row in session.exec(statement.order_by(*order).limit(limit))
    ]
