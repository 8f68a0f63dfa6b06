"""What simulated devices answered: the evidence gates see, drawn from fates.

Leaves judging to the core. Ten classes, about equally common, with a little difference from device to device.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Protocol

from control_plane.core.evidence import DeviceSample, WaveEvidence, gather
from control_plane.core.spec import RolloutSpec
from control_plane.simulation.fates import Fate

CLASSES = 10
REQUESTS = 100
FAST_BUCKET, SLOW_BUCKET = 424, 532  # about 10 ms and 100 ms: 32 * log2(microseconds)


class Answering(Protocol):
    """What is asked of a device."""

    stratum: str
    fate: Fate
    active: str
    is_dead: bool


def evidence_for(
    spec: RolloutSpec,
    devices: Iterable[Answering],
    *,
    wave: int,
    look: int,
    at_ms: int,
    since_ms: int,
    rng: random.Random,
) -> WaveEvidence:
    """Return the evidence of one look; empty arms where the policy has no gate that would read them."""
    caps = spec.policy.caps
    canary: list[DeviceSample] = []
    control: list[DeviceSample] = []
    if spec.policy.output is not None or caps.error_rate is not None or caps.latency_p95_ms is not None:
        for device in devices:
            if device.is_dead or device.fate.reachable_ms > at_ms:
                continue
            if device.active == spec.bundle_sha256:
                canary.append(_sample(device.stratum, device.fate, rng, is_new=True))
            elif device.active and device.active == spec.baseline_sha256:
                control.append(_sample(device.stratum, device.fate, rng, is_new=False))
    return gather(
        wave=wave,
        look=look,
        at_ms=at_ms,
        since_ms=since_ms,
        canary=canary,
        control=control,
        latency_p95_cap_ms=caps.latency_p95_ms,
    )


def _sample(stratum: str, fate: Fate, rng: random.Random, *, is_new: bool) -> DeviceSample:
    slow, errors, shifted = (fate.slow, fate.errors, fate.shifted) if is_new else (0, 0, 0)
    failed = sum(rng.random() * 100 < errors for _ in range(REQUESTS)) if errors else 0
    late = sum(rng.random() * 100 < slow for _ in range(REQUESTS)) if slow else 0
    classes = [0] * CLASSES
    favourite = rng.randrange(CLASSES)
    for _ in range(REQUESTS - failed):
        answer = favourite if rng.random() < 0.02 else rng.randrange(CLASSES)
        classes[3 if shifted and rng.random() * 100 < shifted else answer] += 1
    width = SLOW_BUCKET - FAST_BUCKET + 1
    latency = [0] * width
    latency[0], latency[-1] = REQUESTS - late, late
    return DeviceSample(stratum, REQUESTS - failed, failed, tuple(classes), FAST_BUCKET, tuple(latency))
