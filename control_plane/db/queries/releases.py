"""Releases the registry knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlmodel import Session, col, select, tuple_

from control_plane.db.queries.pages import cut
from control_plane.db.tables import Release, RevokedBundle
from control_plane.errors import NotFound

Key = tuple[int, str]


@dataclass(frozen=True)
class Revocation:
    """Signed metadata forbids the bundle.

    Attributes:
        reason: in a person's words.
        strength: signatures; devices that run it heed it from 2 on.
        at_ms: when it was signed.
    """

    reason: str
    strength: int
    at_ms: int


@dataclass(frozen=True)
class ReleaseView:
    """A release without its manifest.

    Attributes:
        sha256: bundle digest.
        stage: registered | approved | production | retired | rejected.
        length: bytes of ``bundle.json``.
        baseline_sha256: blob of the reference distribution, empty if none.
        comment: of whoever approved or rejected it.
        revoked: None where nothing forbids it.
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
    revoked: Revocation | None = None


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from, as far as its publisher signed it; empty where the manifest says nothing.

    Attributes:
        parent: the release of the same team it was made from, where the registry knows it.
    """

    training_run: str
    dataset_sha256: str
    code_revision: str
    parent_sha256: str
    parent: ReleaseView | None


@dataclass(frozen=True)
class ReleaseDetail:
    """A release with its whole manifest as plain values."""

    release: ReleaseView
    manifest: dict[str, Any]
    lineage: Lineage


@dataclass(frozen=True)
class ReleasePage:
    """One page of releases, newest first; ``next`` is the cursor of the following page, empty at the end."""

    items: list[ReleaseView]
    next: str


_STORED = [name for name in ReleaseView.__dataclass_fields__ if name != "revoked"]


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
    statement = select(*(col(getattr(Release, name)) for name in _STORED))
    for column, wanted in ((Release.team, team), (Release.model, model), (Release.stage, stage)):
        if wanted:
            statement = statement.where(col(column) == wanted)
    if teams is not None:
        statement = statement.where(col(Release.team).in_(teams))
    key = tuple_(col(Release.published_ms), col(Release.sha256))
    if after is not None:
        statement = statement.where(key < after)
    order = (col(Release.published_ms).desc(), col(Release.sha256).desc())
    found = session.execute(statement.order_by(*order).limit(limit + 1)).all()
    revoked = _revoked_among(session, [row.sha256 for row in found])
    rows = [ReleaseView(**row._mapping, revoked=revoked.get(row.sha256)) for row in found]
    return cut(rows, limit, lambda row: (row.published_ms, row.sha256))


def show_release(session: Session, sha256: str) -> ReleaseDetail:
    """Return one release.

    Raises:
        NotFound: ``RELEASE_UNKNOWN``.
    """
    row = session.get(Release, sha256)
    if row is None:
        raise release_unknown(sha256)
    manifest = msgspec.json.decode(row.manifest_json)
    return ReleaseDetail(view_of(session, row), manifest, _lineage(session, row.team, manifest.get("lineage") or {}))


def view_of(session: Session, row: Release) -> ReleaseView:
    """Return ``row`` as plain values."""
    stored = {name: getattr(row, name) for name in _STORED}
    return ReleaseView(**stored, revoked=_revoked_among(session, [row.sha256]).get(row.sha256))


def _lineage(session: Session, team: str, said: dict[str, str]) -> Lineage:
    parent_sha256 = said.get("parent_sha256", "")
    parent = session.get(Release, parent_sha256) if parent_sha256 else None
    return Lineage(
        training_run=said.get("training_run", ""),
        dataset_sha256=said.get("dataset_sha256", ""),
        code_revision=said.get("code_revision", ""),
        parent_sha256=parent_sha256,
        parent=view_of(session, parent) if parent and parent.team == team else None,
    )


def _revoked_among(session: Session, digests: Sequence[str]) -> dict[str, Revocation]:
    rows = session.exec(select(RevokedBundle).where(col(RevokedBundle.sha256).in_(digests))).all()
    return {row.sha256: Revocation(row.reason, row.strength, row.at_ms) for row in rows}


def release_unknown(sha256: str) -> NotFound:
    """Return the error for a digest no release has."""
    return NotFound(
        f"No release has the digest {sha256!r}.",
        code="RELEASE_UNKNOWN",
        remedy="See `wavegate model list`; publish it first with `wavegate publish FILE`.",
    )
