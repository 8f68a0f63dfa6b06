"""The FastAPI application, made from ``Deps``. No module-level state: two applications live side by side in a test.

The same application answers operators (``/api/v1``), devices (``/v1``, ``/metadata``) and the web pages; the devices'
routers and the pages are handed in.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from bundles import __version__
from control_plane.api import health, problems
from control_plane.api.deps import Deps
from control_plane.api.operators import OPERATOR_ROUTERS

DESCRIPTION = "Ships signed models to fleets of edge devices and proves, wave by wave, that they are healthy there."


def create_api(deps: Deps) -> FastAPI:
    """Return the application over ``deps``."""
    app = FastAPI(
        title="Wavegate",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # its page loads scripts from another site
        redoc_url=None,
        redirect_slashes=False,  # a redirect would answer outside the documented statuses
    )
    app.state.deps = deps
    problems.install(app)
    app.include_router(health.router)
    for router in OPERATOR_ROUTERS:
        app.include_router(router, prefix="/api/v1", responses=problems.responses(401, 403, 422, 503))
    for extra in (deps.device_surface, deps.web, *deps.extra):
        if extra is not None:
            app.include_router(extra)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if not app.openapi_schema:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = TypeAdapter(problems.Problem).json_schema(ref_template="#/components/schemas/{model}")
        app.openapi_schema = schema
    return app.openapi_schema
