"""What the offline roles state besides keys: floors, revoked bundles, the server's CAs, listings withdrawn. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from bundles.digest import is_sha256
from bundles.trust.drafting.drafts import Drafts, as_drafts, ask_person, delegated, next_targets
from bundles.trust.drafting.offline import raised
from bundles.trust.publishing.state import State
from bundles.trust.revocation import MAX_REASON, MAX_REVOKED, REVOCATION, REVOKED_FIELD, read_revoked
from bundles.trust.roles import FLOORS_FIELD, SERVER_CAS_FIELD, Lifetimes, encode_server_cas, read_floors

DEFAULT = Lifetimes()


def raise_floors(state: State, floors: Mapping[str, int], now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft higher signed floors (``team/model`` -> lowest release counter); models not named keep theirs."""
    targets = next_targets("targets", state.targets, now_ms, life)
    targets.unrecognized_fields[FLOORS_FIELD] = raised(read_floors(state.targets), floors)
    return as_drafts(("targets", targets))


def revoke_bundle(
    state: State,
    sha256: str,
    reason: str,
    now_ms: int,
    *,
    by_targets: bool = False,
    life: Lifetimes = DEFAULT,
) -> Drafts:
    """Draft the list that forbids a bundle, for ever as long as the keys stay.

    Signed by one holder of the revocation role it keeps the bundle from being installed; signed by two it also stops
    it where it runs. A bundle that devices were made with is reached by the targets role only (``by_targets``).
    Drafting a digest again that is revoked already makes a list to which a second holder can add the missing strength.

    Args:
        state: the current state.
        sha256: the bundle digest.
        reason: in words; devices report it.
        now_ms: time of drafting; noted in the list.
        by_targets: let the targets role say it, with full strength, instead of the revocation role.
        life: how long the role is good for.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: there is no revocation role, the digest is none, or the list is full.
    """
    if not is_sha256(sha256):
        ask_person(
            f"{sha256!r} is no bundle digest.", "Give all 64 hexadecimal digits, as `wavegate model list -o json` does."
        )
    role = "targets" if by_targets else REVOCATION
    if not by_targets and (REVOCATION not in delegated(state.targets) or REVOCATION not in state.roles):
        ask_person(
            "This repository has no revocation role yet.",
            "Give it one with `wavegate trust rotate revocation`, or let the targets role revoke.",
        )
    current = state.targets if by_targets else state.roles[REVOCATION]
    listed = read_revoked(current)
    if sha256 not in listed and len(listed) >= MAX_REVOKED:
        ask_person(f"The list holds {MAX_REVOKED} digests, as many as devices keep.", "Raise signed floors instead.")
    fresh = next_targets(role, current, now_ms, life)
    entry = {"reason": reason[:MAX_REASON], "at_ms": now_ms}
    fresh.unrecognized_fields[REVOKED_FIELD] = {sha256: entry, **current.unrecognized_fields.get(REVOKED_FIELD, {})}
    return as_drafts((role, fresh))


def set_server_cas(state: State, certificates: Sequence[bytes], now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft the CA certificates (DER) that devices trust to sign the server's: the one in use, then the spares.

    Raises:
        TrustRefused: ``TRUST_UNSIGNED_TARGETS``: fewer than two, one twice, or one that is no certificate.
    """
    targets = next_targets("targets", state.targets, now_ms, life)
    targets.unrecognized_fields[SERVER_CAS_FIELD] = encode_server_cas(certificates)
    return as_drafts(("targets", targets))


def retire(state: State, paths: Collection[str], now_ms: int, life: Lifetimes = DEFAULT) -> Drafts:
    """Draft the withdrawal of listings; their paths and release counters stay used up.

    Devices that run such a bundle go on; none takes it any more.

    Args:
        state: the current state.
        paths: target paths, of one team or several.
        now_ms: time of drafting.
        life: how long the roles are good for.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: a path is not listed.
    """
    fresh = {}
    for path in sorted(set(paths)):
        role = next((role for role in delegated(state.targets) if path in _listed(state, role)), None)
        if role is None:
            ask_person(f"{path!r} is not listed.", "See `wavegate model list` for the bundles there are.")
        if role not in fresh:
            fresh[role] = next_targets(role, state.roles[role], now_ms, life)
        del fresh[role].targets[path]
    return as_drafts(*fresh.items())


def _listed(state: State, role: str) -> Collection[str]:
    return state.roles[role].targets if role in state.roles else ()
