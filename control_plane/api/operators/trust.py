"""``/api/v1/trust``: what the trust metadata says, events that people signed, the server's own next keys.

Nothing here signs for people: an event is published because of the signatures in it, not because of who sends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from bundles.trust.publishing.repository import MAX_VERSION
from bundles.trust.signing.eventfolder import unzip_event
from control_plane.api.deps import DepsNow
from control_plane.api.json import answer
from control_plane.api.problems import responses
from control_plane.api.security import Admin, Approver, Viewer
from control_plane.api.uploads import BODY, SmallFile
from control_plane.services.trust import record_publication, record_server_act
from control_plane.services.trust_view import TrustView, trust_view

router = APIRouter(prefix="/trust", tags=["trust"])


@dataclass(frozen=True)
class EventPublished:
    """What a publication changed.

    Attributes:
        published: metadata files added; empty where all of them were there before.
        releases: target path -> digest of the bundles that became listed.
        timestamp_version: of the state now served.
    """

    published: list[str]
    releases: dict[str, str]
    timestamp_version: int


class Rotation(BaseModel):
    """Which of the server's keys are to be exchanged."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["online", "director"]


@dataclass(frozen=True)
class NextKeys:
    """Public halves of the keys that wait on the server, by role, as root or targets is to name them."""

    keys: dict[str, dict[str, Any]]


class Advance(BaseModel):
    """A much higher version for an online role."""

    model_config = ConfigDict(extra="forbid")

    to: int = Field(ge=1, le=MAX_VERSION)
    role: Literal["timestamp", "snapshot"] = "timestamp"


@dataclass(frozen=True)
class Versions:
    """Versions of the state now served."""

    timestamp_version: int
    snapshot_version: int


@router.get("", response_model=TrustView)
def show(deps: DepsNow, caller: Viewer) -> Response:
    """Show roles, thresholds, floors, revoked bundles, and whatever is about to expire, certificates too."""
    return answer(trust_view(deps.metadata, deps.clock.now_ms(), deps.deadlines()))


@router.post(
    "/events",
    response_model=EventPublished,
    responses=responses(409, 413, 415, 507),
    openapi_extra=BODY,
)
def publish(deps: DepsNow, caller: Approver, body: SmallFile) -> Response:
    """Publish a signed event (its zip): all of it or nothing. The same event again changes nothing."""
    event = unzip_event(body)
    published = deps.metadata.publish(event.files)
    with deps.db.write() as session:
        record_publication(session, event.files, published, caller.name, deps.clock.now_ms())
    return answer(EventPublished(published.names, published.releases, published.timestamp_version))


@router.post("/keys", response_model=NextKeys, responses=responses(507))
def prepare(deps: DepsNow, caller: Admin, body: Rotation) -> Response:
    """Make the server's next keys ready. They sign once root (or, for the director, targets) names them."""
    keys = deps.metadata.prepare(body.role)
    with deps.db.write() as session:
        keyids = {role: key.keyid for role, key in keys.items()}
        record_server_act(session, "trust.prepare", keyids, caller.name, deps.clock.now_ms())
    return answer(NextKeys({role: {"keyid": key.keyid, **key.to_dict()} for role, key in keys.items()}))


@router.post("/advance", response_model=Versions, responses=responses(409, 507))
def advance(deps: DepsNow, caller: Admin, body: Advance) -> Response:
    """Sign an online role under a much higher version: for devices that have seen higher ones than this server."""
    deps.metadata.advance(body.role, body.to)
    repository = deps.metadata.repository
    versions = Versions(repository.timestamp_version, repository.snapshot_version)
    with deps.db.write() as session:
        body_ = {"role": body.role, "to": body.to}
        record_server_act(session, "trust.advance", body_, caller.name, deps.clock.now_ms())
    return answer(versions)
