"""Which bundles are forbidden, and what that means for one that runs already. Pure.

The ``revocation`` role (on-call people, delegated by targets on a path no bundle can have) signs a list of digests
with one signature or more. One is enough to keep a bundle from being installed; a bundle that runs is stopped only
by ``RUNNING_THRESHOLD`` signatures, so one stolen key cannot switch a fleet off. Where the role has a single key in all
(one person), that key is enough. Bundles a device was made with are beyond this role: only top-level targets may
forbid them.

Under the same keys a digest once forbidden stays so; new keys start a new list, which is the recovery from a stolen
one. ``client`` keeps what was seen in the durable floors; the server refuses a list that forgets (``event``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

import msgspec
from tuf.api.metadata import Metadata, Targets

from bundles.digest import canonical_json, is_sha256
from bundles.errors import TrustRefused

REVOCATION = "revocation"
REVOCATION_PATH = ".revocation/never"
"""The path the role is delegated on. No bundle can have it, so the role can list none."""
REVOKED_FIELD = "x-revoked"
"""In the revocation role and in top-level targets: ``{sha256: {"reason": ..., "at_ms": ...}}``."""
RUNNING_THRESHOLD = 2
"""Signatures that stop a bundle that runs."""
MAX_REVOKED = 4_096
"""Entries a device keeps for good (below 1 MB of floors); a longer list is refused."""
MAX_REASON = 200
"""Characters of a reason."""

Standing = Literal["clear", "warned", "revoked"]
"""``warned``: it may go on running, and must not be installed anew."""


class Revoked(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why and when a bundle was forbidden.

    Attributes:
        reason: in a person's words.
        at_ms: when, UTC epoch ms.
    """

    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON)] = ""
    at_ms: int = 0


class Denied(msgspec.Struct, frozen=True, omit_defaults=True):
    """A forbidden digest as a device remembers it.

    Attributes:
        strength: signatures it was forbidden with, at most; see ``strength_of``.
        reason: as ``Revoked.reason``.
        at_ms: as ``Revoked.at_ms``.
    """

    strength: int
    reason: str = ""
    at_ms: int = 0


def read_revoked(targets: Targets) -> dict[str, Revoked]:
    """Return the digests that ``targets`` (the revocation role, or top-level targets) forbids.

    Raises:
        TrustRefused: ``TRUST_REVOKED`` where the list is there and cannot be read: it is never ignored.
    """
    try:
        revoked = msgspec.convert(targets.unrecognized_fields.get(REVOKED_FIELD, {}), dict[str, Revoked])
        strange = next((digest for digest in revoked if not is_sha256(digest)), None)
        if strange is not None:
            raise ValueError(f"{strange!r} is no sha256")
        if len(revoked) > MAX_REVOKED:
            raise ValueError(f"it has {len(revoked)} entries, {MAX_REVOKED} are allowed")
    except (msgspec.ValidationError, ValueError) as error:
        raise TrustRefused(
            f"The list of revoked bundles cannot be read: {error}.",
            code="TRUST_REVOKED",
            remedy="Sign the list again with the wavegate tools.",
        ) from error
    return revoked


def count_signatures(delegator: Targets, role: str, metadata: Metadata[Targets]) -> int:
    """Return how many different keys that ``delegator`` trusts for ``role`` have signed ``metadata``.

    A key named under two key ids counts once.

    Raises:
        ValueError: ``role`` is not delegated.
    """
    result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return len({canonical_json(key.keyval) for key in result.signed.values()})


def strength_of(signatures: int, keys: int) -> int:
    """Return the strength of a list with ``signatures``, in a role that has ``keys`` keys.

    Where there is one key in all, asking for two would mean that nothing running can ever be stopped.
    """
    return RUNNING_THRESHOLD if keys == 1 and signatures else signatures


def weak_list(signatures: int, keys: int) -> str:
    """Say what a revocation list with ``signatures``, in a role that has ``keys`` keys, does not do; empty if nothing.

    One without a signature says nothing yet: that it lacks one is told elsewhere.
    """
    if not 0 < strength_of(signatures, keys) < RUNNING_THRESHOLD:
        return ""
    return (
        "The revocation list has one signature: what it names is not installed any more. A second one is needed to "
        "stop it where it runs."
    )


def remember(known: Mapping[str, Denied], listed: Mapping[str, Revoked], strength: int) -> dict[str, Denied]:
    """Return ``known`` with a newer list of the same keys: nothing is forgotten, no strength is lost."""
    seen = {
        digest: Denied(max(strength, known[digest].strength if digest in known else 0), entry.reason, entry.at_ms)
        for digest, entry in listed.items()
    }
    return {**known, **seen}


def standing(
    sha256: str,
    *,
    running: bool,
    by_targets: Collection[str],
    by_role: Mapping[str, Denied],
    factory: Collection[str],
) -> Standing:
    """Say whether the bundle ``sha256`` may be installed or, where it runs, go on running.

    Args:
        sha256: the bundle digest.
        running: whether it runs now.
        by_targets: digests that top-level targets forbids: always with full strength.
        by_role: digests that the revocation role forbids.
        factory: digests this device was made with: out of the revocation role's reach.
    """
    if sha256 in by_targets:
        return "revoked"
    if sha256 in factory or sha256 not in by_role:
        return "clear"
    if running and by_role[sha256].strength < RUNNING_THRESHOLD:
        return "warned"
    return "revoked"
