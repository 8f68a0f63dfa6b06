"""``/healthz`` (the process answers) and ``/readyz`` (everything it needs answers too)."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from bundles import __version__
from control_plane.api.deps import Check, Deps, DepsNow
from control_plane.api.json import answer

router = APIRouter(tags=["health"])


@dataclass(frozen=True)
class Health:
    """The process answers."""

    status: str
    version: str


@dataclass(frozen=True)
class Readiness:
    """Whether every part answers."""

    ready: bool
    checks: list[Check]


@router.get("/healthz", response_model=Health)
def healthz() -> Response:
    """Answer as long as the process does."""
    return answer(Health(status="ok", version=__version__))


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not ready"}})
def readyz(deps: DepsNow) -> Response:
    """Answer 200 when the database and every other part answer, 503 with the failing line otherwise."""
    checks = [_database(deps), *(check() for check in deps.readiness)]
    ready = all(check.ok for check in checks)
    return answer(Readiness(ready=ready, checks=checks), status=200 if ready else 503)


def _database(deps: Deps) -> Check:
    try:
        with deps.db.read() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        return Check("database", False, type(error).__name__)
    return Check("database", True)
