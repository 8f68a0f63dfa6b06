"""How far counts have moved: the statistics of the decision rule (06-drift-and-health.md, steps 2 and 3).

Standard library only. Everything is taken over *decision slots*: 10 pair-summed bins, ``under``, ``over`` and one
slot for values that were missing or unusable; a categorical column's slots and the same last one. 20 bins travel so
that a finer look stays possible; ten decide, because that is what was measured. Leaves floors, memory and alarms to
whoever judges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bundles.sketch.form import BINS, QUANT_SCALE, ColumnBaseline, ColumnCounts, ColumnKind


@dataclass(frozen=True)
class Distance:
    """What one comparison of window counts with baseline counts found.

    Attributes:
        n: rows of the window.
        psi: population stability index, with half a count added to every slot.
        eff: psi less its expectation when nothing has moved; may be negative.
        g: G statistic (likelihood ratio) of the two samples being one.
        df: degrees of freedom: occupied slots less one.
        p: chance of a g this large when nothing has moved.
    """

    n: int
    psi: float
    eff: float
    g: float
    df: int
    p: float


def decision_counts(counts: Sequence[int], missing: int, kind: ColumnKind) -> list[int]:
    """Return the decision slots of a column: bins summed in pairs, guards, then ``missing``."""
    if kind == "categorical":
        return [*counts, missing]
    return [*(counts[i] + counts[i + 1] for i in range(0, BINS, 2)), *counts[BINS:], missing]


def baseline_slots(column: ColumnBaseline) -> list[int]:
    """Return the decision slots of a baseline column."""
    return decision_counts(column.counts, column.missing, column.kind)


def window_slots(column: ColumnCounts, kind: ColumnKind) -> list[int]:
    """Return the decision slots of a window's column; infinities and type errors count as missing."""
    return decision_counts(column.counts, column.missing + column.inf + column.type_errors, kind)


def compare(baseline: Sequence[int], window: Sequence[int]) -> Distance:
    """Compare two samples over the same slots.

    With b, c the counts, N, n their sums and K the slots where b + c > 0:
    p = (b + 1/2) / (N + K/2), q = (c + 1/2) / (n + K/2), PSI = sum (q - p) ln(q / p),
    eff = PSI - (K - 1)(1/n + 1/N), G = 2 sum [b ln(b / (N pi)) + c ln(c / (n pi))] with pi = (b + c) / (N + n).

    Raises:
        ValueError: the slots differ in number, or one sample is empty.
    """
    pairs = [(b, c) for b, c in zip(baseline, window, strict=True) if b + c > 0]
    total_b, total_c, slots = sum(baseline), sum(window), len(pairs)
    if not total_b or not total_c:
        raise ValueError("an empty sample cannot be compared")
    psi = g = 0.0
    for b, c in pairs:
        p = (b + 0.5) / (total_b + slots / 2)
        q = (c + 0.5) / (total_c + slots / 2)
        psi += (q - p) * math.log(q / p)
        pooled = (b + c) / (total_b + total_c)
        # The limit of x ln x at 0 is 0.
        g += b * math.log(b / (total_b * pooled)) if b else 0.0
        g += c * math.log(c / (total_c * pooled)) if c else 0.0
    g = max(2.0 * g, 0.0)  # rounding may leave a hair below zero
    eff = psi - (slots - 1) * (1 / total_c + 1 / total_b)
    return Distance(n=total_c, psi=psi, eff=eff, g=g, df=slots - 1, p=chi2_survival(g, slots - 1))


def chi2_survival(x: float, df: int) -> float:
    """Return P(chi-squared with ``df`` degrees of freedom > x) by the cube-root normal approximation.

    E. B. Wilson, M. M. Hilferty, "The distribution of chi-square", PNAS 17 (1931). ``df`` 0 returns 1.
    """
    if df <= 0 or x <= 0:
        return 1.0
    spread = 2.0 / (9.0 * df)
    z = ((x / df) ** (1 / 3) - (1.0 - spread)) / math.sqrt(spread)
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def benjamini_hochberg(p_values: Sequence[float], q: float) -> list[bool]:
    """Return which hypotheses are rejected with the false discovery rate held at ``q``, in the order given.

    Y. Benjamini, Y. Hochberg, JRSS B 57 (1995): reject the k smallest, k the largest rank with p_(k) <= q k / m.
    """
    count = len(p_values)
    order = sorted(range(count), key=lambda i: p_values[i])
    passed = max((rank for rank, i in enumerate(order, 1) if p_values[i] <= q * rank / count), default=0)
    rejected = [False] * count
    for i in order[:passed]:
        rejected[i] = True
    return rejected


def moments(column: ColumnCounts, baseline: ColumnBaseline) -> tuple[float, float] | None:
    """Return (mean, standard deviation) of a numeric column's finite values; None where there are none.

    Read back from integers, so exact to sd0 / 1024 with values clipped at 64 sd0 from the baseline's mean.
    """
    finite = sum(column.counts)
    if not finite or baseline.kind != "numeric":
        return None
    mean_z = column.sum_q / finite / QUANT_SCALE
    variance_z = max(column.sumsq_q / finite / QUANT_SCALE**2 - mean_z**2, 0.0)
    return baseline.mu0 + baseline.sd0 * mean_z, baseline.sd0 * math.sqrt(variance_z)
