"""``/api/v1/enrolments``: keys that wait for approval, and claim tokens for a list of hardware."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from control_plane.api.deps import DepsNow
from control_plane.api.json import Name, answer
from control_plane.api.operators.rollouts import TEXT
from control_plane.api.problems import responses
from control_plane.api.security import Operator, Viewer
from control_plane.services import approvals, batches, devices

router = APIRouter(prefix="/enrolments", tags=["enrolments"])


class HardwareRow(BaseModel):
    """One piece of hardware."""

    model_config = ConfigDict(extra="forbid")

    serial: str = Field(max_length=1_000, pattern=TEXT)
    device: str = Field(default="", max_length=1_000, pattern=TEXT)
    hardware: str = Field(default="", max_length=100, pattern=TEXT)
    labels: dict[str, str] = Field(default={}, max_length=32)


class HardwareList(BaseModel):
    """A list of hardware that is to enrol."""

    model_config = ConfigDict(extra="forbid")

    rows: list[HardwareRow] = Field(max_length=batches.MAX_ROWS)
    life_s: int = Field(default=30 * 24 * 3600, ge=1, le=devices.MAX_LIFE_S)
    replace: bool = False


class Approval(BaseModel):
    """How a key is approved."""

    model_config = ConfigDict(extra="forbid")

    device: str = Field(default="", max_length=64, pattern=r"^[a-z0-9-]*$")


@router.get("", response_model=list[approvals.PendingView])
def list_all(
    deps: DepsNow, caller: Viewer, state: Literal["pending", "approved", "denied", "all"] = "pending"
) -> Response:
    """List keys that asked to become devices without a token, the longest waiting first."""
    with deps.db.read() as session:
        return answer(approvals.list_pending(session, "" if state == "all" else state))


@router.post("/{fingerprint}/approve", response_model=approvals.PendingView, responses=responses(404, 409))
def approve(deps: DepsNow, caller: Operator, fingerprint: Name, body: Approval | None = None) -> Response:
    """Make a device of a key; its next request is answered with a certificate."""
    return _decide(deps, caller, fingerprint, "approved", body.device if body else "")


@router.post("/{fingerprint}/deny", response_model=approvals.PendingView, responses=responses(404, 409))
def deny(deps: DepsNow, caller: Operator, fingerprint: Name) -> Response:
    """Refuse a key; it is told so when it asks again."""
    return _decide(deps, caller, fingerprint, "denied", "")


@router.post("/tokens", status_code=201, response_model=list[batches.RowToken])
def make_tokens(deps: DepsNow, caller: Operator, body: HardwareList) -> Response:
    """Make one claim token for each piece of hardware, bound to its serial number. They are shown once."""
    rows = [batches.Row(row.serial, row.device, row.hardware, dict(row.labels)) for row in body.rows]
    with deps.db.write() as session:
        made = batches.make_tokens(
            session,
            rows,
            life_s=body.life_s,
            replace=body.replace,
            actor=caller.name,
            now_ms=deps.clock.now_ms(),
            random_bytes=deps.random_bytes,
        )
    return answer(made, status=201)


def _decide(
    deps: DepsNow, caller: Operator, fingerprint: str, verdict: Literal["approved", "denied"], device: str
) -> Response:
    with deps.db.write() as session:
        decided = approvals.decide(
            session,
            fingerprint,
            verdict,
            device=device,
            profile=deps.settings.profile,
            actor=caller.name,
            now_ms=deps.clock.now_ms(),
        )
    return answer(decided)
