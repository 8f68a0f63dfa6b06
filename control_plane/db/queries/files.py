"""Which files the registry's releases consist of."""

from __future__ import annotations

from collections.abc import Collection

from sqlmodel import Session, col, select

from control_plane.db.tables import Release


def releases_beyond(session: Session, known: Collection[str]) -> list[tuple[str, str]]:
    """Return (bundle digest, manifest as JSON) of every release that is not ``known`` yet.

    A release's manifest never changes, so a reader that remembers what it has seen reads each of them once.
    """
    digests = set(session.exec(select(Release.sha256)).all()) - set(known)
    found: list[tuple[str, str]] = []
    for sha256 in sorted(digests):  # one by one: a statement with thousands of parameters is refused by some databases
        found += session.exec(select(Release.sha256, Release.manifest_json).where(col(Release.sha256) == sha256)).all()
    return found
