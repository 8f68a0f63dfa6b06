"""How current a device's trust metadata is, told from its durable floors: offline too, and after it has expired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bundles.trust.device.floors import Floors
from bundles.trust.revocation import REVOCATION
from bundles.trust.roles import DEFAULT_TIMESTAMP_LIFE_S

Level = Literal["fresh", "warn", "alarm"]
ALARM_LIVES = 3
"""Lives of a timestamp after which a device has been cut off for longer than any maintenance takes."""


@dataclass(frozen=True)
class TrustSummary:
    """How current the device's trust metadata is.

    Attributes:
        timestamp_version: compare with desired's hint ``trust_version`` to know when to refresh.
        root_version: of the root in use.
        age_s: seconds since the newest verified timestamp was signed.
        life_s: seconds a timestamp lives.
        revocation_version: of the revocation list in force; 0 = there is none.
        level: ``warn`` past one life of a timestamp, ``alarm`` past three. Inference never stops for it.
    """

    timestamp_version: int
    root_version: int
    age_s: int
    life_s: int
    revocation_version: int = 0
    level: Level = "fresh"


def age_level(age_s: int, life_s: int) -> Level:
    """Return how serious an age of trust metadata is."""
    if age_s >= ALARM_LIVES * life_s:
        return "alarm"
    return "warn" if age_s >= life_s else "fresh"


def summarise(floors: Floors, clock_ms: int) -> TrustSummary:
    """Summarise what was verified last.

    Args:
        floors: of a device that has refreshed at least once.
        clock_ms: the device's clock, UTC epoch ms.
    """
    life_s = floors.life_s or DEFAULT_TIMESTAMP_LIFE_S
    age_s = max(0, clock_ms - floors.clock_ms) // 1000
    return TrustSummary(
        timestamp_version=floors.roles["timestamp"].version,
        root_version=floors.roles["root"].version,
        age_s=age_s,
        life_s=life_s,
        revocation_version=floors.roles[REVOCATION].version if floors.denied_keys else 0,
        level=age_level(age_s, life_s),
    )
