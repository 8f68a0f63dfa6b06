"""Signing in with an operator token, and out again.

The cookie carries the token itself, out of reach of scripts (``HttpOnly``) and of other sites (``SameSite=Strict``), so
that revoking or expiring the token ends the session at once and the server keeps no table of sessions. A token is never
part of an address. Cookies do not know ports: whoever runs another web server under the same host name is trusted.
"""

from __future__ import annotations

import re

from fastapi import APIRouter, Request, Response

from control_plane.errors import Unauthenticated
from control_plane.services import tokens
from control_plane.web.answers import SIGN_IN, html, page_route, see_other
from control_plane.web.forms import Form
from control_plane.web.site import COOKIE, Site

HOME = "/rollouts"
LIFE_S = 12 * 3600
"""A working day; the token may end it sooner."""
_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*\Z")


def safe_path(text: str) -> str:
    """Return ``text`` if it is a path on this site, else the home page: a link must not send people elsewhere."""
    return text if _PATH.match(text) and not text.startswith(SIGN_IN) else HOME


def session_routes(site: Site) -> APIRouter:
    """Return the routes of ``/sign-in``, ``/sign-out`` and ``/``."""
    router = APIRouter(route_class=page_route(site.renderer), include_in_schema=False)

    def page(request: Request, problem: Unauthenticated | None = None, aim: str = "") -> Response:
        values = {
            "problem": problem,
            "next": safe_path(aim or request.query_params.get("next", "")),
            "has_ended": problem is None and "ended" in request.query_params,
        }
        return html(site.renderer.render("sign_in.html", values), 401 if problem else 200)

    @router.get("/")
    def home() -> Response:
        return see_other(HOME)

    @router.get(SIGN_IN)
    def sign_in_page(request: Request) -> Response:
        return page(request)

    @router.post(SIGN_IN)
    def sign_in(request: Request, form: Form) -> Response:
        token, aim = form.get("token", ""), safe_path(form.get("next", ""))
        try:
            with site.parts.db.read() as session:
                tokens.authenticate(session, token, site.parts.now_ms())
        except Unauthenticated as error:
            return page(request, error, aim)
        response = see_other(aim)
        response.set_cookie(
            COOKIE,
            token,
            max_age=LIFE_S,
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    @router.post("/sign-out")
    def sign_out(form: Form) -> Response:
        response = see_other(SIGN_IN)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    return router
