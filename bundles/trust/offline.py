"""What the offline keys sign: a repository's first metadata, a new team, higher floors. Makes bytes, writes nothing.

The holders of root, targets and team keys are people; the server gets the online keys (snapshot, timestamp, director)
and nothing else. Keys come as signers, so they may be files, hardware or a cloud's. ``ceremony`` does all of it for
keys in files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from bundles.errors import AskPerson, BundleRefused
from bundles.manifest import split_target
from bundles.trust.roles import (
    DIRECTOR,
    DIRECTOR_PATH,
    FLOORS_FIELD,
    TIMESTAMP_LIFE_FIELD,
    Lifetimes,
    check_distinct_keys,
    file_name,
    read_floors,
    team_path,
    team_role,
    utc,
)

SignedPart = TypeVar("SignedPart", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class Quorum:
    """Signers of one role, and how many of them must sign."""

    signers: Sequence[Signer]
    threshold: int

    def __post_init__(self) -> None:
        """Check that the threshold can be met.

        Raises:
            AskPerson: ``TRUST_CEREMONY``.
        """
        if not 1 <= self.threshold <= len(self.signers):
            raise AskPerson(
                f"{self.threshold} of {len(self.signers)} keys cannot sign.",
                code="TRUST_CEREMONY",
                remedy="Name at least as many keys as must sign.",
            )

    @property
    def keys(self) -> dict[str, Key]:
        """The public keys by id."""
        return {signer.public_key.keyid: signer.public_key for signer in self.signers}


def new_repository(
    *,
    root: Quorum,
    targets: Quorum,
    teams: Mapping[str, Quorum],
    snapshot: Signer,
    timestamp: Signer,
    director: Key,
    now_ms: int,
    lifetimes: Lifetimes | None = None,
    floors: Mapping[str, int] | None = None,
) -> dict[str, bytes]:
    """Return the first metadata of a repository: file name -> bytes.

    Args:
        root: holders of the root role.
        targets: holders of the targets role.
        teams: holders of each team's role, by team.
        snapshot: the server's snapshot key.
        timestamp: the server's timestamp key.
        director: the public key that will sign desired documents.
        now_ms: time of the ceremony.
        lifetimes: how long each role is good for.
        floors: signed lowest release counters by ``team/model``.

    Raises:
        AskPerson: ``TRUST_CEREMONY``.
    """
    life = lifetimes or Lifetimes()
    top = Root(
        expires=utc(now_ms + life.root_s * 1000),
        consistent_snapshot=True,
        unrecognized_fields={TIMESTAMP_LIFE_FIELD: life.timestamp_s},
    )
    for role, quorum in (
        ("root", root),
        ("targets", targets),
        ("snapshot", Quorum([snapshot], 1)),
        ("timestamp", Quorum([timestamp], 1)),
    ):
        for key in quorum.keys.values():
            top.add_key(key, role)
        top.roles[role].threshold = quorum.threshold
    delegations = Delegations({}, {})
    _delegate(delegations, DIRECTOR, DIRECTOR_PATH, {director.keyid: director}, 1)
    files: dict[str, bytes] = {}
    meta = {"targets.json": MetaFile(1)}
    for team, quorum in teams.items():
        _delegate(delegations, team_role(team), checked_team_path(team), quorum.keys, quorum.threshold)
        files[file_name(team_role(team), 1)] = _signed(Targets(expires=utc(now_ms + life.team_s * 1000)), quorum)
        meta[f"{team_role(team)}.json"] = MetaFile(1)
    listing = Targets(expires=utc(now_ms + life.targets_s * 1000), delegations=delegations)
    listing.unrecognized_fields[FLOORS_FIELD] = dict(floors or {})
    check_distinct_keys(top)
    check_distinct_keys(delegations)
    files[file_name("root", 1)] = _signed(top, root)
    files[file_name("targets", 1)] = _signed(listing, targets)
    state = Snapshot(expires=utc(now_ms + life.snapshot_s * 1000), meta=meta)
    files[file_name("snapshot", 1)] = _signed(state, Quorum([snapshot], 1))
    stamp = Timestamp(expires=utc(now_ms + life.timestamp_s * 1000), snapshot_meta=MetaFile(1))
    files[file_name("timestamp", 1)] = _signed(stamp, Quorum([timestamp], 1))
    return files


def add_team(
    current: Targets,
    team: str,
    keys: Quorum,
    signers: Iterable[Signer],
    now_ms: int,
    lifetimes: Lifetimes | None = None,
) -> dict[str, bytes]:
    """Return the files that delegate to a new team: the next targets role and the team's first, empty role.

    Args:
        current: the verified targets role.
        team: the new team's name.
        keys: holders of its role.
        signers: holders of the targets role.
        now_ms: time of signing.
        lifetimes: how long the roles are good for.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: the name is not allowed or taken.
    """
    life = lifetimes or Lifetimes()
    if current.delegations is not None and team_role(team) in (current.delegations.roles or {}):
        raise AskPerson(
            f"The team {team!r} has a role already.",
            code="TRUST_CEREMONY",
            remedy="Choose another name; to change its keys, rotate them.",
        )
    targets = _next_targets(current, now_ms, life)
    assert targets.delegations is not None
    _delegate(targets.delegations, team_role(team), checked_team_path(team), keys.keys, keys.threshold)
    check_distinct_keys(targets.delegations)
    return {
        file_name("targets", targets.version): _signed(targets, _all_of(signers)),
        file_name(team_role(team), 1): _signed(Targets(expires=utc(now_ms + life.team_s * 1000)), keys),
    }


def raise_signed_floors(
    current: Targets,
    floors: Mapping[str, int],
    signers: Iterable[Signer],
    now_ms: int,
    lifetimes: Lifetimes | None = None,
) -> dict[str, bytes]:
    """Return the next targets role with higher floors: no device takes a lower release counter any more.

    Args:
        current: the verified targets role.
        floors: ``team/model`` -> lowest release counter; models not named keep theirs.
        signers: holders of the targets role.
        now_ms: time of signing.
        lifetimes: how long the role is good for.
    """
    targets = _next_targets(current, now_ms, lifetimes or Lifetimes())
    before = read_floors(current)
    raised = {model: max(counter, before.get(model, 0)) for model, counter in floors.items()}
    targets.unrecognized_fields[FLOORS_FIELD] = {**before, **raised}
    return {file_name("targets", targets.version): _signed(targets, _all_of(signers))}


def _next_targets(current: Targets, now_ms: int, life: Lifetimes) -> Targets:
    fresh = Targets.from_dict(current.to_dict())
    fresh.version = current.version + 1
    fresh.expires = utc(now_ms + life.targets_s * 1000)
    return fresh


def _delegate(delegations: Delegations, role: str, path: str, keys: Mapping[str, Key], threshold: int) -> None:
    assert delegations.roles is not None
    delegations.roles[role] = DelegatedRole(role, list(keys), threshold, terminating=True, paths=[path])
    delegations.keys.update(keys)


def _signed(signed: SignedPart, quorum: Quorum) -> bytes:
    metadata = Metadata(signed)
    for signer in quorum.signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def _all_of(signers: Iterable[Signer]) -> Quorum:
    everyone = list(signers)
    return Quorum(everyone, len(everyone))


def checked_team_path(team: str) -> str:
    """Return the path pattern of ``team``.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: no team can have that name.
    """
    try:
        split_target(f"{team}/model/version/bundle.json")
    except BundleRefused as error:
        raise AskPerson(
            f"{team!r} cannot be the name of a team.",
            code="TRUST_CEREMONY",
            remedy="Use lower-case letters, digits, '.', '_' and '-', starting with a letter or digit.",
        ) from error
    return team_path(team)
