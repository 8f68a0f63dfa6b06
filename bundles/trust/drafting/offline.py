"""Drafting and signing in one step, for holders who have all their keys at hand. Makes bytes, writes nothing.

The holders of root, targets and team keys are people; the server gets the online keys (snapshot, timestamp, director)
and nothing else. Keys come as signers, so they may be files, hardware or a cloud's. Holders in different places draft
(``founding``, ``rotation``, ``statements``) and add their signatures one after the other (``signing``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root, Targets

from bundles.errors import AskPerson
from bundles.trust.drafting.drafts import Keys, as_drafts, delegate, delegated, next_targets
from bundles.trust.drafting.founding import checked_team_path, first_metadata, first_team, sign_first_state
from bundles.trust.roles import FLOORS_FIELD, Lifetimes, file_name, read_floors, team_role
from bundles.trust.signing.signatures import add_signatures


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
    def public(self) -> Keys:
        """The public half of it."""
        return Keys([signer.public_key for signer in self.signers], self.threshold)


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
    revocation: Quorum | None = None,
    kit: Quorum | None = None,
    profile: str | None = None,
    demo: bool = False,
    server_cas: Sequence[bytes] = (),
) -> dict[str, bytes]:
    """Return the first metadata of a repository, signed by all its holders: file name -> bytes.

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
        revocation: holders of the revocation role; None = nothing can be revoked yet.
        kit: signers of offline kits.
        profile: as ``founding.first_metadata``.
        demo: as ``founding.first_metadata``.
        server_cas: as ``founding.first_metadata``.

    Raises:
        AskPerson: ``TRUST_CEREMONY``.
        TrustRefused: as ``founding.first_metadata``.
    """
    drafts = first_metadata(
        root=root.public,
        targets=targets.public,
        teams={team: quorum.public for team, quorum in teams.items()},
        snapshot=snapshot.public_key,
        timestamp=timestamp.public_key,
        director=director,
        now_ms=now_ms,
        revocation=revocation.public if revocation is not None else None,
        kit=kit.public if kit is not None else None,
        profile=profile,
        demo=demo,
        server_cas=server_cas,
        floors=floors,
        lifetimes=lifetimes,
    )
    holders = [root, targets, *teams.values(), *([revocation] if revocation is not None else [])]
    everyone = {signer.public_key.keyid: signer for quorum in holders for signer in quorum.signers}
    files = {name: metadata.to_bytes() for name, metadata in drafts.items()}
    return sign_first_state(
        add_signatures(None, files, list(everyone.values())), snapshot, timestamp, now_ms, lifetimes
    )


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
        team: the new team's name; for one that was removed before, ``rotation.add_team`` knows its next version.
        keys: holders of its role.
        signers: holders of the targets role.
        now_ms: time of signing.
        lifetimes: how long the roles are good for.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: the name is not allowed or taken.
    """
    life = lifetimes or Lifetimes()
    if team_role(team) in delegated(current):
        raise AskPerson(
            f"The team {team!r} has a role already.",
            code="TRUST_CEREMONY",
            remedy="Choose another name; to change its keys, rotate them.",
        )
    targets = next_targets("targets", current, now_ms, life)
    delegate(targets, team_role(team), checked_team_path(team), keys.public)
    first = as_drafts((team_role(team), first_team(now_ms, life)))
    return {
        file_name("targets", targets.version): _signed(Metadata(targets), signers),
        **{name: _signed(metadata, keys.signers) for name, metadata in first.items()},
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
    targets = next_targets("targets", current, now_ms, lifetimes or Lifetimes())
    targets.unrecognized_fields[FLOORS_FIELD] = raised(read_floors(current), floors)
    return {file_name("targets", targets.version): _signed(Metadata(targets), signers)}


def raised(before: Mapping[str, int], floors: Mapping[str, int]) -> dict[str, int]:
    """Return the floors ``before`` with those of ``floors`` that are higher."""
    return {**before, **{model: max(counter, before.get(model, 0)) for model, counter in floors.items()}}


def _signed(metadata: Metadata[Root] | Metadata[Targets], signers: Iterable[Signer]) -> bytes:
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()
