"""How a person reads a repository before changing it: verified from a trusted root, expired or not.

A device refuses what has expired (``client``). Those who renew it must still be able to read it, so signatures and
versions are checked here and expiry is only reported (``state.expired_roles``). Building on it is safe: what is
drafted on an old state is not the next version any more, and publishing refuses it.
"""

from __future__ import annotations

from typing import Any

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from bundles.trust.fetch import MetadataFetch, NotServed, length_limit
from bundles.trust.publishing.event import verify_signatures
from bundles.trust.publishing.state import State, delegated_names
from bundles.trust.refusals import mixed
from bundles.trust.roles import UNWRITTEN, file_name, parse_role, parse_root


def read_state(fetch: MetadataFetch, root: bytes) -> State:
    """Fetch and verify the whole current state, as somebody who trusts ``root``. Expiry is not judged.

    Raises:
        TryAgain: the repository cannot be reached.
        TrustRefused: ``TRUST_ROOT_SIG``, ``TRUST_UNSIGNED_*``, ``TRUST_THRESHOLD`` or ``TRUST_MIX``.
    """
    trusted: Root = parse_root(file_name("root", 1), root).signed
    while (data := _get_if_there(fetch, name := file_name("root", trusted.version + 1))) is not None:
        newer = parse_root(name, data)
        for judge in (trusted, newer.signed):
            verify_signatures(judge, "root", newer)
        if newer.signed.version != trusted.version + 1:
            raise mixed("root")
        trusted = newer.signed
    timestamp: Timestamp = _read(fetch, trusted, "timestamp", 0, Timestamp)
    snapshot: Snapshot = _read(fetch, trusted, "snapshot", timestamp.snapshot_meta.version, Snapshot)
    targets: Targets = _read(fetch, trusted, "targets", _stated(snapshot, "targets"), Targets)
    roles = {
        role: _read(fetch, targets, role, _stated(snapshot, role), Targets)
        for role in delegated_names(targets)
        if role not in UNWRITTEN
    }
    return State(trusted, timestamp, snapshot, targets, roles)


def _read(fetch: MetadataFetch, delegator: Root | Targets, role: str, version: int, kind: type[Any]) -> Any:
    data = _get_if_there(fetch, file_name(role, version))
    if data is None:
        raise mixed(role)
    metadata = parse_role(file_name(role, version), data, kind)
    verify_signatures(delegator, role, metadata)
    if role != "timestamp" and metadata.signed.version != version:
        raise mixed(role)
    return metadata.signed


def _stated(snapshot: Snapshot, role: str) -> int:
    entry = snapshot.meta.get(f"{role}.json")
    if entry is None:
        raise mixed(role)
    return entry.version


def _get_if_there(fetch: MetadataFetch, name: str) -> bytes | None:
    try:
        return b"".join(fetch(name, length_limit(name)))
    except NotServed:
        return None
