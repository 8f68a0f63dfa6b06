"""``/api/v1/releases``: publish, list, show, approve, reject."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, ConfigDict, Field

from control_plane.api.deps import DepsNow
from control_plane.api.json import Cursor, Limit, Name, Word, answer, make_cursor, read_cursor
from control_plane.api.problems import responses
from control_plane.api.security import Approver, Operator, Viewer
from control_plane.api.uploads import BODY, Upload
from control_plane.api.visibility import visible_teams
from control_plane.db.queries.releases import ReleaseDetail, ReleasePage, ReleaseView, list_releases, show_release
from control_plane.services import idempotency, registry

router = APIRouter(prefix="/releases", tags=["releases"])
IdempotencyKey = Annotated[
    str, Header(alias="Idempotency-Key", max_length=200, pattern=r"^[\x21-\x7e]*$", description="Makes a repeat safe.")
]


class Comment(BaseModel):
    """What the approver has to say."""

    model_config = ConfigDict(extra="forbid")

    comment: str = Field(default="", max_length=2000, pattern=r"^[^\x00]*$")


@router.post(
    "",
    status_code=201,
    response_model=ReleaseView,
    responses={200: {"model": ReleaseView, "description": "It was published before"}, **responses(409, 413, 415, 507)},
    openapi_extra=BODY,
)
def publish(deps: DepsNow, caller: Operator, upload: Upload, idempotency_key: IdempotencyKey = "") -> Response:
    """Publish a signed bundle (a `.wgb` file). The same bundle again answers 200 and changes nothing."""
    now_ms = deps.clock.now_ms()
    with deps.db.read() as session:
        archive = registry.check(session, upload, caller)
        known = idempotency.recall(session, caller.name, idempotency_key, archive.sha256) if idempotency_key else None
    if known is not None:
        return Response(known[1], known[0], media_type="application/json")
    registry.store(archive, deps.storage, deps.metadata)
    with deps.db.write() as session:
        published = registry.register(session, archive, caller, now_ms)
        status, body = 201 if published.is_new else 200, msgspec.json.encode(published.release)
        if idempotency_key and not idempotency.recall(session, caller.name, idempotency_key, archive.sha256):
            idempotency.keep(
                session, caller.name, idempotency_key, archive.sha256, status=status, body=body, now_ms=now_ms
            )
    return Response(body, status, media_type="application/json")


@router.get("", response_model=ReleasePage, responses=responses(404))
def list_all(
    deps: DepsNow,
    caller: Viewer,
    team: Word = "",
    model: Word = "",
    stage: Word = "",
    cursor: Cursor = "",
    limit: Limit = 50,
) -> Response:
    """List releases, newest first."""
    after = read_cursor(cursor, tuple[int, str])
    with deps.db.read() as session:
        items, key = list_releases(
            session, teams=visible_teams(caller), team=team, model=model, stage=stage, after=after, limit=limit
        )
    return answer(ReleasePage(items, make_cursor(key)))


@router.get("/{sha256}", response_model=ReleaseDetail, responses=responses(404))
def show(deps: DepsNow, caller: Viewer, sha256: Name) -> Response:
    """Show a release and its manifest."""
    with deps.db.read() as session:
        detail = show_release(session, sha256)
    caller.require(caller.role, detail.release.team)
    return answer(detail)


@router.post("/{sha256}/approve", response_model=ReleaseView, responses=responses(404, 409))
def approve(deps: DepsNow, caller: Approver, sha256: Name, body: Comment | None = None) -> Response:
    """Approve a release for rollouts. Its publisher may not (`FOUR_EYES`)."""
    comment = body.comment if body else ""
    with deps.db.write() as session:
        view = registry.approve(session, sha256, approver=caller, comment=comment, now_ms=deps.clock.now_ms())
    return answer(view)


@router.post("/{sha256}/reject", response_model=ReleaseView, responses=responses(404, 409))
def reject(deps: DepsNow, caller: Approver, sha256: Name, body: Comment | None = None) -> Response:
    """Refuse a release for good."""
    comment = body.comment if body else ""
    with deps.db.write() as session:
        view = registry.reject(session, sha256, approver=caller, comment=comment, now_ms=deps.clock.now_ms())
    return answer(view)
