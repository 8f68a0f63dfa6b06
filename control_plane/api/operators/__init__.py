"""The operators' routers, one noun each."""

from __future__ import annotations

from fastapi import APIRouter

from control_plane.api.operators import alerts, audit, devices, fleet, releases, rollouts, tokens

OPERATOR_ROUTERS: tuple[APIRouter, ...] = (
    releases.router,
    rollouts.router,
    devices.router,
    alerts.router,
    audit.router,
    tokens.router,
    fleet.router,
)
