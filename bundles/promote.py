"""Promotion: the same files under a new manifest, for a channel that more devices accept.

A bundle says for which channel it was signed, so what a canary tried cannot reach the fleet by anybody's slip: it takes
a new manifest with a higher release counter, and the team's signature on that. Nothing is downloaded again by a device
that has the files, for they are known by their digests. The same is the way back to old content once devices have moved
on: a re-release with a higher counter. Signing is for ``trust``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from bundles.archive import Archive, pack
from bundles.digest import canonical_json
from bundles.errors import BundleRefused
from bundles.manifest import CHANNEL_RANK, Channel, Manifest, parse_manifest


def promote(
    archive: Archive, out: Path, *, channel: Channel, release_counter: int, now_ms: int, version: str = ""
) -> Archive:
    """Write the bundle of ``archive`` as a release for ``channel``.

    Everything else the manifest says is kept as it is, fields this program does not know too; approvals are not, for
    they were of the other release. The promoted bundle names the one it came from as its parent.

    Args:
        archive: what was tried.
        out: ``.wgb`` to write; not the one it is read from.
        channel: at or above the one it has.
        release_counter: above the one it has.
        now_ms: time of the promotion.
        version: of the new release; default: ``promoted_version``.

    Returns:
        The new archive, unsigned.

    Raises:
        BundleRefused: ``BUNDLE_CHANNEL`` (it would go down), ``RELEASE_COUNTER`` (it would not rise), ``BUNDLE_FIELD``
            (the version is the same or not allowed), ``BUNDLE_DIGEST`` (a file is damaged).
        TryAgain: ``DISK_TROUBLE``.
        OSError: the disk is full.
    """
    before = archive.manifest
    if CHANNEL_RANK[channel] < CHANNEL_RANK[before.channel]:
        raise BundleRefused(
            f"A bundle for {before.channel} is not promoted to {channel}.",
            code="BUNDLE_CHANNEL",
            remedy=f"It reaches devices of {channel} as it is: they accept higher channels.",
        )
    if release_counter <= before.release_counter:
        raise BundleRefused(
            f"Release counter {release_counter} is not above {before.release_counter}, which it has.",
            code="RELEASE_COUNTER",
            remedy="Give one above every release of this model.",
        )
    name = version or promoted_version(before, channel)
    if name == before.version:
        raise BundleRefused(
            f"The release before is version {name} too.",
            code="BUNDLE_FIELD",
            remedy="Give the new one another version: a version stands for one content for ever.",
        )
    fields = json.loads(archive.manifest_bytes)
    fields |= {"version": name, "channel": channel, "release_counter": release_counter, "created_ms": now_ms}
    fields["lineage"] = {**fields.get("lineage", {}), "parent_sha256": archive.sha256}
    fields.pop("approvals", None)
    manifest_bytes = canonical_json(fields)
    files = {entry.path: entry for entry in parse_manifest(manifest_bytes).files}
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".promoting-") as scratch:
        folder = Path(scratch) / "bundle"
        archive.unpack(folder)
        return pack(out, manifest_bytes, {path: folder / path for path in files})


def promoted_version(manifest: Manifest, channel: Channel) -> str:
    """Return the version a bundle gets by default: without the old channel's suffix, with the new one's below prod.

    ``1.4.0-canary`` becomes ``1.4.0`` for prod; ``1.4.0`` of canary becomes ``1.4.0-prod``, for 1.4.0 is taken.
    """
    suffix = f"-{manifest.channel}"
    plain = manifest.version.removesuffix(suffix)
    if channel == "prod" and plain != manifest.version:
        return plain
    return f"{plain}-{channel}"
