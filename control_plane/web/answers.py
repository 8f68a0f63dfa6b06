"""What every answer of the pages has in common: security headers, and errors as pages with their code and remedy.

The policy allows what this site itself serves and nothing else: no inline script or style, no frame, no other site.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from bundles.errors import TryAgain, WavegateError
from control_plane import errors as e
from control_plane.web.render import Renderer

SIGN_IN = "/sign-in"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with it browsers send `Origin: null` with our own forms, which the origin check refuses.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STATUS: tuple[tuple[type[WavegateError], int], ...] = (
    (e.NotAllowed, 403),
    (e.NotFound, 404),
    (e.PreconditionFailed, 412),
    (e.Conflict, 409),
    (e.TooLarge, 413),
    (TryAgain, 503),
)


def is_fragment(request: Request) -> bool:
    """Whether a script of ours asked, to put the answer into the page that is there already."""
    return request.headers.get("hx-request") == "true"


def html(text: str, status: int = 200) -> Response:
    """Return a page; what it shows changes, so that nobody keeps it."""
    return HTMLResponse(text, status, headers={"Cache-Control": "no-store", "Vary": "HX-Request, Cookie"})


def see_other(path: str) -> Response:
    """Send the browser on to ``path`` with a GET."""
    return RedirectResponse(path, 303, headers={"Cache-Control": "no-store"})


def problem(renderer: Renderer, error: WavegateError, *, fragment: bool) -> Response:
    """Return ``error`` as a page, or as what belongs into the dialog."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 422)
    template = "fragments/problem.html" if fragment else "problem.html"
    return html(renderer.render(template, {"problem": error, "status": status}), status)


def page_route(renderer: Renderer) -> type[APIRoute]:
    """Return the kind of route every page is: errors become pages, and every answer gets the security headers."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    response = await handler(request)
                except e.Unauthenticated as error:
                    if is_fragment(request):  # a script cannot be sent to another page: it is told, and goes itself
                        response = Response(status_code=401)
                    else:
                        aim = request.url.path if request.method == "GET" and request.url.path != "/" else ""
                        reason = "" if error.code == "SESSION_MISSING" else "?ended=1"
                        response = see_other(f"{SIGN_IN}{reason}" if not aim else _with_aim(reason, request))
                except WavegateError as error:
                    response = await run_in_threadpool(problem, renderer, error, fragment=is_fragment(request))
                response.headers.update(HEADERS)
                return response

            return answer

    return PageRoute


def _with_aim(reason: str, request: Request) -> str:
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{SIGN_IN}{reason}{'&' if reason else '?'}next={quote(request.url.path + query, safe='')}"
