"""What people have signed, held against the current state: the checks before anything is published. Pure.

An event is a set of new root, targets, team and revocation files. Each must be the next version, signed by the
threshold its delegator names, unexpired. A team's role may list bundles of its own only, one content a path and a
release counter for ever. Under unchanged keys what restricts only grows: signed floors never fall, revocations never
vanish. After the keys were exchanged it may: that is the recovery from keys that were stolen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuf.api.metadata import Metadata, Root, Targets

from bundles.errors import AskPerson, BundleRefused, TrustRefused
from bundles.manifest import split_target
from bundles.trust.publishing.history import History
from bundles.trust.publishing.state import State, delegated_names
from bundles.trust.refusals import expired, mixed
from bundles.trust.revocation import REVOCATION, REVOCATION_PATH, read_revoked
from bundles.trust.roles import (
    DIRECTOR,
    DIRECTOR_PATH,
    KIT,
    KIT_PATH,
    TEAM_PREFIX,
    UNWRITTEN,
    check_distinct_keys,
    code_role,
    key_fingerprint,
    parse_root,
    parse_targets,
    read_custom,
    read_floors,
    read_server_cas,
    role_of,
    split_file,
    team_path,
    team_role,
)

_FIXED_PATHS = {DIRECTOR: DIRECTOR_PATH, REVOCATION: REVOCATION_PATH, KIT: KIT_PATH}


@dataclass(frozen=True)
class Applied:
    """An event that may be published.

    Attributes:
        state: the repository after it (snapshot and timestamp are still those before).
        history: everything listed until then.
        listed: target path -> bundle digest of the bundles it newly lists.
        probes: one path for each delegated role, to look it up with as a device does.
    """

    state: State
    history: History
    listed: dict[str, str]
    probes: list[str]


def apply_event(state: State, files: Mapping[str, bytes], now: datetime, history: History) -> Applied:
    """Verify new files against ``state`` (which is left as it is).

    Args:
        state: the current state.
        files: file name -> bytes of everything new.
        now: time expiry is judged against.
        history: everything listed so far.

    Raises:
        TrustRefused: as ``repository.OnlineRepository.publish`` says.
        AskPerson: ``TRUST_CONFLICT``.
    """
    after, teams = state.copy(), dict[str, None]()
    for name in sorted(files, key=publishing_order):
        if split_file(name)[0] == "root":
            _apply_root(after, name, files[name], now)
            continue
        role = _apply_targets(after, name, files[name], now, history)
        if team_of(role):
            teams[role] = None
            history = history.with_listing(after.roles[role])
    listed = {
        path: target.hashes["sha256"]
        for role in teams
        for path, target in after.roles[role].targets.items()
        if role not in state.roles or path not in state.roles[role].targets
    }
    _check_revoked(after, listed)
    after.relearn()
    return Applied(after, history, listed, check_complete(after))


def check_complete(state: State) -> list[str]:
    """Check that every delegated role that has metadata is there; return a path to probe each of them with.

    Raises:
        TrustRefused: ``TRUST_MIX``: devices could not look that role up.
    """
    roles = [role for role in delegated_names(state.targets) if role not in UNWRITTEN]
    for role in roles:
        if role not in state.roles:
            raise mixed(role)
    return [
        REVOCATION_PATH if role == REVOCATION else f"{role.removeprefix(TEAM_PREFIX)}/none/none/bundle.json"
        for role in roles
    ]


def publishing_order(name: str) -> tuple[int, int, str]:
    """Return the sort key that puts roots first, then the targets role, then what it delegates."""
    role, version = split_file(name)
    return {"root": 0, "targets": 1}.get(role, 2), version, name


def verify_signatures(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> None:
    """Check that as many keys as ``delegator`` asks for have signed ``metadata`` as ``role``.

    Raises:
        TrustRefused: ``TRUST_NOT_LISTED`` (no such role), ``TRUST_ROOT_SIG``, ``TRUST_THRESHOLD`` or
            ``TRUST_UNSIGNED_<role>``.
    """
    try:
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except ValueError as error:
        raise TrustRefused(
            f"Nothing is delegated to a role {role!r}.",
            code="TRUST_NOT_LISTED",
            remedy="Have the release managers delegate to the team first.",
        ) from error
    if result:
        return
    if role == "root":
        code = "TRUST_ROOT_SIG"
    else:
        code = "TRUST_THRESHOLD" if result.signed else f"TRUST_UNSIGNED_{code_role(role)}"
    raise TrustRefused(
        f"The new {role} metadata has {len(result.signed)} of the {result.threshold} signatures it needs.",
        code=code,
        remedy="Have other holders of keys of this role sign it too.",
        details={"role": role, "signed": len(result.signed), "threshold": result.threshold},
    )


def not_listed(path: str) -> TrustRefused:
    """Return the refusal of a path that a role may not list, or does not."""
    return TrustRefused(
        f"{path!r} is not a bundle that this role may list.",
        code="TRUST_NOT_LISTED",
        remedy="A team lists team/model/version/bundle.json of its own; sign with the wavegate tools.",
    )


def _apply_root(state: State, name: str, data: bytes, now: datetime) -> None:
    metadata = parse_root(name, data)
    role_of(metadata.signed, name)
    _check_next("root", metadata.signed.version, state.root.version)
    verify_signatures(state.root, "root", metadata)
    verify_signatures(metadata.signed, "root", metadata)
    check_distinct_keys(metadata.signed)
    if metadata.signed.is_expired(now):
        raise expired("root")
    if not metadata.signed.consistent_snapshot:
        raise mixed("root")  # the folder is laid out for consistent snapshots, and so are devices
    state.root = metadata.signed


def _apply_targets(state: State, name: str, data: bytes, now: datetime, history: History) -> str:
    metadata = parse_targets(name, data)
    role, signed = role_of(metadata.signed, name), metadata.signed
    delegator: Root | Targets = state.root if role == "targets" else state.targets
    _check_next(role, signed.version, state.version(role))
    verify_signatures(delegator, role, metadata)
    if signed.is_expired(now):
        raise expired(role)
    keys = key_fingerprint(delegator, role)
    same_keys = state.learned.get(role) == keys
    if role == "targets":
        _check_top(state.targets if same_keys else None, signed)
        state.targets = signed
    else:
        if role == REVOCATION:
            _check_revocation(state.roles.get(role) if same_keys else None, signed)
        else:
            _check_listing(role, signed, history)
        state.roles[role] = signed
    state.learned[role] = keys
    return role


def _check_next(role: str, version: int, current: int) -> None:
    if version != current + 1:
        raise AskPerson(
            f"The new {role} metadata has version {version}; the next one here is {current + 1}.",
            code="TRUST_CONFLICT",
            remedy="Somebody published in between: sign again on the current metadata.",
            details={"role": role, "version": version, "current": current},
        )


def _check_top(before: Targets | None, signed: Targets) -> None:
    """Check the targets role against the one ``before`` under the same keys (None = the keys were exchanged)."""
    check_distinct_keys(signed.delegations)
    read_server_cas(signed)
    floors, revoked = read_floors(signed), read_revoked(signed)
    roles = (signed.delegations.roles if signed.delegations is not None else None) or {}
    for role, delegated in roles.items():
        path = _FIXED_PATHS.get(role) or (team_path(role.removeprefix(TEAM_PREFIX)) if team_of(role) else None)
        if path is not None and delegated.paths != [path]:
            raise not_listed(", ".join(delegated.paths or [role]))
        if role == REVOCATION and delegated.threshold != 1:
            # One on-call person must be able to forbid; how many have signed decides how far it reaches.
            raise TrustRefused(
                "The revocation role must have threshold 1.",
                code="TRUST_THRESHOLD",
                remedy="Delegate to it with threshold 1; a second signature on the list gives it its full reach.",
            )
    if DIRECTOR not in roles:
        raise TrustRefused(
            "The targets role names no director any more.",
            code="TRUST_UNSIGNED_DIRECTOR",
            remedy="Keep the director's delegation; to change its key, rotate it.",
        )
    if before is None:
        return
    if REVOCATION in delegated_names(before) and REVOCATION not in roles:
        raise _forgets("the whole revocation role", REVOCATION)
    for model, counter in read_floors(before).items():
        if floors.get(model, 0) < counter:
            raise TrustRefused(
                f"The signed floor of {model} falls from {counter} to {floors.get(model, 0)}.",
                code="TRUST_FLOOR",
                remedy="Signed floors only rise; to run old content again, sign it as a new release.",
                details={"model": model, "before": counter, "after": floors.get(model, 0)},
            )
    _check_superset(read_revoked(before), revoked, "targets")


def _check_revocation(before: Targets | None, signed: Targets) -> None:
    revoked = read_revoked(signed)
    for path in signed.targets:
        raise not_listed(path)
    if signed.delegations is not None:
        raise not_listed(", ".join(delegated_names(signed)) or REVOCATION)
    if before is not None:
        _check_superset(read_revoked(before), revoked, REVOCATION)


def _check_superset(before: Iterable[str], after: Mapping[str, object], role: str) -> None:
    for digest in before:
        if digest not in after:
            raise _forgets(f"bundle {digest[:12]}", role)


def _forgets(what: str, role: str) -> TrustRefused:
    return TrustRefused(
        f"The new {role} metadata forgets {what}, which was revoked before.",
        code="TRUST_ROLLBACK_REVOCATION",
        remedy="Under the same keys a revocation is for ever; only new keys of this role start a new list.",
        details={"role": role},
    )


def _check_revoked(state: State, listed: Mapping[str, str]) -> None:
    forbidden = set(read_revoked(state.targets))
    if REVOCATION in state.roles and REVOCATION in delegated_names(state.targets):
        forbidden |= set(read_revoked(state.roles[REVOCATION]))
    for path, digest in listed.items():
        if digest in forbidden:
            raise TrustRefused(
                f"{path} is a bundle that was revoked.",
                code="TRUST_REVOKED",
                remedy="Build and sign a new release; no device would run this one.",
                details={"path": path, "sha256": digest},
            )


def team_of(role: str) -> str:
    """Return the team whose role this is; empty where it is no team's."""
    return role.removeprefix(TEAM_PREFIX) if role.startswith(TEAM_PREFIX) else ""


def _check_listing(role: str, signed: Targets, history: History) -> None:
    """Check what a team lists: bundles of its own, one content a path, one content a counter."""
    counters: dict[tuple[str, int], str] = {}
    for path, target in signed.targets.items():
        try:
            team, model, _ = split_target(path)
        except BundleRefused as error:
            raise not_listed(path) from error
        custom, digest = read_custom(path, target.custom), target.hashes.get("sha256", "")
        if team_role(team) != role or custom.model != f"{team}/{model}" or not digest:
            raise not_listed(path)
        history.check(path, custom.model, custom.release_counter, digest)
        if counters.setdefault((custom.model, custom.release_counter), digest) != digest:
            raise TrustRefused(
                f"Two bundles of {custom.model} have release counter {custom.release_counter}.",
                code="TRUST_ROLLBACK_TEAM",
                remedy="Give every release its own counter and sign again.",
            )
