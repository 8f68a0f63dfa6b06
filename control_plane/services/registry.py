"""The registry: a ``.wgb`` becomes a release; another person than its publisher approves it.

Publishing is idempotent by digest, in an order that a crash cannot spoil: everything is checked first, blobs are stored
(content-addressed, so twice is once), the signed metadata is published (a whole state or none), and the release row and
its audit record are one transaction. Whatever stopped in between, publishing the same file again completes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sqlmodel import Session, select

from bundles.archive import Archive, open_archive
from bundles.errors import TrustRefused
from bundles.verify import check_new_listing, verify_content
from control_plane.auth import Principal, Role
from control_plane.db.queries.releases import ReleaseView, release_unknown, view_of
from control_plane.db.tables import Release
from control_plane.errors import Conflict, NotAllowed
from control_plane.services import audit
from control_plane.services.revocations import check_clear


class BlobStore(Protocol):
    """Where content-addressed files go."""

    def put(self, sha256: str, content: BinaryIO | bytes) -> int:
        """Store ``content``, checking its digest; return its length."""
        ...


class TrustRepository(Protocol):
    """What the registry needs of the trust repository (``services.trust.ServedTrust``)."""

    def publish(self, files: Mapping[str, bytes]) -> Any:
        """Check metadata signed elsewhere and publish it; all or nothing, twice is once."""
        ...

    def listed(self) -> dict[str, str]:
        """Return target path -> bundle digest of every bundle listed now."""
        ...


@dataclass(frozen=True)
class Published:
    """What publishing came to; ``is_new`` is False where the release was there before."""

    release: ReleaseView
    is_new: bool


def check(session: Session, path: Path, publisher: Principal) -> Archive:
    """Open the archive at ``path`` and check that ``publisher`` may publish it and that nothing stands against it.

    Raises:
        BundleRefused: as ``bundles.archive`` (``BUNDLE_*``).
        NotAllowed: ``TEAM_REQUIRED``.
        Conflict: ``RELEASE_EXISTS`` or ``RELEASE_COUNTER``: the version or the counter belongs to other content.
    """
    archive = open_archive(path)
    verify_content(archive)
    publisher.require(Role.OPERATOR, archive.manifest.team)
    _check_unused(session, archive)
    return archive


def store(archive: Archive, blobs: BlobStore, trust: TrustRepository) -> None:
    """Store the archive's files and publish its metadata, outside of any database transaction.

    Raises:
        TrustRefused: as ``OnlineRepository.publish``; ``TRUST_UNSIGNED_TEAM`` where the archive was never signed.
        Conflict: ``TRUST_CONFLICT``: it was signed on metadata that is no longer current.
        OSError: the disk is full.
    """
    manifest = archive.manifest
    if trust.listed().get(manifest.target_path) != archive.sha256 and not archive.metadata:
        raise TrustRefused(
            "The bundle carries no signature.",
            code="TRUST_UNSIGNED_TEAM",
            remedy="Sign it with `wavegate bundle sign`, then publish it again.",
        )
    check_new_listing(archive)
    blobs.put(archive.sha256, archive.manifest_bytes)
    for entry in manifest.files:
        with archive.open_file(entry) as stream:
            blobs.put(entry.sha256, stream)
    if archive.metadata and trust.listed().get(manifest.target_path) != archive.sha256:
        trust.publish(archive.metadata)
    if trust.listed().get(manifest.target_path) != archive.sha256:
        raise TrustRefused(
            "The signed metadata in the archive does not list this bundle.",
            code="TRUST_NOT_LISTED",
            remedy="Sign it again with `wavegate bundle sign`.",
        )


def register(session: Session, archive: Archive, publisher: Principal, now_ms: int) -> Published:
    """Make the release known; again with the same digest it changes nothing.

    Raises:
        Conflict: as ``check``.
    """
    known = session.get(Release, archive.sha256)
    if known is not None:
        return Published(view_of(session, known), is_new=False)
    _check_unused(session, archive)
    manifest = archive.manifest
    baseline = manifest.file_with_role("baseline")
    row = Release(
        sha256=archive.sha256,
        team=manifest.team,
        model=manifest.model,
        version=manifest.version,
        release_counter=manifest.release_counter,
        channel=manifest.channel,
        kind=manifest.kind,
        length=len(archive.manifest_bytes),
        manifest_json=archive.manifest_bytes.decode(),
        baseline_sha256=baseline.sha256 if baseline else "",
        publisher=publisher.name,
        published_ms=now_ms,
    )
    session.add(row)
    session.flush()
    body = {"target": manifest.target_path, "release_counter": manifest.release_counter, "channel": manifest.channel}
    audit.record(session, "audit", publisher.name, "release.publish", f"release:{row.sha256}", body, now_ms)
    return Published(view_of(session, row), is_new=True)


def approve(session: Session, sha256: str, *, approver: Principal, comment: str, now_ms: int) -> ReleaseView:
    """Approve a release for rollouts; doing it again changes nothing.

    Raises:
        NotFound: ``RELEASE_UNKNOWN``.
        NotAllowed: ``FOUR_EYES``: the publisher may not approve; or the team is not theirs.
        Conflict: ``RELEASE_STAGE``: it was rejected or retired; ``TRUST_REVOKED``.
    """
    return _judge(session, sha256, "approved", approver, comment, now_ms)


def reject(session: Session, sha256: str, *, approver: Principal, comment: str, now_ms: int) -> ReleaseView:
    """Refuse a release; it can then never be rolled out. Its publisher may do so as well.

    Raises:
        NotFound: ``RELEASE_UNKNOWN``.
        NotAllowed: the team is not theirs.
        Conflict: ``RELEASE_STAGE``: it was approved before.
    """
    return _judge(session, sha256, "rejected", approver, comment, now_ms)


def _judge(session: Session, sha256: str, stage: str, approver: Principal, comment: str, now_ms: int) -> ReleaseView:
    row = session.get(Release, sha256, with_for_update=True)
    if row is None:
        raise release_unknown(sha256)
    approver.require(Role.APPROVER, row.team)
    if stage == "approved" and approver.name == row.publisher:
        raise NotAllowed(
            f"{approver.name!r} published this release and may not approve it.",
            code="FOUR_EYES",
            remedy="Ask another person with the role approver.",
        )
    if row.stage == stage:
        return view_of(session, row)
    if stage == "approved":
        check_clear(session, sha256)
    if row.stage != "registered":
        raise Conflict(
            f"The release is {row.stage}: it cannot become {stage}.",
            code="RELEASE_STAGE",
            remedy="Publish a new version with a higher release counter.",
            details={"stage": row.stage},
        )
    row.stage, row.comment, row.approver, row.approved_ms = stage, comment, approver.name, now_ms
    session.add(row)
    session.flush()
    body = {"comment": comment, "version": row.version}
    audit.record(session, "audit", approver.name, f"release.{stage}", f"release:{sha256}", body, now_ms)
    return view_of(session, row)


def _check_unused(session: Session, archive: Archive) -> None:
    manifest = archive.manifest
    of_model = select(Release).where(Release.team == manifest.team, Release.model == manifest.model)
    same_version = session.exec(of_model.where(Release.version == manifest.version)).first()
    if same_version is not None and same_version.sha256 != archive.sha256:
        raise Conflict(
            f"{manifest.model_key}@{manifest.version} is another bundle already.",
            code="RELEASE_EXISTS",
            remedy="Give the new content a new version and a higher release counter.",
            details={"sha256": same_version.sha256},
        )
    same_counter = session.exec(of_model.where(Release.release_counter == manifest.release_counter)).first()
    if same_counter is not None and same_counter.sha256 != archive.sha256:
        raise Conflict(
            f"Release counter {manifest.release_counter} of {manifest.model_key} belongs to {same_counter.version}.",
            code="RELEASE_COUNTER",
            remedy="Raise release_counter above every release of this model and build again.",
            details={"sha256": same_counter.sha256},
        )
