"""The confirmation of each verb, and doing it: GET asks, POST acts and sends the browser back to the page."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from control_plane.auth import Role
from control_plane.db.queries.rollouts import show_rollout
from control_plane.errors import Conflict, NotFound, RequestRefused
from control_plane.services import alerts
from control_plane.web.answers import html, is_fragment, page_route, see_other
from control_plane.web.forms import Form
from control_plane.web.query import names, number_of
from control_plane.web.site import Site
from control_plane.web.verbs import Order, Verb, find_verb
from control_plane.web.wording import words

MAX_REASON = 500


def steering_routes(site: Site) -> APIRouter:
    """Return ``/rollouts/{id}/{verb}`` and ``/alerts/{id}/acknowledge``."""
    router = APIRouter(route_class=page_route(site.renderer), include_in_schema=False)
    parts = site.parts

    @router.get("/rollouts/{rollout}/{verb}")
    def ask(request: Request, verb: str) -> Response:
        chosen = _find(verb)
        with parts.db.read() as session:
            caller = site.caller(session, request)
            detail = show_rollout(session, names(request.path_params)["rollout"])
            caller.require(chosen.role, detail.rollout.team)
            if not chosen.is_for(caller, detail.rollout):
                standing = words(detail.rollout.phase)
                raise Conflict(
                    f"The rollout is {standing}: you cannot do that to it now.",
                    code="ROLLOUT_PHASE",
                    remedy="Look at the rollout again.",
                )
        values = {"verb": chosen, "detail": detail, "rollout": detail.rollout, "outlook": chosen.outlook(detail)}
        return html(site.renderer.render("fragments/confirm.html" if is_fragment(request) else "confirm.html", values))

    @router.post("/rollouts/{rollout}/{verb}")
    def act(request: Request, verb: str, form: Form) -> Response:
        chosen = _find(verb)
        reason, version = form.get("reason", "")[:MAX_REASON], number_of(form.get("version", ""))
        if (chosen.wants_reason and not reason) or not version:
            raise RequestRefused(
                "A reason and the version you looked at are needed.",
                code="FORM",
                remedy="Open the rollout and fill in the form there.",
            )
        with parts.db.write() as session:
            caller = site.caller(session, request)
            view = show_rollout(session, names(request.path_params)["rollout"]).rollout
            caller.require(chosen.role, view.team)
            chosen.act(session, Order(view.id, caller.name, reason, version, parts.now_ms()))
        return see_other(f"/rollouts/{view.id}")

    @router.post("/alerts/{alert}/acknowledge")
    def acknowledge(request: Request, alert: str, form: Form) -> Response:
        with parts.db.write() as session:
            caller = site.caller(session, request)
            caller.require(Role.OPERATOR)
            alerts.acknowledge(session, number_of(alert), actor=caller.name, now_ms=parts.now_ms())
        return see_other("/alerts")

    return router


def _find(name: str) -> Verb:
    verb = find_verb(name)
    if verb is None:
        raise NotFound(
            f"Nothing called {name!r} can be done to a rollout.", code="PATH_UNKNOWN", remedy="Go back to the rollout."
        )
    return verb
