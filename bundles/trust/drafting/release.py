"""The everyday signature: listing one bundle in its team's role.

Builds the next version of the role on the current *verified* one, so that a server cannot slip other bundles under a
team's signature. Writes nothing; the caller puts the new file into the archive, and ``repository`` publishes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, TargetFile, Targets

from bundles.digest import sha256_hex
from bundles.errors import AskPerson, Refused, TrustRefused
from bundles.manifest import Manifest, parse_manifest
from bundles.trust.device.cache import passing_cache
from bundles.trust.drafting.drafts import delegated
from bundles.trust.fetch import MetadataFetch
from bundles.trust.publishing.state import State
from bundles.trust.roles import Lifetimes, custom_of, file_name, parse_targets, read_custom, team_role, utc


@dataclass(frozen=True)
class TeamState:
    """A team's role as the repository has it now, verified from the root.

    Attributes:
        role: its name.
        signed: the verified metadata.
        delegator: the verified top-level targets role.
        keyids: who may sign.
        threshold: how many must.
    """

    role: str
    signed: Targets
    delegator: Targets
    keyids: list[str]
    threshold: int


@dataclass(frozen=True)
class SignedRole:
    """A new version of a role.

    Attributes:
        name: file name, such as ``4.team-vision.json``.
        data: its bytes.
        signatures: valid signatures it has.
        threshold: signatures it needs before it can be published.
    """

    name: str
    data: bytes
    signatures: int
    threshold: int

    @property
    def is_complete(self) -> bool:
        """Whether it can be published."""
        return self.signatures >= self.threshold


def current_team(fetch: MetadataFetch, root: bytes, team: str, now_ms: int) -> TeamState:
    """Fetch and verify the current role of ``team``, as a fresh client that trusts ``root``.

    Raises:
        TryAgain: the repository cannot be reached.
        TrustRefused: it does not verify; or ``TRUST_NOT_LISTED`` where no such team is delegated.
    """
    with passing_cache(root) as cache:
        repository = cache.load(fetch, utc(now_ms))
        _, holders = cache.look_up(repository, f"{team}/none/none/bundle.json", utc(now_ms))
    role = team_role(team)
    for holder in holders:
        if holder.role == role:
            keys = repository.targets.get_delegated_role(role)
            return TeamState(role, holder.signed, repository.targets, list(keys.keyids), keys.threshold)
    raise _no_team(team)


def team_state(state: State, team: str) -> TeamState:
    """Return the role of ``team`` in ``state``, which is verified already, to list a bundle in.

    Raises:
        TrustRefused: ``TRUST_NOT_LISTED``: nothing is delegated to it.
    """
    role = team_role(team)
    holder = delegated(state.targets).get(role)
    if holder is None:
        raise _no_team(team)
    return TeamState(role, state.roles[role], state.targets, list(holder.keyids), holder.threshold)


def _no_team(team: str) -> TrustRefused:
    return TrustRefused(
        f"The targets role delegates nothing to a team {team!r}.",
        code="TRUST_NOT_LISTED",
        remedy=f"Have the release managers run `wavegate trust delegate add {team}`.",
    )


def current_targets(fetch: MetadataFetch, root: bytes, now_ms: int) -> Targets:
    """Fetch and verify the current top-level targets role, as a fresh client that trusts ``root``.

    Raises:
        TryAgain: the repository cannot be reached.
        TrustRefused: it does not verify.
    """
    with passing_cache(root) as cache:
        return cache.load(fetch, utc(now_ms)).targets


def add_release(
    team: TeamState,
    manifest_bytes: bytes,
    signers: Sequence[Signer],
    now_ms: int,
    *,
    pending: bytes | None = None,
    lifetimes: Lifetimes | None = None,
) -> SignedRole:
    """List a bundle in the next version of its team's role and sign that.

    Args:
        team: the current state, from ``current_team``.
        manifest_bytes: ``bundle.json``.
        signers: keys of the role; at least one.
        now_ms: time of signing.
        pending: the same new version as another holder has signed it; the signatures are added to it.
        lifetimes: how long the role is good for.

    Raises:
        BundleRefused: the manifest is not valid.
        Refused: ``RELEASE_EXISTS`` (the version is listed) or ``RELEASE_COUNTER`` (its counter is used up).
        AskPerson: ``KEY_NOT_OF_ROLE``, or ``TRUST_CONFLICT`` where ``pending`` was made on another state.
    """
    manifest = parse_manifest(manifest_bytes)
    if team_role(manifest.team) != team.role:
        raise AskPerson(
            f"The bundle is of team {manifest.team!r}, the role is {team.role!r}.",
            code="KEY_NOT_OF_ROLE",
            remedy="Sign with the role of the bundle's own team.",
        )
    for signer in signers:
        if signer.public_key.keyid not in team.keyids:
            raise AskPerson(
                f"The key {signer.public_key.keyid[:12]} is not one of {team.role}.",
                code="KEY_NOT_OF_ROLE",
                remedy=f"Use a key of the team, or have it added with `wavegate trust delegate add {manifest.team}`.",
            )
    digest = sha256_hex(manifest_bytes)
    _check_unused(team.signed, manifest, digest)
    target = TargetFile(
        len(manifest_bytes), {"sha256": digest}, manifest.target_path, {"custom": _plain_custom(manifest)}
    )
    listed = {**team.signed.targets, manifest.target_path: target}
    if pending is not None:
        metadata = parse_targets(team.role, pending)
        if metadata.signed.version != team.signed.version + 1 or metadata.signed.targets != listed:
            raise AskPerson(
                "The other signature was made on another state of the repository.",
                code="TRUST_CONFLICT",
                remedy="Sign again, all holders on the current metadata.",
            )
    else:
        expires = utc(now_ms + (lifetimes or Lifetimes()).team_s * 1000)
        metadata = Metadata(
            Targets(
                team.signed.version + 1,
                expires=expires,
                targets=listed,
                delegations=team.signed.delegations,
                unrecognized_fields=dict(team.signed.unrecognized_fields),
            )
        )
    for signer in signers:
        metadata.sign(signer, append=True)
    valid = team.delegator.get_verification_result(team.role, metadata.signed_bytes, metadata.signatures)
    name = file_name(team.role, metadata.signed.version)
    return SignedRole(name, metadata.to_bytes(), len(valid.signed), team.threshold)


def _plain_custom(manifest: Manifest) -> dict[str, object]:
    custom = custom_of(manifest)
    return {
        "release_counter": custom.release_counter,
        "hardware": custom.hardware,
        "channel": custom.channel,
        "model": custom.model,
    }


def _check_unused(role: Targets, manifest: Manifest, digest: str) -> None:
    known = role.targets.get(manifest.target_path)
    if known is not None:
        same = known.hashes.get("sha256") == digest
        raise Refused(
            f"{manifest.target_path} is listed already, {'the same' if same else 'with other content'}.",
            code="RELEASE_EXISTS",
            remedy="Nothing is left to sign." if same else "Give the new content a new version and a higher counter.",
        )
    for path, target in role.targets.items():
        custom = read_custom(path, target.custom)
        if custom.model == manifest.model_key and custom.release_counter >= manifest.release_counter:
            raise Refused(
                f"Release counter {manifest.release_counter} of {manifest.model_key} is used up: {path} has "
                f"{custom.release_counter}.",
                code="RELEASE_COUNTER",
                remedy="Raise release_counter above every release of this model and build again.",
                details={"path": path, "counter": custom.release_counter},
            )
