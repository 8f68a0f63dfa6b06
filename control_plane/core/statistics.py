"""The few statistics gates need, from their definitions, in plain floats.

Wald's sequential test and Page's CUSUM for installs; a cluster-robust likelihood-ratio test for class counts. Leaves
thresholds to ``policy`` and verdicts to ``gates``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from control_plane.core.evidence import Ratio


@dataclass(frozen=True)
class Sprt:
    """Wald's sequential probability ratio test of a failure ratio, p1 against p0 (Wald 1945).

    Attributes:
        ok_step: log likelihood ratio of one device that is well (< 0).
        failure_step: of one that failed (> 0).
        accept: at or below: p0 is accepted.
        reject: at or above: p0 is refused.
    """

    ok_step: float
    failure_step: float
    accept: float
    reject: float

    @classmethod
    def of(cls, p0: float, p1: float, alpha: float, beta: float) -> Sprt:
        """Return the test; bounds are computed and never typed, for some hold by a thousandth."""
        return cls(
            ok_step=math.log((1 - p1) / (1 - p0)),
            failure_step=math.log(p1 / p0),
            accept=math.log(beta / (1 - alpha)),
            reject=math.log((1 - beta) / alpha),
        )

    def ratio(self, ok: int, failures: int, carried: float = 0.0) -> float:
        """Return the log likelihood ratio of ``ok`` and ``failures`` on top of what was ``carried``."""
        return carried + ok * self.ok_step + failures * self.failure_step

    def clamp(self, value: float) -> float:
        """Return ``value``, no better than acceptance: earlier success may not buy later harm."""
        return max(value, self.accept)

    @property
    def clean_devices_to_accept(self) -> int:
        """How many devices without one failure accept p0."""
        return math.ceil(self.accept / self.ok_step)


def wilson(failures: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson interval of a ratio (Wilson 1927); (0, 1) for no observations. For show, never a gate."""
    if n == 0:
        return 0.0, 1.0
    share, zz = failures / n, z * z
    centre = (share + zz / (2 * n)) / (1 + zz / n)
    half = z / (1 + zz / n) * math.sqrt(share * (1 - share) / n + zz / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def proven_below(n: int, confidence: float = 0.95) -> float:
    """Return the failure ratio that ``n`` devices without failure rule out: 1 - (1 - confidence)^(1/n)."""
    return 1.0 if n == 0 else 1.0 - (1.0 - confidence) ** (1.0 / n)


def ratio_and_error(ratio: Ratio, devices: int) -> tuple[float, float]:
    """Return a ratio of sums and its standard error, taking whole devices as the units that vary.

    The linearised variance of a ratio estimator over clusters (Cochran 1977, section 2.11):
    ``m/(m-1) * sum (y_d - r x_d)^2 / x^2``. Infinite with fewer than two devices.
    """
    if ratio.x == 0:
        return 0.0, math.inf
    share = ratio.y / ratio.x
    if devices < 2:
        return share, math.inf
    squares = ratio.yy - 2 * share * ratio.xy + share * share * ratio.xx
    return share, math.sqrt(max(0.0, squares) * devices / (devices - 1)) / ratio.x


def design_effect(classes: Sequence[Ratio], devices: int) -> float:
    """Return how much less a row is worth because rows of one device are alike, >= 1.

    First-order Rao-Scott correction (Rao and Scott 1984): the mean over classes, weighted by 1 - p, of the clustered
    variance over the variance independent rows would have.
    """
    rows = max((ratio.x for ratio in classes), default=0)
    weighted = weights = 0.0
    for ratio in classes:
        share, error = ratio_and_error(ratio, devices)
        if 0 < share < 1 and math.isfinite(error):
            weighted += (1 - share) * error * error * rows / (share * (1 - share))
            weights += 1 - share
    return max(1.0, weighted / weights) if weights else 1.0


@dataclass(frozen=True)
class Difference:
    """How far two arms' class counts lie apart.

    Attributes:
        effect: population stability index, less what noise alone would show.
        p_value: of the corrected G statistic, by an F distribution over devices.
        g: the G statistic as if rows were independent.
        design_effect: what it was divided by.
        classes: classes seen in either arm.
    """

    effect: float
    p_value: float
    g: float
    design_effect: float
    classes: int


def compare_classes(
    canary: Sequence[Ratio], canary_devices: int, control: Sequence[Ratio], control_devices: int
) -> Difference:
    """Compare class counts of two arms, counting devices rather than rows.

    G and the bias-corrected index are those of the drift rule (design: drift and health, steps 2 and 3), each row
    divided by its arm's design effect; the reference is F(K-1, (K-1)(m-2)) for m devices (Thomas and Rao 1987).
    """
    width = max(len(canary), len(control))
    c = [canary[k].y if k < len(canary) else 0 for k in range(width)]
    b = [control[k].y if k < len(control) else 0 for k in range(width)]
    seen = [(x, y) for x, y in zip(c, b, strict=True) if x + y > 0]
    n, total, bins = sum(c), sum(b), len(seen)
    if n == 0 or total == 0 or bins < 2:
        return Difference(0.0, 1.0, 0.0, 1.0, bins)
    canary_deff, control_deff = design_effect(canary, canary_devices), design_effect(control, control_devices)
    g = effect = 0.0
    for x, y in seen:
        pooled = (x + y) / (n + total)
        g += 2 * sum(count * math.log(count / (m * pooled)) for count, m in ((x, n), (y, total)) if count)
        q, p = (x + 0.5) / (n + bins / 2), (y + 0.5) / (total + bins / 2)
        effect += (q - p) * math.log(q / p)
    effect -= (bins - 1) * (canary_deff / n + control_deff / total)
    # The smaller arm dominates the variance of a difference, so its design effect weighs by the other arm's rows.
    deff = (canary_deff * total + control_deff * n) / (n + total)
    freedom = bins - 1
    p_value = f_tail(g / deff / freedom, freedom, freedom * max(1, canary_devices + control_devices - 2))
    return Difference(effect, p_value, g, deff, bins)


def f_tail(value: float, d1: float, d2: float) -> float:
    """Return P(F >= value) for an F distribution with ``d1`` and ``d2`` degrees of freedom."""
    if value <= 0:
        return 1.0
    return incomplete_beta(d2 / 2, d1 / 2, d2 / (d2 + d1 * value))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    # Lentz's method; terms alternate between the two kinds of coefficient.
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    fraction = d
    for m in range(1, 400):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            fraction *= d * c
        if abs(d * c - 1.0) < 1e-14:
            break
    return front * fraction / a


def histogram_quantile(offset: int, counts: Sequence[int], quantile: float, scale: int) -> float:
    """Return the upper edge of the base-2 exponential bucket holding ``quantile``; 0 for an empty histogram."""
    target = quantile * sum(counts)
    if target <= 0:
        return 0.0
    running = 0
    for index, count in enumerate(counts, start=offset):
        running += count
        if running >= target:
            return float(2.0 ** ((index + 1) / (1 << scale)))
    return float(2.0 ** ((offset + len(counts)) / (1 << scale)))
