"""``GET /v1/deltas/{old}/{new}``: how to make one blob out of another, for a device that holds the other.

A signed request like that for a blob. 404 ``DELTA_NOT_OFFERED`` says: fetch the whole file. While a delta is being made
the answer is 503 ``DELTA_BUILDING`` after a few seconds, well before a device's patience with a silent server ends.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from control_plane.services.deltas import Deltas, being_made, not_offered

WAIT_S = 8.0
"""An agent gives up on a silent server after 15 s."""
_RANGE = re.compile(r"bytes=(\d{1,15})-\Z")


def add_delta_route(router: APIRouter, deltas: Deltas, authenticate: Callable[[Request], object]) -> None:
    """Add the route to ``router``.

    Args:
        router: of the devices' doors.
        deltas: makes and keeps them.
        authenticate: checks a request's proof; raises where it has none.
    """

    @router.get("/v1/deltas/{old}/{new}")
    async def get_delta(old: str, new: str, request: Request) -> Response:
        """Return the delta from blob ``old`` to blob ``new``, or its rest as named by ``Range``."""
        await run_in_threadpool(authenticate, request)
        asked = await run_in_threadpool(deltas.ask, old, new)
        try:
            # Shielded: whoever stops waiting does not stop the work that others wait for.
            length = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(asked)), WAIT_S)
        except TimeoutError as error:
            raise being_made() from error
        if not length:
            raise not_offered()
        answer = _answer(deltas, old, new, length, request)
        if answer.status_code == 200:  # a rest asked for by Range belongs to one that was counted
            await run_in_threadpool(deltas.count_served, new, length)
        return answer


def _answer(deltas: Deltas, old: str, new: str, length: int, request: Request) -> Response:
    etag = f'"{old}-{new}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes"}
    start, status = 0, 200
    asked = request.headers.get("Range")
    if asked and request.headers.get("If-Range", etag) == etag:
        match = _RANGE.match(asked)
        if match is None or int(match[1]) >= length:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{length}"})
        start, status = int(match[1]), 206
        headers["Content-Range"] = f"bytes {start}-{length - 1}/{length}"
    headers["Content-Length"] = str(length - start)
    body = deltas.open(old, new, start, length - start)
    return StreamingResponse(body, status_code=status, media_type="application/octet-stream", headers=headers)
