"""Whether a ``.wgb`` is whole and well formed, and whether its team stands behind it."""

from __future__ import annotations

from typing import Literal

from bundles.archive import Archive
from bundles.build import BASELINE_PATH
from bundles.contract import parse_contract
from bundles.errors import AskPerson, BundleRefused, TrustRefused
from bundles.trust.device.authorize import Authorized, check_listing, check_manifest
from bundles.trust.drafting.release import TeamState
from bundles.trust.publishing.event import verify_signatures
from bundles.trust.roles import file_name, parse_targets, team_role
from bundles.wire.messages import DesiredModel


def verify_content(archive: Archive) -> None:
    """Hash every file and read the ones this program understands.

    Raises:
        BundleRefused: ``BUNDLE_DIGEST``, ``BUNDLE_FILE_MISSING``, or what contract and baseline are refused with.
    """
    archive.verify()
    contract = archive.manifest.file_with_role("contract")
    if contract is None or archive.manifest.file_with_role("goldens") is None:
        raise BundleRefused(
            "The bundle has no contract or no goldens.",
            code="BUNDLE_FILE_MISSING",
            remedy="Build it with `wavegate bundle build`; a device needs both before it activates.",
        )
    parse_contract(archive.read(contract))
    if (baseline := archive.manifest.file_with_role("baseline")) is not None:
        from bundles.sketch.baseline import parse_baseline

        if parse_baseline(archive.read(baseline)).model != archive.manifest.model_key:
            raise BundleRefused(
                f"The baseline {BASELINE_PATH} is of another model.",
                code="BASELINE_FIELD",
                remedy="Build the bundle again from its own training rows.",
            )


def verify_signed(archive: Archive, team: TeamState) -> Literal["published", "signed"]:
    """Check that the team lists this very bundle: in its published role, or in the new one that the archive carries.

    Args:
        archive: the bundle.
        team: the current state of the role, verified from a root.

    Returns:
        ``published`` (listed already) or ``signed`` (ready to publish).

    Raises:
        TrustRefused: ``TRUST_UNSIGNED_TEAM`` (nobody signed it), ``TRUST_THRESHOLD``, ``TRUST_DIRECTOR_MISMATCH`` (what
            was signed is another bundle) or ``TRUST_NOT_LISTED``.
        AskPerson: ``TRUST_CONFLICT``: signed on a state that is no longer current.
    """
    manifest = archive.manifest
    state: Literal["published", "signed"] = "published"
    listing = team.signed.targets.get(manifest.target_path)
    if listing is None:
        state = "signed"
        name = file_name(team.role, team.signed.version + 1)
        if name not in archive.metadata:
            raise _not_signed(archive, team)
        metadata = parse_targets(name, archive.metadata[name])
        verify_signatures(team.delegator, team.role, metadata)
        listing = metadata.signed.targets.get(manifest.target_path)
        if listing is None:
            raise _not_signed(archive, team)
    wanted = DesiredModel(manifest.target_path, archive.sha256, len(archive.manifest_bytes), manifest.release_counter)
    bundle: Authorized = check_listing(manifest.model_key, wanted, listing, team.role)
    check_manifest(bundle, archive.manifest_bytes)
    return state


def check_new_listing(archive: Archive) -> None:
    """Check that new metadata in the archive lists the bundle as its manifest says; signatures are not looked at.

    A device compares the two and refuses what differs, so a repository should not publish it.

    Raises:
        TrustRefused: ``TRUST_DIRECTOR_MISMATCH`` or ``TRUST_NOT_LISTED``.
    """
    manifest = archive.manifest
    role = team_role(manifest.team)
    wanted = DesiredModel(manifest.target_path, archive.sha256, len(archive.manifest_bytes), manifest.release_counter)
    for name, data in archive.metadata.items():
        if not name.endswith(f".{role}.json"):
            continue
        listing = parse_targets(name, data).signed.targets.get(manifest.target_path)
        if listing is not None:
            bundle = check_listing(manifest.model_key, wanted, listing, role)
            check_manifest(bundle, archive.manifest_bytes)


def _not_signed(archive: Archive, team: TeamState) -> TrustRefused | AskPerson:
    if any(name.endswith(f".{team.role}.json") for name in archive.metadata):
        return AskPerson(
            f"{archive.path.name} was signed on a state of {team.role} that is no longer current.",
            code="TRUST_CONFLICT",
            remedy="Sign it again with `wavegate bundle sign`.",
        )
    return TrustRefused(
        f"{archive.path.name} carries no signature of {team.role}.",
        code="TRUST_UNSIGNED_TEAM",
        remedy="Sign it with `wavegate bundle sign`.",
    )
