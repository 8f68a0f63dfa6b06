"""``/api/v1/devices/{device}/commands`` and ``/diagnoses``: ask a device something, and what it answered."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from control_plane.api.deps import DepsNow
from control_plane.api.json import Cursor, Limit, Name, answer, make_cursor, read_cursor
from control_plane.api.operators.rollouts import TEXT
from control_plane.api.problems import responses
from control_plane.api.security import Operator, Viewer
from control_plane.auth import Role
from control_plane.db.queries.commands import CommandPage, CommandView, list_commands, read_bundle, show_command
from control_plane.services import audit, commands

router = APIRouter(prefix="/devices/{device}", tags=["devices"])
BINARY = {"type": "string", "format": "binary"}
CommandId = Annotated[str, Path(max_length=32, pattern=r"^[a-z0-9]+$")]


class AskDevice(BaseModel):
    """One thing to ask of a device."""

    model_config = ConfigDict(extra="forbid")

    do: Literal["diagnose", "selftest", "status", "rollback"]
    model: str = Field(default="", max_length=200, pattern=TEXT)
    reason: str = Field(default="", max_length=2000, pattern=TEXT)
    life_s: int = Field(default=0, ge=0, le=commands.MAX_LIFE_S)
    force: bool = False


@router.post("/commands", status_code=202, response_model=CommandView, responses=responses(404, 409))
def ask(deps: DepsNow, caller: Operator, device: Name, body: AskDevice) -> Response:
    """Ask a device for a diagnosis, its self-test, its status, or to go back to its previous release."""
    asked = commands.Asked(device, body.do, body.model, body.reason, body.life_s, body.force)
    with deps.db.write() as session:
        made = commands.ask(
            session,
            asked,
            actor=caller.name,
            may=lambda team: caller.require(Role.OPERATOR, team),
            now_ms=deps.clock.now_ms(),
            random_bytes=deps.random_bytes,
        )
    deps.commanded()
    return answer(made, status=202)


@router.get("/commands", response_model=CommandPage, responses=responses(404))
def list_all(deps: DepsNow, caller: Viewer, device: Name, cursor: Cursor = "", limit: Limit = 50) -> Response:
    """List what a device was asked, newest first."""
    after = read_cursor(cursor, tuple[int, str])
    with deps.db.read() as session:
        items, key = list_commands(session, device, after=after, limit=limit)
    return answer(CommandPage(items, make_cursor(key)))


@router.get("/commands/{command}", response_model=CommandView, responses=responses(404))
def show(deps: DepsNow, caller: Viewer, device: Name, command: CommandId) -> Response:
    """Show one command and what became of it."""
    with deps.db.read() as session:
        return answer(show_command(session, device, command))


@router.get("/diagnoses", response_model=CommandPage, responses=responses(404))
def list_diagnoses(deps: DepsNow, caller: Viewer, device: Name, cursor: Cursor = "", limit: Limit = 50) -> Response:
    """List the diagnoses of a device, newest first."""
    after = read_cursor(cursor, tuple[int, str])
    with deps.db.read() as session:
        items, key = list_commands(session, device, do="diagnose", after=after, limit=limit)
    return answer(CommandPage(items, make_cursor(key)))


@router.get(
    "/diagnoses/{command}",
    response_class=Response,
    responses={200: {"content": {"application/gzip": {"schema": BINARY}}}, **responses(404)},
)
def download(deps: DepsNow, caller: Operator, device: Name, command: CommandId) -> Response:
    """Return a support bundle: a gzipped tar of plain files. Each download has its audit row."""
    with deps.db.write() as session:
        content = read_bundle(session, device, command)
        body = {"command": command, "bytes": len(content)}
        subject = f"device:{device}"
        audit.record(session, "audit", caller.name, "device.diagnosis.download", subject, body, deps.clock.now_ms())
    name = f"diagnosis-{device}-{command}.tar.gz"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type="application/gzip", headers=headers)
