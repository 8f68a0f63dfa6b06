"""What a device checks beyond TUF's own workflow, one function a check. Pure; every refusal names its remedy.

``client`` and ``kit`` call them through this module. Which state they are held against (floors, clock, keys) is the
caller's to say; authorising one bundle is for ``authorize``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from tuf.api.metadata import Root, Signed, Targets, Timestamp

from bundles.errors import AskPerson, TrustRefused
from bundles.trust.device.cache import Holder
from bundles.trust.device.floors import Floors
from bundles.trust.refusals import expired, mixed, rolled_back
from bundles.trust.revocation import REVOCATION, Revoked, Standing
from bundles.trust.roles import TIMESTAMP_LIFE_FIELD, epoch_ms, is_demo, timestamp_life_s
from bundles.wire.messages import Desired

Judged = Mapping[str, tuple[Signed, str]]
"""Role -> (verified metadata, digest of the keys it was verified with; empty for root, which is never forgotten)."""


def check_demo(root: Root, *, allowed: bool) -> None:
    """Check that ``root`` is not a demo's, unless that is what this device is for.

    Raises:
        AskPerson: ``TRUST_DEMO_KEYS``.
    """
    if is_demo(root) and not allowed:
        raise AskPerson(
            "This repository's keys are a demo's: anybody may hold them.",
            code="TRUST_DEMO_KEYS",
            remedy="Hold a ceremony of your own with `wavegate trust init`; for a demo, start the agent as one.",
        )


def check_versions(roles: Judged, floors: Floors) -> None:
    """Check that no role is older than what this device has accepted under the same keys.

    Raises:
        TrustRefused: ``TRUST_ROLLBACK_<role>``.
    """
    for role, (signed, keys) in roles.items():
        if signed.version < (floor := floors.version_floor(role, keys)):
            raise rolled_back(role, floor, signed.version)


def check_expiry(roles: Mapping[str, Signed], now: datetime) -> None:
    """Check that nothing has expired by the device's clock (TUF's client reads the host's).

    Raises:
        TrustRefused: ``TRUST_EXPIRED_<role>``.
    """
    for role, signed in roles.items():
        if signed.is_expired(now):
            raise expired(role)


def signed_ms(root: Root, timestamp: Timestamp) -> int:
    """Return when the timestamp was signed, UTC epoch ms: its expiry minus its fixed life, never a raw clock.

    0 where the root states no such life: that repository proves no time.
    """
    if TIMESTAMP_LIFE_FIELD not in root.unrecognized_fields:
        return 0
    return epoch_ms(timestamp.expires) - timestamp_life_s(root) * 1000


def check_signed_time(root: Root, timestamp: Timestamp, targets: Targets) -> None:
    """Check that the timestamp was not signed after the offline roles beside it had expired: that cannot be.

    A stolen timestamp key could otherwise move the device's clock past everything the offline keys have signed.

    Raises:
        TrustRefused: ``TRUST_CLOCK``.
    """
    claimed = signed_ms(root, timestamp)
    if claimed > min(epoch_ms(root.expires), epoch_ms(targets.expires)):
        raise TrustRefused(
            "The timestamp claims to be signed at a time when root or targets had already expired.",
            code="TRUST_CLOCK",
            remedy="Check the clock of the server that signs timestamps; if it is right, rotate the timestamp key.",
            details={"signed_ms": claimed},
        )


def check_revocation_holder(holders: Sequence[Holder]) -> Holder:
    """Return the revocation role out of what was consulted for its path.

    Raises:
        TrustRefused: ``TRUST_MIX``: another role stands before it and would hide what it forbids.
    """
    if not holders or holders[-1].role != REVOCATION:
        raise mixed(REVOCATION)
    return holders[-1]


def check_not_revoked(target: str, standing: Standing, why: Revoked | None) -> None:
    """Check that a bundle is not forbidden.

    Raises:
        TrustRefused: ``TRUST_REVOKED``.
    """
    if standing != "clear":
        reason = why.reason if why is not None else ""
        raise TrustRefused(
            f"{target} was revoked{': ' + reason if reason else ''}.",
            code="TRUST_REVOKED",
            remedy="Send these devices another release; a bundle revoked stays so.",
            details={"reason": reason, "at_ms": why.at_ms if why is not None else 0},
        )


def check_device(desired: Desired, device: str) -> None:
    """Check that an assignment is for this device.

    Raises:
        TrustRefused: ``TRUST_WRONG_DEVICE``.
    """
    if desired.device != device:
        raise TrustRefused(
            f"The assignment is for {desired.device!r}, not for this device.",
            code="TRUST_WRONG_DEVICE",
            remedy="Check who can write to this device's topic.",
        )


def check_assignment_expiry(desired: Desired, clock_ms: int) -> None:
    """Check that an assignment has not expired.

    Raises:
        TrustRefused: ``TRUST_EXPIRED_DIRECTOR``.
    """
    if desired.expires <= clock_ms:
        raise TrustRefused(
            "The assignment has expired.",
            code="TRUST_EXPIRED_DIRECTOR",
            remedy="The server signs it again by itself; check that it runs and that the clock is right.",
            details={"expires": desired.expires},
        )


def check_generation(gen: int, sha256: str, known: int, known_sha256: str) -> None:
    """Check that an assignment is newer than the one accepted last, or says the very same.

    Args:
        gen: its generation.
        sha256: digest of what it says.
        known: generation accepted last under the same keys, 0 = none.
        known_sha256: digest of what that one said.

    Raises:
        TrustRefused: ``TRUST_ROLLBACK_DIRECTOR``.
    """
    if gen < known or (gen == known and known and sha256 != known_sha256):
        raise TrustRefused(
            f"The assignment has generation {gen}; this device has already accepted {known}.",
            code="TRUST_ROLLBACK_DIRECTOR",
            remedy="Change an assignment only together with a higher generation.",
            details={"gen": gen, "accepted": known},
        )
