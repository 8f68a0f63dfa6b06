"""``GET /metrics`` in Prometheus' text format; gauges of what the database holds are read at each scrape."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from sqlalchemy import func
from sqlmodel import select

from control_plane import metrics
from control_plane.db.engine import Database
from control_plane.db.tables import Alert, Device, RolloutRow


def metrics_router(db: Database) -> APIRouter:
    """Return the router of ``/metrics`` over ``db``."""
    router = APIRouter(tags=["health"])

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def scrape() -> Response:
        """Return every metric of this process and of the fleet."""
        with db.read() as session:
            _set(metrics.DEVICES, session.exec(select(Device.state, func.count()).group_by(Device.state)).all())
            _set(
                metrics.ROLLOUTS, session.exec(select(RolloutRow.phase, func.count()).group_by(RolloutRow.phase)).all()
            )
            firing = select(Alert.severity, func.count()).where(Alert.state != "resolved").group_by(Alert.severity)
            _set(metrics.ALERTS, session.exec(firing).all())
        return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return router


def _set(gauge: Gauge, rows: Iterable[tuple[str, int]]) -> None:
    gauge.clear()
    for label, count in rows:
        gauge.labels(label).set(count)
