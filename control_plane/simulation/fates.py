"""What becomes of each device, drawn from a seed before anything happens.

A fate says when the device is reachable, how long its stages take, what the release does to it and how its messages
travel. Leaves time to ``fleet``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from bundles.wire.messages import Profile


class Illness(StrEnum):
    """What the release does to a device."""

    NONE = "none"
    REPORTS = "reports"  # fails, says so and returns to what it ran
    SILENT = "silent"  # never speaks again
    REVERTS_LATER = "reverts_later"  # confirmed, then returns by itself
    CLAIMS = "claims"  # says confirmed with the old digest active
    FLAPS = "flaps"  # new, old, new digest
    VANISHES = "vanishes"  # takes the offer, says nothing more; the release is not to blame
    NO_DISK = "no_disk"  # cannot fetch it, and says so


BLAMELESS = frozenset({Illness.NONE, Illness.VANISHES, Illness.NO_DISK})
"""Illnesses the release does no harm by."""


@dataclass(frozen=True)
class Fate:
    """One device's.

    Attributes:
        illness: see ``Illness``.
        reachable_ms: not before; a device not reachable at all has a time past every simulation.
        phase_ms: where in the heartbeat interval its heartbeats fall.
        download_ms: time to fetch and stage.
        activate_ms: time to activate.
        lag_ms: up to this much a message may be late, overtaking others.
        duplicates: share of messages delivered twice.
        slow: requests in a hundred over 100 ms with the new bundle.
        errors: requests in a hundred failing with the new bundle.
        shifted: requests in a hundred answered with the wrong class by the new bundle.
    """

    illness: Illness = Illness.NONE
    reachable_ms: int = 0
    phase_ms: int = 0
    download_ms: int = 0
    activate_ms: int = 0
    lag_ms: int = 0
    duplicates: float = 0.0
    slow: int = 0
    errors: int = 0
    shifted: int = 0


NEVER_MS = 1 << 60


def draw_fate(
    rng: random.Random,
    profile: Profile,
    *,
    bad: float,
    silent: float,
    offline: float = 0.0,
    is_offline: bool = False,
) -> Fate:
    """Return one fate.

    Args:
        rng: seeded.
        profile: timing the stages are drawn to fit.
        bad: chance that the release fails on the device.
        silent: chance that a failing device says nothing.
        offline: chance of being out of reach at first, half of those for good; ignored if ``is_offline``.
        is_offline: the device is out of reach for good.
    """
    illness = Illness.NONE
    if rng.random() < bad:
        illness = Illness.SILENT if rng.random() < silent else Illness.REPORTS
    reachable = 0
    if is_offline:
        reachable = NEVER_MS
    elif rng.random() < offline:
        reachable = NEVER_MS if rng.random() < 0.5 else int(rng.uniform(0, 20) * profile.accept_s * 1000)
    return Fate(
        illness=illness,
        reachable_ms=reachable,
        phase_ms=int(rng.uniform(0, profile.heartbeat_s) * 1000),
        # Median an eighth of the deadline; one in a few thousand does not make it.
        download_ms=int(rng.lognormvariate(0, 0.6) * profile.download_s * 125),
        activate_ms=int(rng.uniform(0.02, 0.2) * profile.activate_s * 1000),
    )
