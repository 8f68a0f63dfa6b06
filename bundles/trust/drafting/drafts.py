"""Metadata before anybody has signed it: the next version of a role, made from the current one. Pure.

Every change of the repository starts here, and who signs it, when and with what is no concern of those who draft it:
holders may sit in different places and add their signatures one after the other (``signing``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets

from bundles.errors import AskPerson
from bundles.trust.roles import TEAM_PREFIX, Lifetimes, check_distinct_keys, file_name, utc

Drafts = dict[str, Metadata[Any]]
"""File name -> metadata (of root, targets or a delegated role) without signatures."""


@dataclass(frozen=True)
class Keys:
    """Public keys of one role, and how many of their holders must sign."""

    keys: Sequence[Key]
    threshold: int = 1

    def __post_init__(self) -> None:
        """Check that the threshold can be met.

        Raises:
            AskPerson: ``TRUST_CEREMONY``.
        """
        if not 1 <= self.threshold <= len({key.keyid for key in self.keys}):
            ask_person(
                f"{self.threshold} of {len(self.keys)} keys cannot sign.",
                "Name at least as many different keys as must sign.",
            )

    @property
    def by_id(self) -> dict[str, Key]:
        """The keys by id."""
        return {key.keyid: key for key in self.keys}


def ask_person(sentence: str, remedy: str, *, code: str = "TRUST_CEREMONY") -> NoReturn:
    """Raise the refusal to draft what could not be published.

    Raises:
        AskPerson: always; ``TRUST_CEREMONY`` unless another code is given.
    """
    raise AskPerson(sentence, code=code, remedy=remedy)


def encode_drafts(drafts: Drafts) -> dict[str, bytes]:
    """Return the files of an event that nobody has signed yet: name -> bytes."""
    return {name: metadata.to_bytes() for name, metadata in drafts.items()}


def as_drafts(*signed: tuple[str, Root | Targets]) -> Drafts:
    """Return drafts of (role, content) pairs under the names their versions ask for."""
    return {file_name(role, content.version): Metadata(content) for role, content in signed}


def next_root(current: Root, now_ms: int, life: Lifetimes) -> Root:
    """Return the next version of the root role with the same content and a new expiry."""
    fresh = copy.deepcopy(current)  # TUF's to_dict shares its lists of key ids with the original
    fresh.version, fresh.expires = current.version + 1, utc(now_ms + life.root_s * 1000)
    return fresh


def next_targets(role: str, current: Targets, now_ms: int, life: Lifetimes) -> Targets:
    """Return the next version of ``role`` (targets or delegated) with the same content and a new expiry."""
    fresh = copy.deepcopy(current)
    fresh.version, fresh.expires = current.version + 1, utc(now_ms + life_s(role, life) * 1000)
    return fresh


def life_s(role: str, life: Lifetimes) -> int:
    """Return how many seconds metadata of an offline ``role`` is good for."""
    if role.startswith(TEAM_PREFIX):
        return life.team_s
    return {"root": life.root_s, "targets": life.targets_s}.get(role, life.revocation_s)


def set_root_keys(root: Root, role: str, keys: Keys) -> None:
    """Let ``keys``, and no others, sign the top-level ``role``.

    Raises:
        TrustRefused: ``TRUST_THRESHOLD``: one key under two ids.
    """
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    for key in keys.keys:
        root.add_key(key, role)
    root.roles[role].threshold = keys.threshold
    check_distinct_keys(root)


def delegate(targets: Targets, role: str, path: str, keys: Keys) -> None:
    """Let ``keys``, and no others, sign the delegated ``role`` on ``path``; nothing is looked for behind it.

    Raises:
        TrustRefused: ``TRUST_THRESHOLD``: one key under two ids.
    """
    delegations = delegations_of(targets)
    assert delegations.roles is not None
    delegations.roles[role] = DelegatedRole(role, list(keys.by_id), keys.threshold, terminating=True, paths=[path])
    delegations.keys.update(keys.by_id)
    drop_unused_keys(delegations)
    check_distinct_keys(delegations)


def delegations_of(targets: Targets) -> Delegations:
    """Return the delegations of ``targets``, made empty where there are none."""
    if targets.delegations is None or targets.delegations.roles is None:
        targets.delegations = Delegations({}, {})
    return targets.delegations


def delegated(targets: Targets) -> Mapping[str, DelegatedRole]:
    """Return the roles that ``targets`` delegates to, by name."""
    delegations = targets.delegations
    return (delegations.roles if delegations is not None else None) or {}


def drop_unused_keys(delegations: Delegations) -> None:
    """Remove keys that no delegated role names any more."""
    used = {keyid for role in (delegations.roles or {}).values() for keyid in role.keyids}
    for keyid in [keyid for keyid in delegations.keys if keyid not in used]:
        del delegations.keys[keyid]


def keys_of(holder: Root | Targets, role: str) -> Keys:
    """Return the keys and threshold that ``holder`` names for ``role``.

    Raises:
        ValueError: ``role`` is not delegated.
    """
    found = holder.get_delegated_role(role)
    return Keys([holder.get_key(keyid) for keyid in found.keyids], found.threshold)
