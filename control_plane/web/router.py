"""The one door of the pages: ``web_router(parts)``."""

from __future__ import annotations

from fastapi import APIRouter, Response

from control_plane.web.answers import HEADERS
from control_plane.web.assets import PREFIX, Assets
from control_plane.web.page import page_routes
from control_plane.web.pages.alerts import ALERTS
from control_plane.web.pages.devices import DEVICE, DEVICES
from control_plane.web.pages.releases import RELEASE, RELEASES
from control_plane.web.pages.rollouts import ROLLOUT, ROLLOUT_DEVICES, ROLLOUTS
from control_plane.web.pages.trust import TRUST
from control_plane.web.render import Renderer
from control_plane.web.session import session_routes
from control_plane.web.site import Site, WebParts
from control_plane.web.steering import steering_routes

FOR_EVER = "public, max-age=31536000, immutable"
PAGES = (ROLLOUTS, ROLLOUT, ROLLOUT_DEVICES, RELEASES, RELEASE, DEVICES, DEVICE, ALERTS, TRUST)


def web_router(parts: WebParts) -> APIRouter:
    """Return the router of every page, its streams, its forms and its static files.

    Reads templates and static files when it is called; opens nothing else.
    """
    assets = Assets()
    site = Site(parts, Renderer(assets))
    router = APIRouter(include_in_schema=False)

    @router.get(PREFIX + "/{digest}/{name:path}")
    def static(digest: str, name: str) -> Response:
        asset = assets.find(digest, name)
        if asset is None:
            return Response(status_code=404, headers=HEADERS)
        return Response(asset.content, media_type=asset.media_type, headers={**HEADERS, "Cache-Control": FOR_EVER})

    router.include_router(session_routes(site))
    router.include_router(page_routes(site, PAGES))
    router.include_router(steering_routes(site))  # last: its paths are the widest
    return router
