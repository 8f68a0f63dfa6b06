"""Devices: the list with its filters, and one device's twin and timeline."""

from __future__ import annotations

from typing import Any

from control_plane.db.queries.commands import list_commands
from control_plane.db.queries.devices import list_devices, list_events, show_device
from control_plane.web.page import Page, Visit
from control_plane.web.query import choice

PAGE_SIZE = 50
EVENTS = 30
COMMANDS = 5
STATES = ("enrolled", "pending", "revoked", "retired")


def _list(visit: Visit) -> dict[str, Any]:
    query = visit.query
    filters = {
        "state": choice(query, "state", STATES),
        "hardware": query.get("hardware", ""),
        "cohort": query.get("cohort", ""),
    }
    after = query.get("after") or None
    items, following = list_devices(visit.session, now_ms=visit.now_ms, after=after, limit=PAGE_SIZE, **filters)
    return {
        "title": "Devices",
        "devices": items,
        "filters": filters,
        "states": STATES,
        "is_later_page": after is not None,
        "next": following or "",
    }


def _one(visit: Visit) -> dict[str, Any]:
    device = visit.path["device"]
    detail = show_device(visit.session, device, visit.now_ms)
    events, _ = list_events(visit.session, device, limit=EVENTS)
    commands, _ = list_commands(visit.session, device, limit=COMMANDS)
    return {"title": device, "detail": detail, "device": detail.device, "events": events, "commands": commands}


DEVICES = Page("/devices", "devices.html", ("devices",), _list)
DEVICE = Page("/devices/{device}", "device.html", ("twin", "events"), _one)
