"""Who may sign what: drafts that add, exchange and remove the keys of every role. Pure; signing is separate.

Whenever the keys of a role with metadata change, its next version is drafted too: devices would refuse the old one,
which the new keys have not signed. Devices forget what they learned under exchanged keys (version floors, the
director's generation), which is the recovery from stolen ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

from bundles.trust.drafting.drafts import (
    Drafts,
    Keys,
    as_drafts,
    ask_person,
    delegate,
    delegated,
    delegations_of,
    drop_unused_keys,
    keys_of,
    next_root,
    next_targets,
    set_root_keys,
)
from bundles.trust.drafting.founding import (
    check_profile_keys,
    check_team_keys,
    checked_revocation,
    checked_team_path,
    first_revocation,
    first_team,
)
from bundles.trust.profiles import LADDER, Profile, profile_name
from bundles.trust.publishing.state import State
from bundles.trust.revocation import REVOCATION, REVOCATION_PATH, REVOKED_FIELD, read_revoked
from bundles.trust.roles import DIRECTOR, DIRECTOR_PATH, KIT, KIT_PATH, PROFILE_FIELD, Lifetimes, team_role

DEFAULT = Lifetimes()


def add_team(state: State, team: str, keys: Keys, now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft the delegation to a new team and its first, empty role (the next version, where it was removed before).

    Raises:
        AskPerson: ``TRUST_CEREMONY``: the name is not allowed or taken.
    """
    role = team_role(team)
    if role in delegated(state.targets):
        ask_person(f"The team {team!r} has a role already.", "Choose another name; to change its keys, rotate them.")
    targets = next_targets("targets", state.targets, now_ms, life)
    delegate(targets, role, checked_team_path(team), keys)
    first = first_team(now_ms, life)
    first.version = state.version(role) + 1
    return as_drafts(("targets", targets), (role, first))


