"""Commands on the devices' doors: what waits, its result, a support bundle. The same documents as over MQTT."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from bundles.wire import commands as wire
from control_plane.db.engine import Database
from control_plane.services import answers, commands

Authenticate = Callable[[Request, bytes], str]
"""(request, body) -> the device that signed it; raises where nobody did."""
Body = Callable[[Request, int], Awaitable[bytes]]
"""(request, most bytes) -> its body; raises where it is longer."""


def add_command_routes(
    router: APIRouter, db: Database, now_ms: Callable[[], int], authenticate: Authenticate, body_of: Body
) -> None:
    """Add the routes to ``router``.

    Args:
        router: of the devices' doors.
        db: the database.
        now_ms: server clock.
        authenticate: checks a request's proof.
        body_of: reads a bounded body.
    """

    @router.get("/v1/device/commands")
    def get_commands(request: Request) -> Response:
        """Return the commands that wait for this device."""
        device = authenticate(request, b"")
        with db.read() as session:
            waiting = commands.waiting_for(session, device, now_ms())
        return Response(wire.encode(waiting), media_type="application/json")

    @router.post("/v1/device/commands/{command}/result", status_code=204)
    async def post_result(command: str, request: Request) -> Response:
        """Take in what became of a command."""
        body = await body_of(request, wire.MAX_RESULT_BYTES)

        def work() -> Response:
            device = authenticate(request, body)
            with db.write() as session:
                answers.take_in(session, device, wire.result_leaf(command), body, now_ms())
            return Response(status_code=204)

        return await run_in_threadpool(work)

    @router.post("/v1/device/diagnosis/{command}", status_code=204)
    async def post_diagnosis(command: str, request: Request) -> Response:
        """Take in the support bundle that a command asked for."""
        body = await body_of(request, wire.MAX_BUNDLE_BYTES)

        def work() -> Response:
            device = authenticate(request, body)
            with db.write() as session:
                answers.take_bundle(session, device, command, body, now_ms())
            return Response(status_code=204)

        return await run_in_threadpool(work)
