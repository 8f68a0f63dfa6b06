"""``/api/v1/fleet/summary``, and ``/api/v1/events``: what changes, as it changes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from fastapi import APIRouter, Response
from starlette.responses import StreamingResponse

from control_plane.api.deps import DepsNow
from control_plane.api.fanout import Fanout
from control_plane.api.json import answer
from control_plane.api.security import Viewer
from control_plane.db.queries.fleet import FleetSummary, summary

router = APIRouter(tags=["fleet"])
STREAM = "text/event-stream"


@router.get("/fleet/summary", response_model=FleetSummary)
def show(deps: DepsNow, caller: Viewer) -> Response:
    """Show the fleet at a glance."""
    with deps.db.read() as session:
        return answer(summary(session, deps.clock.now_ms()))


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {STREAM: {"schema": {"type": "string"}}}, "description": "Server-sent events"}},
)
async def events(deps: DepsNow, caller: Viewer) -> StreamingResponse:
    """Stream changes as server-sent events named `rollout`, `decision`, `alert` and `fleet`."""
    return StreamingResponse(_lines(deps.fanout), media_type=STREAM, headers={"Cache-Control": "no-store"})


async def _lines(fanout: Fanout) -> AsyncIterator[bytes]:
    yield b": hello\n\n"
    async for change in fanout.listen():
        if change is None:
            yield b": still here\n\n"  # proxies close what is silent
        else:
            yield b"event: " + change.name.encode() + b"\ndata: " + msgspec.json.encode(change.data) + b"\n\n"
