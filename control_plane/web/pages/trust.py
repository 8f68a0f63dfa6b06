"""Trust: who may sign what, until when, what is forbidden, and what a person has to do about it."""

from __future__ import annotations

from typing import Any

from control_plane.web.page import Page, Visit


def _one(visit: Visit) -> dict[str, Any]:
    return {"title": "Trust", "trust": visit.trust()}


TRUST = Page("/trust", "trust.html", ("trust",), _one)