def rotate_team(state: State, team: str, keys: Keys, now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft other keys, or another threshold, for a team, and the next version of its role with the same bundles.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: there is no such team.
    """
    role = _known_team(state, team)
    targets = next_targets("targets", state.targets, now_ms, life)
    delegate(targets, role, checked_team_path(team), keys)
    return as_drafts(("targets", targets), (role, next_targets(role, state.roles[role], now_ms, life)))


def remove_team(state: State, team: str, now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft the end of a team's delegation: devices take no bundle of it any more, what runs goes on running.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: there is no such team.
    """
    return _without(state, _known_team(state, team), now_ms, life)


def rotate_root(state: State, keys: Keys, now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft a root with other root keys. It needs the threshold of the root before it, and its own."""
    root = next_root(state.root, now_ms, life)
    set_root_keys(root, "root", keys)
    return as_drafts(("root", root))


def rotate_targets(state: State, keys: Keys, now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft a root with other keys for the targets role, and the next targets role for them to sign."""
    root = next_root(state.root, now_ms, life)
    set_root_keys(root, "targets", keys)
    return as_drafts(("root", root), ("targets", next_targets("targets", state.targets, now_ms, life)))


def rotate_online(state: State, snapshot: Key, timestamp: Key, now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft a root that names the server's next online keys; publishing it switches the server over.

    Devices then drop the timestamp and snapshot they hold, however high their versions: the recovery from a
    fast-forward attack with stolen online keys.
    """
    root = next_root(state.root, now_ms, life)
    set_root_keys(root, "snapshot", Keys([snapshot]))
    set_root_keys(root, "timestamp", Keys([timestamp]))
    return as_drafts(("root", root))


def rotate_director(state: State, key: Key, now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft the delegation to another director's key; the server must sign every desired document again with it."""
    targets = next_targets("targets", state.targets, now_ms, life)
    delegate(targets, DIRECTOR, DIRECTOR_PATH, Keys([key]))
    return as_drafts(("targets", targets))


def rotate_revocation(
    state: State, keys: Keys, now_ms: int, *, keep: Collection[str] | None = None, life: Lifetimes = DEFAULT
) -> Drafts:
    """Draft other keys for the revocation role (or its first ones), and its next list for them to sign.

    Args:
        state: the current state.
        keys: holders; the threshold must be 1.
        now_ms: time of drafting.
        keep: digests that stay revoked, for the recovery from a stolen key; None = all of them.
        life: how long the roles are good for.

    Raises:
        AskPerson: ``TRUST_CEREMONY``.
    """
    targets = next_targets("targets", state.targets, now_ms, life)
    delegate(targets, REVOCATION, REVOCATION_PATH, checked_revocation(keys))
    return as_drafts(("targets", targets), (REVOCATION, _next_list(state, now_ms, life, keep)))


def delegate_kit(state: State, keys: Keys, now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft the delegation to the signers of offline kits, or exchange them."""
    targets = next_targets("targets", state.targets, now_ms, life)
    delegate(targets, KIT, KIT_PATH, keys)
    return as_drafts(("targets", targets))


def remove_kit(state: State, now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft the end of offline kits.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: nobody signs kits.
    """
    if KIT not in delegated(state.targets):
        ask_person("Nobody is delegated to sign offline kits.", "Nothing is left to do.")
    return _without(state, KIT, now_ms, life)


def upgrade(
    state: State,
    profile: Profile,
    *,
    root: Keys,
    targets: Keys,
    revocation: Keys,
    teams: Mapping[str, Keys] | None = None,
    now_ms: int,
    life: Lifetimes = DEFAULT,
) -> Drafts:
    """Draft the step up to a higher profile: one root rotation and what follows from it, no device is touched.

    Args:
        state: the current state.
        profile: the one to reach.
        root: its root keys.
        targets: its targets keys.
        revocation: its revocation keys.
        teams: new keys of teams; needed for every team whose threshold is below the profile's.
        now_ms: time of drafting.
        life: how long the roles are good for.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: it is no step up, or the keys are not what the profile asks for.
    """
    before = profile_name(state.root)
    if LADDER.index(profile.name) <= LADDER.index(before):
        ask_person(f"From {before} to {profile.name} is no step up.", f"Choose a profile above {before}.")
    check_profile_keys(profile, root=root, targets=targets, revocation=revocation)
    drafted: list[tuple[str, Root | Targets]] = []
    after = next_targets("targets", state.targets, now_ms, life)
    for role in [role for role in delegated(state.targets) if role in state.roles and role != REVOCATION]:
        team = role.removeprefix(team_role(""))
        keys = (teams or {}).get(team, keys_of(state.targets, role))
        check_team_keys(profile, team, keys)
        if team in (teams or {}):
            delegate(after, role, checked_team_path(team), keys)
            drafted.append((role, next_targets(role, state.roles[role], now_ms, life)))
    delegate(after, REVOCATION, REVOCATION_PATH, checked_revocation(revocation))
    drafted.append((REVOCATION, _next_list(state, now_ms, life, None)))
    top = next_root(state.root, now_ms, life)
    set_root_keys(top, "root", root)
    set_root_keys(top, "targets", targets)
    top.unrecognized_fields[PROFILE_FIELD] = profile.name
    return as_drafts(("root", top), ("targets", after), *drafted)


def _next_list(state: State, now_ms: int, life: Lifetimes, keep: Collection[str] | None) -> Targets:
    if REVOCATION not in state.roles:
        fresh = first_revocation(now_ms, life)
        fresh.version = state.version(REVOCATION) + 1
        return fresh
    fresh = next_targets(REVOCATION, state.roles[REVOCATION], now_ms, life)
    if keep is not None:
        listed = fresh.unrecognized_fields.get(REVOKED_FIELD, {})
        if unknown := sorted(set(keep) - set(read_revoked(fresh))):
            ask_person(f"{unknown[0][:12]} is not revoked now.", "Name digests that the list holds.")
        fresh.unrecognized_fields[REVOKED_FIELD] = {digest: listed[digest] for digest in sorted(keep)}
    return fresh


def _without(state: State, role: str, now_ms: int, life: Lifetimes) -> Drafts:
    targets = next_targets("targets", state.targets, now_ms, life)
    delegations = delegations_of(targets)
    assert delegations.roles is not None
    del delegations.roles[role]
    drop_unused_keys(delegations)
    return as_drafts(("targets", targets))


def _known_team(state: State, team: str) -> str:
    role = team_role(team)
    if role not in delegated(state.targets):
        ask_person(f"There is no team {team!r}.", "See `wavegate trust status` for the teams there are.")
    return role
