"""Releases the registry knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlmodel import Session, col, select, tuple_

from control_plane.db.queries.pages import cut
from control_plane.db.tables import Release
from control_plane.errors import NotFound

Key = tuple[int, str]


@dataclass(frozen=True)
class ReleaseView:
    """A release without its manifest.

    Attributes:
        sha256: bundle digest.
        stage: registered | approved | production | retired | rejected.
        length: bytes of ``bundle.json``.
        baseline_sha256: blob of the reference distribution, empty if none.
        comment: of whoever approved or rejected it.
    """

    sha256: str
    team: str
    model: str
    version: str
    release_counter: int
    channel: str
    kind: str
    stage: str
    length: int
    baseline_sha256: str
    publisher: str
    published_ms: int
    approver: str
    approved_ms: int | None
    comment: str


@dataclass(frozen=True)
class ReleaseDetail:
    """A release with its whole manifest as plain values."""

    release: ReleaseView
    manifest: dict[str, Any]


@dataclass(frozen=True)
class ReleasePage:
    """One page of releases, newest first; ``next`` is the cursor of the following page, empty at the end."""

    items: list[ReleaseView]
    next: str


_COLUMNS = [col(getattr(Release, name)) for name in ReleaseView.__dataclass_fields__]


def list_releases(
    session: Session,
    *,
    teams: Sequence[str] | None = None,
    team: str = "",
    model: str = "",
    stage: str = "",
    after: Key | None = None,
    limit: int = 50,
) -> tuple[list[ReleaseView], Key | None]:
    """Return a page of releases, newest first, and the key to go on from.

    Args:
        session: of ``Database.read``.
        teams: teams the reader may see; None for all.
        team: keep only this team's, where not empty.
        model: keep only this model's, where not empty.
        stage: keep only this stage, where not empty.
        after: (published_ms, sha256) of the last release seen.
        limit: size of the page.
    """
    statement = select(*_COLUMNS)
    for column, wanted in ((Release.team, team), (Release.model, model), (Release.stage, stage)):
        if wanted:
            statement = statement.where(col(column) == wanted)
    if teams is not None:
        statement = statement.where(col(Release.team).in_(teams))
    key = tuple_(col(Release.published_ms), col(Release.sha256))
    if after is not None:
        statement = statement.where(key < after)
    order = (col(Release.published_ms).desc(), col(Release.sha256).desc())
    rows = [ReleaseView(*row) for row in session.execute(statement.order_by(*order).limit(limit + 1))]
    return cut(rows, limit, lambda row: (row.published_ms, row.sha256))


def show_release(session: Session, sha256: str) -> ReleaseDetail:
    """Return one release.

    Raises:
        NotFound: ``RELEASE_UNKNOWN``.
    """
    row = session.get(Release, sha256)
    if row is None:
        raise release_unknown(sha256)
    return ReleaseDetail(release=view_of(row), manifest=msgspec.json.decode(row.manifest_json))


def view_of(row: Release) -> ReleaseView:
    """Return ``row`` as plain values."""
    return ReleaseView(**{name: getattr(row, name) for name in ReleaseView.__dataclass_fields__})


def release_unknown(sha256: str) -> NotFound:
    """Return the error for a digest no release has."""
    return NotFound(
        f"No release has the digest {sha256!r}.",
        code="RELEASE_UNKNOWN",
        remedy="See `wavegate model list`; publish it first with `wavegate publish FILE`.",
    )
