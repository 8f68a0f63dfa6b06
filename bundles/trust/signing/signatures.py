"""Signatures on an event, added one holder at a time: who is asked, who has signed, who is missing. Pure.

A holder's signer signs every file its key is asked for: a new root by keys of the root before it and by its own,
everything else by the keys that the newest delegator names (in the event, or published). Nothing is signed that is
not the next version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, Targets

from bundles.errors import AskPerson
from bundles.trust.publishing.event import publishing_order
from bundles.trust.publishing.state import State
from bundles.trust.revocation import REVOCATION, weak_list
from bundles.trust.roles import file_name, parse_root, parse_targets, role_of, split_file


@dataclass(frozen=True)
class SigningQuorum:
    """One group of key holders who must sign a file.

    Attributes:
        title: who they are: ``root before``, or a role's name.
        keyids: whose signatures count.
        threshold: how many are needed.
        signed: ids of those who have, validly.
    """

    title: str
    keyids: list[str]
    threshold: int
    signed: list[str]

    @property
    def missing(self) -> int:
        """How many signatures are still needed."""
        return max(0, self.threshold - len(self.signed))


@dataclass(frozen=True)
class Signing:
    """How far a file of an event is signed.

    Attributes:
        name: file name.
        role: its role.
        quorums: everybody who must sign; a new root has two.
    """

    name: str
    role: str
    quorums: list[SigningQuorum]

    @property
    def is_complete(self) -> bool:
        """Whether it can be published."""
        return not any(quorum.missing for quorum in self.quorums)

    @property
    def remark(self) -> str:
        """What its signers should know although it may be complete; empty where there is nothing."""
        if self.role != REVOCATION:
            return ""
        return weak_list(len(self.quorums[-1].signed), len(self.quorums[-1].keyids))


def who_signs(state: State | None, files: Mapping[str, bytes]) -> list[Signing]:
    """Say who must sign each file and who has, in the order of publishing.

    Args:
        state: the current, verified state; None for the first metadata of a repository.
        files: the event: name -> bytes.

    Raises:
        TrustRefused: a file is not readable or not of its name.
        AskPerson: ``TRUST_CONFLICT``: not the next version; ``TRUST_CEREMONY``: nobody is delegated to sign it.
    """
    signings = []
    for name in sorted(files, key=publishing_order):
        role, metadata, judges = _judges(state, files, name)
        quorums = []
        for title, judge in judges:
            result = judge.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
            keyids = list(judge.get_delegated_role(role).keyids)
            quorums.append(SigningQuorum(title, keyids, result.threshold, list(result.signed)))
        signings.append(Signing(name, role, quorums))
    return signings


def add_signatures(state: State | None, files: Mapping[str, bytes], signers: Sequence[Signer]) -> dict[str, bytes]:
    """Return the event with the signatures of ``signers`` added; signing twice changes nothing that counts.

    Args:
        state: the current, verified state; None for the first metadata of a repository.
        files: the event: name -> bytes.
        signers: each signs every file that its key is asked for.

    Raises:
        TrustRefused: a file is not readable or not of its name.
        AskPerson: ``KEY_NOT_OF_ROLE``: a key is asked for nowhere in this event; ``TRUST_CONFLICT``: not the next
            version; ``TRUST_CEREMONY``: nobody is delegated to sign a file.
    """
    signed, idle = dict(files), {signer.public_key.keyid for signer in signers}
    for signing in who_signs(state, files):
        asked = {keyid for quorum in signing.quorums for keyid in quorum.keyids}
        metadata = _parse(signing.name, files[signing.name])
        for signer in signers:
            if signer.public_key.keyid in asked:
                idle.discard(signer.public_key.keyid)
                metadata.sign(signer, append=True)
        if asked & {signer.public_key.keyid for signer in signers}:
            signed[signing.name] = metadata.to_bytes()
    if idle:
        raise AskPerson(
            f"The key {min(idle)[:12]} is asked for nowhere in this event.",
            code="KEY_NOT_OF_ROLE",
            remedy="Sign with a key of one of the roles that this event changes.",
            details={"keys": sorted(idle)},
        )
    return signed


def _judges(
    state: State | None, files: Mapping[str, bytes], name: str
) -> tuple[str, Metadata[Root] | Metadata[Targets], list[tuple[str, Root | Targets]]]:
    metadata = _parse(name, files[name])
    role = role_of(metadata.signed, name)
    _check_next(state, files, role, metadata.signed.version)
    if isinstance(metadata.signed, Root):
        before = _root_before(state, files, metadata.signed.version)
        judges: list[tuple[str, Root | Targets]] = [] if before is None else [("root before", before)]
        return role, metadata, [*judges, ("root", metadata.signed)]
    delegator: Root | Targets | None
    if role == "targets":
        newest = _newest(files, "root")
        delegator = parse_root(newest, files[newest]).signed if newest else state.root if state else None
    else:
        newest = _newest(files, "targets")
        delegator = parse_targets(newest, files[newest]).signed if newest else state.targets if state else None
    if delegator is None or not _delegates(delegator, role):
        raise AskPerson(
            f"Nobody is delegated to sign {name}.",
            code="TRUST_CEREMONY",
            remedy="The event is not whole: it lacks the file that delegates to this role.",
        )
    return role, metadata, [(role, delegator)]


def _check_next(state: State | None, files: Mapping[str, bytes], role: str, version: int) -> None:
    """Check that ``version`` follows what is published or what the event itself brings before it."""
    published = state.version(role) if state is not None else 0
    if version <= published or (version > published + 1 and file_name(role, version - 1) not in files):
        raise AskPerson(
            f"The new {role} metadata has version {version}; the next one here is {published + 1}.",
            code="TRUST_CONFLICT",
            remedy="Somebody published in between: make the event again on the current metadata.",
            details={"role": role, "version": version, "current": published},
        )


def _root_before(state: State | None, files: Mapping[str, bytes], version: int) -> Root | None:
    name = file_name("root", version - 1)
    if name in files:
        return parse_root(name, files[name]).signed
    return state.root if state is not None else None


def _newest(files: Mapping[str, bytes], role: str) -> str | None:
    names = [name for name in files if split_file(name)[0] == role]
    return max(names, key=lambda name: split_file(name)[1], default=None)


def _delegates(delegator: Root | Targets, role: str) -> bool:
    try:
        delegator.get_delegated_role(role)
    except ValueError:
        return False
    return True


def _parse(name: str, data: bytes) -> Metadata[Root] | Metadata[Targets]:
    return parse_root(name, data) if split_file(name)[0] == "root" else parse_targets(name, data)
