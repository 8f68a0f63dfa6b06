"""One page: where it lives, what it loads, which parts of it change. Served whole, and as a stream of changed regions.

The stream is level-triggered. Any change makes it look at the database again and send the regions that read differently
from what this browser has; so does time alone, every ``REFRESH_S``, because "silent for 3 min" becomes true without any
event. After a reconnect everything is sent, and the page is right again whatever was missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool

from control_plane.auth import Principal
from control_plane.db.queries import fleet
from control_plane.errors import NotFound, Unauthenticated
from control_plane.services.trust_view import TrustView
from control_plane.web.answers import html, page_route
from control_plane.web.query import filters, names
from control_plane.web.site import Site

LIVE = "/live"
HEADER_REGION = "fleet"
REFRESH_S = 5.0
GAP_S = 0.5
"""A stream sends at most twice a second, whatever the fleet does."""
SIGNED_OUT, GONE = "wavegate:signed-out", "wavegate:gone"


@dataclass(frozen=True)
class Visit:
    """One look at a page.

    Attributes:
        session: of ``Database.read``: everything on the page is of one moment.
        caller: who looks.
        now_ms: server clock.
        path: parameters of the path.
        query: parameters of the address.
        trust: returns what the trust metadata says now; reads files, so only pages that show it ask.
    """

    session: Session
    caller: Principal
    now_ms: int
    path: Mapping[str, str]
    query: Mapping[str, str]
    trust: Callable[[], TrustView]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        path: route, with its parameters.
        template: of the whole page.
        regions: parts that are kept right while it is open: ``regions/<name>.html`` into the element ``region-<name>``.
        load: returns what the templates need; raises ``NotFound`` and ``NotAllowed``.
    """

    path: str
    template: str
    regions: tuple[str, ...]
    load: Callable[[Visit], dict[str, Any]]


def page_routes(site: Site, pages: tuple[Page, ...]) -> APIRouter:
    """Return the routes of ``pages``, each at its path and, as a stream, below ``/live``."""
    router = APIRouter(route_class=page_route(site.renderer), include_in_schema=False)
    for page in pages:
        _add(router, site, page)
    return router


def _add(router: APIRouter, site: Site, page: Page) -> None:
    @router.get(page.path)
    def whole(request: Request) -> Response:
        return html(site.renderer.render(page.template, _load(site, page, request)))

    @router.get(LIVE + page.path)
    async def live(request: Request) -> Response:
        await run_in_threadpool(_load, site, page, request)  # what is wrong now is answered with its status
        return StreamingResponse(
            _stream(site, page, request),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )


def _load(site: Site, page: Page, request: Request) -> dict[str, Any]:
    with site.parts.db.read() as session:
        caller, now_ms = site.caller(session, request), site.parts.now_ms()
        path, query = names(request.path_params), filters(request.query_params)
        visit = Visit(session, caller, now_ms, path, query, site.parts.trust)
        values = page.load(visit)
        address = request.url.path.removeprefix(LIVE)
        search = f"?{request.url.query}" if request.url.query else ""
        return {
            "caller": caller,
            "now_ms": now_ms,
            "fleet": fleet.summary(session, now_ms),
            "regions": page.regions,
            "live": f"{LIVE}{address}{search}",
            "section": page.path.split("/")[1],
            **values,
        }


async def _stream(site: Site, page: Page, request: Request) -> AsyncIterator[str]:
    changed, sent = asyncio.Event(), dict[str, str]()

    async def hear() -> None:
        async for _ in site.parts.listen():
            changed.set()

    ear = asyncio.create_task(hear())
    try:
        while True:
            changed.clear()
            try:
                yield await run_in_threadpool(_news, site, page, request, sent)
            except Unauthenticated:
                yield _named(SIGNED_OUT)
                return
            except NotFound:
                yield _named(GONE)
                return
            await asyncio.sleep(GAP_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), REFRESH_S)
    finally:
        ear.cancel()


def _news(site: Site, page: Page, request: Request, sent: dict[str, str]) -> str:
    """Render every region and return those that differ from ``sent`` as one message; a comment where none does."""
    values, parts = _load(site, page, request), []
    for region in (HEADER_REGION, *page.regions):
        text = site.renderer.render(f"regions/{region}.html", values)
        if sent.get(region) != text:
            sent[region] = text
            parts.append(f'<hx-partial hx-target="#region-{region}" hx-swap="innerMorph">{text}</hx-partial>')
    if not parts:
        return ": nothing changed\n\n"
    # Every line of a message is a field of its own; a blank one would end it.
    return "".join(f"data: {line}\n" for line in "".join(parts).splitlines() if line.strip()) + "\n"


def _named(event: str) -> str:
    return f"event: {event}\ndata: 1\n\n"
