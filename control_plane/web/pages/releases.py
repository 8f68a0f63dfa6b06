"""Bundles: the releases the registry knows, and one with where it comes from."""

from __future__ import annotations

from typing import Any

from bundles.errors import BundleRefused
from bundles.manifest import parse_manifest
from bundles.provenance import lineage_rows
from control_plane.db.queries.releases import list_releases, release_unknown, show_release
from control_plane.db.tables import Release
from control_plane.web.page import Page, Visit
from control_plane.web.query import choice, number_of

PAGE_SIZE = 50
STAGES = ("registered", "approved", "production", "retired", "rejected")


def _list(visit: Visit) -> dict[str, Any]:
    stage = choice(visit.query, "stage", STAGES)
    published_ms, _, sha256 = visit.query.get("after", "").partition("~")
    after = (number_of(published_ms), sha256) if number_of(published_ms) else None
    teams = None if "*" in visit.caller.teams else visit.caller.teams
    items, following = list_releases(visit.session, teams=teams, stage=stage, after=after, limit=PAGE_SIZE)
    return {
        "title": "Bundles",
        "releases": items,
        "stage": stage,
        "stages": STAGES,
        "trust": visit.trust(),
        "is_later_page": after is not None,
        "next": f"{following[0]}~{following[1]}" if following else "",
    }


def _one(visit: Visit) -> dict[str, Any]:
    sha256 = visit.path["sha256"]
    detail = show_release(visit.session, sha256)
    if not visit.caller.may_see(detail.release.team):
        raise release_unknown(sha256)  # another team's release is no different from none
    view = detail.release
    return {
        "title": f"{view.team}/{view.model} {view.version}",
        "release": view,
        "lineage": _lineage(visit, sha256),
        "parent": detail.lineage.parent,
    }


def _lineage(visit: Visit, sha256: str) -> list[tuple[str, str]]:
    row = visit.session.get(Release, sha256)
    try:
        return lineage_rows(parse_manifest(row.manifest_json.encode())) if row else []
    except BundleRefused:  # published under rules that have become stricter since
        return []


RELEASES = Page("/releases", "releases.html", ("releases",), _list)
RELEASE = Page("/releases/{sha256}", "release.html", ("release",), _one)
