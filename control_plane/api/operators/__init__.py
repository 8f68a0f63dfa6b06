"""The operators' routers, one noun each."""

from __future__ import annotations

from fastapi import APIRouter

from control_plane.api.operators import (
    alerts,
    audit,
    commands,
    devices,
    enrolments,
    fleet,
    releases,
    rollouts,
    tokens,
    trust,
)

OPERATOR_ROUTERS: tuple[APIRouter, ...] = (
    releases.router,
    rollouts.router,
    devices.router,
    commands.router,
    enrolments.router,
    alerts.router,
    audit.router,
    tokens.router,
    fleet.router,
    trust.router,
)
