"""What people have signed, held against the current state: the checks before anything is published. Pure.

An event is a set of new root, targets and team files. Each must be the next version, signed by the threshold its
delegator names, unexpired; a team's role may list bundles of its own only, one content a path and a release counter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from bundles.errors import AskPerson, BundleRefused, TrustRefused
from bundles.manifest import split_target
from bundles.trust.refusals import expired, mixed
from bundles.trust.roles import (
    DIRECTOR,
    TEAM_PREFIX,
    check_distinct_keys,
    code_role,
    parse_root,
    parse_targets,
    read_custom,
    read_floors,
    role_of,
    split_file,
    team_role,
)


@dataclass
class State:
    """The newest metadata of a repository; fields are replaced as an event is applied."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    roles: dict[str, Targets]


def apply_file(
    state: State, name: str, data: bytes, now: datetime, check_online_keys: Callable[[Root], None]
) -> dict[str, str]:
    """Verify one new file against ``state`` and put it in.

    Args:
        state: changed in place.
        name: file name, such as ``4.team-vision.json``.
        data: its bytes.
        now: time expiry is judged against.
        check_online_keys: raises where a new root does not name the keys the server holds.

    Returns:
        Target path -> bundle digest of the bundles it newly lists.

    Raises:
        TrustRefused: as ``repository.OnlineRepository.publish`` says.
        AskPerson: ``TRUST_CONFLICT``.
    """
    if split_file(name)[0] == "root":
        _apply_root(state, name, data, now)
        check_online_keys(state.root)
        return {}
    metadata = parse_targets(name, data)
    role, signed = role_of(metadata.signed, name), metadata.signed
    delegator: Root | Targets = state.root if role == "targets" else state.targets
    known = state.targets if role == "targets" else state.roles.get(role)
    _check_next(role, signed.version, known.version if known is not None else 0)
    verify_signatures(delegator, role, metadata)
    if signed.is_expired(now):
        raise expired(role)
    if role == "targets":
        check_distinct_keys(signed.delegations)
        read_floors(signed)
        state.targets = signed
        return {}
    listed = _check_listing(role, signed, known)
    state.roles[role] = signed
    return listed


def check_complete(state: State) -> list[str]:
    """Check that every team delegated has a role; return a path to probe each of them with.

    Raises:
        TrustRefused: ``TRUST_MIX``: devices could not look that team's bundles up.
    """
    roles = state.targets.delegations.roles if state.targets.delegations is not None else None
    teams = [role for role in roles or {} if role != DIRECTOR]
    for role in teams:
        if role not in state.roles:
            raise mixed(role)
    return [f"{role.removeprefix(TEAM_PREFIX)}/none/none/bundle.json" for role in teams]


def publishing_order(name: str) -> tuple[int, int, str]:
    """Return the sort key that puts roots first, then the targets role, then what it delegates."""
    role, version = split_file(name)
    return {"root": 0, "targets": 1}.get(role, 2), version, name


def _apply_root(state: State, name: str, data: bytes, now: datetime) -> None:
    metadata = parse_root(name, data)
    role_of(metadata.signed, name)
    _check_next("root", metadata.signed.version, state.root.version)
    verify_signatures(state.root, "root", metadata)
    verify_signatures(metadata.signed, "root", metadata)
    check_distinct_keys(metadata.signed)
    if metadata.signed.is_expired(now):
        raise expired("root")
    state.root = metadata.signed


def _check_next(role: str, version: int, current: int) -> None:
    if version != current + 1:
        raise AskPerson(
            f"The new {role} metadata has version {version}; the next one here is {current + 1}.",
            code="TRUST_CONFLICT",
            remedy="Somebody published in between: sign again on the current metadata.",
            details={"role": role, "version": version, "current": current},
        )


def verify_signatures(delegator: Root | Targets, role: str, metadata: Metadata[Targets] | Metadata[Root]) -> None:
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


def _check_listing(role: str, signed: Targets, known: Targets | None) -> dict[str, str]:
    """Check what a team lists: bundles of its own, one content a path, one content a counter; return what is new."""
    counters: dict[tuple[str, int], str] = {}
    listed: dict[str, str] = {}
    for path, target in signed.targets.items():
        try:
            team, model, _ = split_target(path)
        except BundleRefused as error:
            raise not_listed(path) from error
        custom, digest = read_custom(path, target.custom), target.hashes.get("sha256", "")
        if team_role(team) != role or custom.model != f"{team}/{model}" or not digest:
            raise not_listed(path)
        before = known.targets.get(path) if known is not None else None
        if before is not None and before.hashes.get("sha256") != digest:
            raise TrustRefused(
                f"{path} was published with other content before.",
                code="TRUST_ROLLBACK_TEAM",
                remedy="Give new content a new version and a higher release counter.",
            )
        if counters.setdefault((custom.model, custom.release_counter), digest) != digest:
            raise TrustRefused(
                f"Two bundles of {custom.model} have release counter {custom.release_counter}.",
                code="TRUST_ROLLBACK_TEAM",
                remedy="Give every release its own counter and sign again.",
            )
        if before is None:
            listed[path] = digest
    return listed


def not_listed(path: str) -> TrustRefused:
    """Return the refusal of a path that a role may not list, or does not."""
    return TrustRefused(
        f"{path!r} is not a bundle that this role may list.",
        code="TRUST_NOT_LISTED",
        remedy="A team lists team/model/version/bundle.json of its own; sign with the wavegate tools.",
    )
