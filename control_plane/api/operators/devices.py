"""``/api/v1/devices``: list, twin, timeline, claim tokens, retiring and revoking."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from control_plane.api.deps import DepsNow
from control_plane.api.json import Cursor, Limit, Name, Word, answer, make_cursor, read_cursor
from control_plane.api.operators.rollouts import TEXT, Reason
from control_plane.api.problems import responses
from control_plane.api.security import Operator, Viewer
from control_plane.db.queries.devices import (
    DeviceDetail,
    DevicePage,
    EventPage,
    list_devices,
    list_events,
    show_device,
)
from control_plane.services import devices

router = APIRouter(prefix="/devices", tags=["devices"])


class CreateEnrolToken(BaseModel):
    """A claim token for devices to come."""

    model_config = ConfigDict(extra="forbid")

    uses: int = Field(default=1, ge=1, le=devices.MAX_USES)
    life_s: int = Field(default=24 * 3600, ge=1, le=devices.MAX_LIFE_S)
    hardware: str = Field(default="", max_length=100, pattern=TEXT)
    labels: dict[str, str] = Field(default={}, max_length=32)
    device: str = Field(default="", max_length=64, pattern=r"^[a-z0-9-]*$")
    serial: str = Field(default="", max_length=100, pattern=TEXT)
    key_sha256: str = Field(default="", max_length=64, pattern=r"^[0-9a-f]*$")


@router.get("", response_model=DevicePage, responses=responses(404))
def list_all(
    deps: DepsNow,
    caller: Viewer,
    state: Word = "",
    hardware: Word = "",
    cohort: Word = "",
    cursor: Cursor = "",
    limit: Limit = 50,
) -> Response:
    """List devices in the order of their ids."""
    after = read_cursor(cursor, str)
    with deps.db.read() as session:
        items, key = list_devices(
            session,
            now_ms=deps.clock.now_ms(),
            state=state,
            hardware=hardware,
            cohort=cohort,
            after=after,
            limit=limit,
        )
    return answer(DevicePage(items, make_cursor(key)))


@router.post("/enroll-tokens", status_code=201, response_model=devices.NewEnrolToken)
def create_enrol_token(deps: DepsNow, caller: Operator, body: CreateEnrolToken) -> Response:
    """Make a claim token. It is shown once; the database keeps its hash."""
    with deps.db.write() as session:
        made = devices.create_enrol_token(
            session,
            uses=body.uses,
            life_s=body.life_s,
            hardware=body.hardware,
            labels=body.labels,
            device=body.device,
            serial=body.serial,
            key_sha256=body.key_sha256,
            actor=caller.name,
            now_ms=deps.clock.now_ms(),
            random_bytes=deps.random_bytes,
        )
    return answer(made, status=201)


@router.get("/{device}", response_model=DeviceDetail, responses=responses(404))
def show(deps: DepsNow, caller: Viewer, device: Name) -> Response:
    """Show a device's twin: what it is asked, what it says, and its rollouts."""
    with deps.db.read() as session:
        return answer(show_device(session, device, deps.clock.now_ms()))


@router.get("/{device}/events", response_model=EventPage, responses=responses(404))
def events(deps: DepsNow, caller: Viewer, device: Name, cursor: Cursor = "", limit: Limit = 50) -> Response:
    """List what happened on a device, newest first."""
    after = read_cursor(cursor, int)
    with deps.db.read() as session:
        items, key = list_events(session, device, after=after, limit=limit)
    return answer(EventPage(items, make_cursor(key)))


@router.post("/{device}/retire", response_model=DeviceDetail, responses=responses(404, 409))
def retire(deps: DepsNow, caller: Operator, device: Name, body: Reason | None = None) -> Response:
    """Take a device out of service."""
    now_ms, reason = deps.clock.now_ms(), body.reason if body else ""
    with deps.db.write() as session:
        devices.end(session, device, "retired", reason=reason, actor=caller.name, now_ms=now_ms)
        return answer(show_device(session, device, now_ms))


@router.post("/{device}/revoke", response_model=DeviceDetail, responses=responses(404, 409))
def revoke(deps: DepsNow, caller: Operator, device: Name, body: Reason | None = None) -> Response:
    """Stop trusting a device, for good: every request of it is refused from now on."""
    now_ms, reason = deps.clock.now_ms(), body.reason if body else ""
    with deps.db.write() as session:
        devices.end(session, device, "revoked", reason=reason, actor=caller.name, now_ms=now_ms)
        return answer(show_device(session, device, now_ms))
