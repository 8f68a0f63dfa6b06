"""A key that was lost or stolen: taken out of every role it is in, in one event. Pure; signing is separate."""

from __future__ import annotations

from dataclasses import dataclass

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

from bundles.trust.drafting.drafts import (
    Drafts,
    Keys,
    as_drafts,
    ask_person,
    delegate,
    delegated,
    keys_of,
    next_root,
    next_targets,
    set_root_keys,
)
from bundles.trust.publishing.state import State
from bundles.trust.roles import DIRECTOR, UNWRITTEN, Lifetimes

DEFAULT = Lifetimes()
ONLINE = ("snapshot", "timestamp")


@dataclass(frozen=True)
class KeyRevocation:
    """An event that takes a key out.

    Attributes:
        drafts: what has to be signed and published.
        roles: the roles the key was in.
        resign: roles whose content is drafted again unchanged, because what the key signed counts no longer.
        words: what changes, and what it means, for people.
    """

    drafts: Drafts
    roles: list[str]
    resign: list[str]
    words: list[str]


def revoke_key(
    state: State, keyid: str, now_ms: int, *, replacement: Key | None = None, life: Lifetimes = DEFAULT
) -> KeyRevocation:
    """Draft the removal of a key from every role it is in.

    Args:
        state: the current state.
        keyid: id of the key, or an unambiguous beginning of it (at least 8 digits).
        now_ms: time of drafting.
        replacement: a new key that takes its place everywhere; needed where too few others are left.
        life: how long the roles are good for.

    Raises:
        AskPerson: ``TRUST_THRESHOLD``: too few keys would be left; ``TRUST_CEREMONY``: no role names the key.
    """
    keyid = _whole(state, keyid)
    top = [role for role, holder in state.root.roles.items() if keyid in holder.keyids]
    below = [role for role, holder in delegated(state.targets).items() if keyid in holder.keyids]
    drafted: list[tuple[str, Root | Targets]] = []
    if top:
        root = next_root(state.root, now_ms, life)
        for role in top:
            set_root_keys(root, role, _without(keys_of(state.root, role), role, keyid, replacement))
        drafted.append(("root", root))
    if below or "targets" in top:
        targets = next_targets("targets", state.targets, now_ms, life)
        for role in below:
            paths = delegated(state.targets)[role].paths or []
            delegate(targets, role, paths[0], _without(keys_of(state.targets, role), role, keyid, replacement))
        drafted.append(("targets", targets))
    resign = [role for role in below if role not in UNWRITTEN and role in state.roles]
    drafted += [(role, next_targets(role, state.roles[role], now_ms, life)) for role in resign]
    if "targets" in top:
        resign = ["targets", *resign]
    return KeyRevocation(as_drafts(*drafted), top + below, resign, _words(keyid, top + below, resign, replacement))


def _without(keys: Keys, role: str, keyid: str, replacement: Key | None) -> Keys:
    left = [key for key in keys.keys if key.keyid != keyid]
    if replacement is not None and replacement.keyid not in [key.keyid for key in left]:
        left.append(replacement)
    if len(left) < keys.threshold:
        ask_person(
            f"Without that key the {role} role has {len(left)} of the {keys.threshold} keys it needs.",
            "Name a new key that takes its place.",
            code="TRUST_THRESHOLD",
        )
    return Keys(left, keys.threshold)


def _whole(state: State, keyid: str) -> str:
    delegations = state.targets.delegations
    known = {*state.root.keys, *(delegations.keys if delegations is not None else {})}
    found = [known_id for known_id in known if known_id.startswith(keyid)] if len(keyid) >= 8 else []
    if len(found) != 1:
        ask_person(f"No role names a key {keyid!r}.", "See `wavegate trust status` for the keys there are.")
    return found[0]


def _words(keyid: str, roles: list[str], resign: list[str], replacement: Key | None) -> list[str]:
    words = [f"The key {keyid[:12]} leaves {', '.join(roles)}."]
    if replacement is not None:
        words.append(f"The key {replacement.keyid[:12]} takes its place.")
    words += [
        f"{role} is signed again with the same content: what the old key signed counts no longer." for role in resign
    ]
    if DIRECTOR in roles:
        words.append("The server must sign every assignment again with its new director key.")
    if any(role in roles for role in ONLINE):
        words.append("The server must hold the new key before this is published.")
    return words
