"""Which keys may sign a role before and after, in plain words. Pure; a part of ``changes``."""

from __future__ import annotations

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Role, Root, Targets

from bundles.trust.revocation import REVOCATION, REVOCATION_PATH
from bundles.trust.roles import DIRECTOR, DIRECTOR_PATH, KIT, KIT_PATH, TEAM_PREFIX, team_path

_TITLES = {
    "root": "Root",
    "targets": "Targets",
    "snapshot": "Snapshot (online)",
    "timestamp": "Timestamp (online)",
    DIRECTOR: "The director (online)",
    REVOCATION: "The revocation list",
    KIT: "The signers of offline kits",
}


def title(role: str) -> str:
    """Return what people call ``role``, fit to begin a sentence."""
    if role.startswith(TEAM_PREFIX):
        return f"Team {role.removeprefix(TEAM_PREFIX)}"
    return _TITLES.get(role, f"Role {role}")


def fingerprint(key: Key) -> str:
    """Return how a key is shown to people: the beginning of its id, and its kind."""
    return f"{key.keyid[:12]} ({'P-256' if key.scheme.startswith('ecdsa') else key.scheme})"


def role_keys_changed(
    role: str, before: Root | Targets | None, new: Root | Targets, lines: list[str], warnings: list[str]
) -> None:
    """Add to ``lines`` and ``warnings`` what changes in who may sign ``role``, as its delegator says.

    Args:
        role: top-level or delegated.
        before: the delegator now; None where there is none yet.
        new: the delegator to come.
        lines: one sentence a change is added.
        warnings: as ``lines``.
    """
    was, now = _delegation(before, role), _delegation(new, role)
    called = title(role)
    if now is None:
        if was is not None:
            lines.append(f"{called} is removed: what it lists can no longer be given to any device.")
        return
    keys = {keyid: new.get_key(keyid) for keyid in now.keyids}
    if was is None or before is None:
        shown = ", ".join(map(fingerprint, keys.values()))
        lines.append(f"{called} is added: {now.threshold} of {len(keys)} key(s) must sign, {shown}.")
        if isinstance(now, DelegatedRole):
            _check_path(role, now, warnings)
        return
    added, removed = sorted(keys.keys() - set(was.keyids)), sorted(set(was.keyids) - keys.keys())
    lines += [f"{called}: the key {fingerprint(keys[keyid])} is added." for keyid in added]
    lines += [f"{called}: the key {fingerprint(before.get_key(keyid))} is removed." for keyid in removed]
    for keyid in sorted(keys.keys() & set(was.keyids)):
        if before.get_key(keyid).to_dict() != keys[keyid].to_dict():
            lines.append(f"{called}: what stands under the key id {keyid[:12]} changes.")
            warnings.append(f"{called}: a key id must go on meaning the same key.")
    if now.threshold != was.threshold:
        lines.append(f"{called}: {now.threshold} of {len(keys)} must sign (was {was.threshold} of {len(was.keyids)}).")
        if now.threshold < was.threshold:
            warnings.append(f"{called}: fewer people than before can sign alone.")
    if isinstance(now, DelegatedRole) and isinstance(was, DelegatedRole) and _reach(now) != _reach(was):
        lines.append(f"{called}: it may list {', '.join(now.paths or [])} (was {', '.join(was.paths or [])}).")
        _check_path(role, now, warnings)


def _check_path(role: str, delegated: DelegatedRole, warnings: list[str]) -> None:
    expected = {DIRECTOR: DIRECTOR_PATH, REVOCATION: REVOCATION_PATH, KIT: KIT_PATH}.get(
        role, team_path(role.removeprefix(TEAM_PREFIX))
    )
    if _reach(delegated) != ([expected], True, None):
        warnings.append(f"{title(role)} may list {delegated.paths}, where {expected} alone is usual.")


def _reach(delegated: DelegatedRole) -> tuple[list[str] | None, bool, list[str] | None]:
    return delegated.paths, delegated.terminating, delegated.path_hash_prefixes


def _delegation(holder: Root | Targets | None, role: str) -> Role | None:
    if holder is None:
        return None
    try:
        return holder.get_delegated_role(role)
    except ValueError:
        return None
