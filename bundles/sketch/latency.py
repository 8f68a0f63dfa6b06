"""Latency as a base-2 exponential histogram, with the index OTLP and Prometheus native histograms use at scale 5.

Bucket i holds latencies x microseconds with 2**(i/32) < x <= 2**((i+1)/32), so i = ceil(log2(x) * 32) - 1
(OpenTelemetry metrics data model, "Exponential Scale"). A percentile read back is the geometric middle of its bucket:
off by at most 2**(1/64) - 1 = 1.09 %. Fleet percentiles come from merged buckets, never from averages of percentiles.
Leaves addition to ``merge``.
"""

from __future__ import annotations

import math

from bundles.sketch.form import LATENCY_SCALE, LatencyHistogram
from bundles.sketch.merge import pack_buckets

BUCKETS_A_DOUBLING = 1 << LATENCY_SCALE
MAX_LATENCY_NS = 3_600_000_000_000
"""One hour. Longer (a suspended laptop, a stepped clock) is counted as this, which bounds the buckets."""


def bucket_index(latency_ns: int) -> int:
    """Return the bucket of a latency in nanoseconds; below 1 ns counts as 1 ns, above an hour as an hour."""
    micros = min(max(latency_ns, 1), MAX_LATENCY_NS) / 1000.0
    return math.ceil(math.log2(micros) * BUCKETS_A_DOUBLING) - 1


def bucket_bounds(index: int) -> tuple[float, float]:
    """Return bucket ``index`` as (low, high] in microseconds."""
    return math.exp2(index / BUCKETS_A_DOUBLING), math.exp2((index + 1) / BUCKETS_A_DOUBLING)


def percentile_us(histogram: LatencyHistogram, ratio: float) -> float | None:
    """Return the latency in microseconds that ``ratio`` (0..1) of the observations do not exceed; None if empty."""
    total = sum(histogram.counts)
    if not total:
        return None
    rank = min(max(math.ceil(ratio * total), 1), total)
    for index, count in enumerate(histogram.counts, histogram.offset):
        rank -= count
        if rank <= 0:
            return math.exp2((index + 0.5) / BUCKETS_A_DOUBLING)
    raise AssertionError("the rank is at most the total")


def within_ratio(histogram: LatencyHistogram, target_us: float) -> float | None:
    """Return the share of observations at or under ``target_us``; None if empty.

    Exact when the target is a bucket's edge; otherwise the bucket holding the target counts as over it, so that a
    promise is never flattered.
    """
    total = sum(histogram.counts)
    if not total:
        return None
    # The nudge keeps a target that *is* an edge, but was computed with rounding, on its edge.
    last = math.floor(math.log2(target_us) * BUCKETS_A_DOUBLING + 1e-9) - 1
    return sum(count for i, count in enumerate(histogram.counts, histogram.offset) if i <= last) / total


class LatencyRecorder:
    """Collects latencies of one window. Not thread-safe."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._n = 0
        self._sum_ns = 0

    def observe(self, latency_ns: int) -> None:
        """Count one latency, in nanoseconds."""
        index = bucket_index(latency_ns)
        self._buckets[index] = self._buckets.get(index, 0) + 1
        self._n += 1
        self._sum_ns += min(max(latency_ns, 0), MAX_LATENCY_NS)

    def histogram(self) -> LatencyHistogram:
        """Return what was seen; the sum is rounded down to whole microseconds once, here."""
        return pack_buckets(self._buckets, n=self._n, sum_us=self._sum_ns // 1000)
