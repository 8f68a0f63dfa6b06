"""What gates look at: counters of canary and control devices over the same hours, small and exactly mergeable.

Answers of one device resemble one another, so plain row counts overstate what is known. Besides totals an arm
therefore carries sums of squares and cross products over *devices*; ``statistics`` derives honest variances from them.
Leaves gathering rows to the shell and judging to ``gates``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from bundles.digest import canonical_json, sha256_hex
from bundles.sketch.form import LATENCY_SCALE

EVIDENCE_VERSION = 1


@dataclass(frozen=True)
class DeviceSample:
    """What one device did in the time under judgement, with one bundle.

    Attributes:
        stratum: the device's stratum.
        ok: requests answered.
        errors: requests that failed (refusals by the contract are not errors of the model).
        classes: predicted class counts in the contract's order; empty for other tasks.
        latency_offset: index of the first latency bucket (base-2 exponential, ``LATENCY_SCALE``).
        latency_counts: consecutive buckets, in microseconds.
    """

    stratum: str
    ok: int
    errors: int
    classes: tuple[int, ...] = ()
    latency_offset: int = 0
    latency_counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ratio:
    """Sufficient sums for a ratio of two per-device counts and its cluster-robust variance.

    Attributes:
        y: sum of the numerator over devices.
        x: sum of the denominator over devices.
        yy: sum of its squares.
        xx: sum of squares of the denominator.
        xy: sum of the products.
    """

    y: int = 0
    x: int = 0
    yy: int = 0
    xx: int = 0
    xy: int = 0


@dataclass(frozen=True)
class ArmStats:
    """One arm of one stratum.

    Attributes:
        stratum: which.
        devices: devices that reported anything.
        errors: failed requests over all requests.
        slow: requests in latency buckets wholly above the cap, over all timed requests. Above 5 % = p95 above the cap.
        classes: one ratio for each class: answers of that class over all answers.
        latency_offset: merged histogram: index of its first bucket.
        latency_counts: merged histogram: buckets.
    """

    stratum: str
    devices: int = 0
    errors: Ratio = Ratio()
    slow: Ratio = Ratio()
    classes: tuple[Ratio, ...] = ()
    latency_offset: int = 0
    latency_counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class WaveEvidence:
    """All that the gates of one wave may know of the outside at one look.

    Attributes:
        wave: index.
        look: which look this was gathered for.
        at_ms: when it was gathered.
        since_ms: start of the time it covers.
        canary: one arm for each stratum: every device of the rollout running the new bundle.
        control: one arm for each stratum: devices still running the baseline.
        env_shift: why the world rather than the model is thought to have changed (drift in both arms); else empty.
        version: of this form.
    """

    wave: int
    look: int
    at_ms: int
    since_ms: int
    canary: tuple[ArmStats, ...] = ()
    control: tuple[ArmStats, ...] = ()
    env_shift: str = ""
    version: int = EVIDENCE_VERSION

    @property
    def sha256(self) -> str:
        """Digest of the evidence, recorded with every decision that rests on it."""
        return sha256_hex(canonical_json(msgspec.to_builtins(self)))


def gather(
    *,
    wave: int,
    look: int,
    at_ms: int,
    since_ms: int,
    canary: Iterable[DeviceSample],
    control: Iterable[DeviceSample],
    latency_p95_cap_ms: float | None,
    env_shift: str = "",
) -> WaveEvidence:
    """Sum per-device samples into the evidence of one look. Give exactly one sample for each device.

    Args:
        wave: index of the wave judged.
        look: look number from the request.
        at_ms: now.
        since_ms: start of the time the samples cover, from the request.
        canary: devices running the new bundle.
        control: devices running the baseline over the same time.
        latency_p95_cap_ms: ``policy.caps.latency_p95_ms``.
        env_shift: see ``WaveEvidence``.
    """
    return WaveEvidence(
        wave=wave,
        look=look,
        at_ms=at_ms,
        since_ms=since_ms,
        canary=_arms(canary, latency_p95_cap_ms),
        control=_arms(control, latency_p95_cap_ms),
        env_shift=env_shift,
    )


def encode_evidence(evidence: WaveEvidence) -> dict[str, object]:
    """Return the evidence as plain JSON values."""
    encoded: dict[str, object] = msgspec.to_builtins(evidence)
    return encoded


def _arms(samples: Iterable[DeviceSample], cap_ms: float | None) -> tuple[ArmStats, ...]:
    groups: dict[str, list[DeviceSample]] = {}
    for sample in samples:
        if sample.ok + sample.errors > 0:
            groups.setdefault(sample.stratum, []).append(sample)
    return tuple(_arm(stratum, groups[stratum], cap_ms) for stratum in sorted(groups))


def _arm(stratum: str, samples: list[DeviceSample], cap_ms: float | None) -> ArmStats:
    width = max(len(sample.classes) for sample in samples)
    classed = [sample for sample in samples if sum(sample.classes) > 0]
    offset, counts = _merge([(sample.latency_offset, sample.latency_counts) for sample in samples])
    return ArmStats(
        stratum=stratum,
        devices=len(samples),
        errors=ratio_of((sample.errors, sample.ok + sample.errors) for sample in samples),
        slow=ratio_of((_slower(sample, cap_ms), sum(sample.latency_counts)) for sample in samples),
        classes=tuple(
            ratio_of((sample.classes[k] if k < len(sample.classes) else 0, sum(sample.classes)) for sample in classed)
            for k in range(width)
        ),
        latency_offset=offset,
        latency_counts=counts,
    )


def ratio_of(pairs: Iterable[tuple[int, int]]) -> Ratio:
    """Return the sums over devices of (numerator, denominator) pairs."""
    y = x = yy = xx = xy = 0
    for top, bottom in pairs:
        y, x, yy, xx, xy = y + top, x + bottom, yy + top * top, xx + bottom * bottom, xy + top * bottom
    return Ratio(y, x, yy, xx, xy)


def _slower(sample: DeviceSample, cap_ms: float | None) -> int:
    if cap_ms is None:
        return 0
    # Bucket i holds (2**(i/32), 2**((i+1)/32)] us. The bucket the cap falls in counts as within it: at most 2.2 %.
    first = math.ceil((1 << LATENCY_SCALE) * math.log2(cap_ms * 1000.0))
    return sum(sample.latency_counts[max(0, first - sample.latency_offset) :])


def _merge(histograms: list[tuple[int, tuple[int, ...]]]) -> tuple[int, tuple[int, ...]]:
    filled = [(offset, counts) for offset, counts in histograms if counts]
    if not filled:
        return 0, ()
    low = min(offset for offset, _ in filled)
    merged = [0] * (max(offset + len(counts) for offset, counts in filled) - low)
    for offset, counts in filled:
        for index, count in enumerate(counts, start=offset - low):
            merged[index] += count
    return low, tuple(merged)
