"""The form of baselines and windows: what a bundle signs, what a device sends, what a roll-up stores.

Integers only where anything is merged, so that merging is exact in any order. Leaves filling to ``update``,
addition to ``merge`` and judgement to the control plane's drift core.

Layout of a numeric column's ``counts`` (``NUMERIC_SLOTS`` integers): 20 quantile bins, then ``under``, then
``over``. ``missing`` (NaN or None) and ``inf`` are separate counters. A categorical column has one slot for each of
the baseline's categories (at most 63) and a last one for every other value.
"""

from __future__ import annotations

from typing import Literal

import msgspec

BINS = 20
UNDER, OVER = BINS, BINS + 1
NUMERIC_SLOTS = BINS + 2
MAX_CATEGORIES = 63
QUANT_SCALE = 1 << 10
"""``q = round(clip((x - mu0) / sd0, -64, 64) * QUANT_SCALE)``: moments as integers merge exactly."""
QUANT_CLIP = 64.0
LATENCY_SCALE = 5
"""Base-2 exponential buckets, 2**5 a doubling: bucket i holds (2**(i/32), 2**((i+1)/32)] us, error <= 1.09 %."""

ColumnKind = Literal["numeric", "categorical"]
ColumnSource = Literal["input", "output", "joint"]


class ColumnBaseline(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reference distribution of one column.

    Attributes:
        name: the feature's name, as alerts will show it (``sharpness``, ``confidence``, ``predicted_class``).
        source: whether the column describes inputs, outputs or a joint statistic.
        kind: numeric (binned by ``edges``) or categorical (slots by ``categories``).
        edges: numeric only: 21 ascending edges of the 20 bins; bin i is [edges[i], edges[i+1]), the last closed.
        low: numeric only: below this a value counts as ``under`` (train min - 5 % of the range).
        high: numeric only: above this a value counts as ``over`` (train max + 5 % of the range).
        categories: categorical only: the values, in slot order.
        counts: baseline counts in slot order.
        missing: baseline rows without a value.
        n: baseline rows, missing included.
        mu0: mean used to quantise moments.
        sd0: standard deviation used to quantise moments (> 0).
        floor: tau of the decision rule, learned from the time-ordered baseline (>= 0.10).
        floor_provisional: the baseline looked shuffled or was too short to learn a floor from.
        importance: share of the model's attention on this feature, 0..1; 0 = unknown.
    """

    name: str
    source: ColumnSource
    kind: ColumnKind
    counts: list[int]
    n: int
    missing: int = 0
    edges: list[float] = []
    low: float = 0.0
    high: float = 0.0
    categories: list[str] = []
    mu0: float = 0.0
    sd0: float = 1.0
    floor: float = 0.10
    floor_provisional: bool = False
    importance: float = 0.0


class Baseline(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model's reference, signed inside its bundle; ``baseline_id`` is the sha256 of the file holding it.

    Attributes:
        format_version: 1.
        model: ``team/model``.
        version: the release it was built for.
        columns: at most 512, in a fixed order.
        rows: number of baseline rows.
        privacy: reserved: per-field allow-list (``raw|bin|hmac|drop``), default ``bin``.
        sampling: reserved: sampling policy of raw examples.
    """

    model: str
    version: str
    columns: list[ColumnBaseline]
    rows: int
    format_version: int = msgspec.field(default_factory=lambda: 1)
    privacy: dict[str, str] = {}
    sampling: dict[str, int] = {}


class ColumnCounts(msgspec.Struct, omit_defaults=True):
    """One column of one window; every field adds.

    Attributes:
        counts: slots of the column's baseline, in its order.
        n: values seen, missing and inf included.
        missing: NaN or None.
        inf: infinite values.
        type_errors: values of a type the column cannot hold.
        sum_q: sum of quantised values (see ``QUANT_SCALE``).
        sumsq_q: sum of squares of quantised values.
        min: smallest finite value seen, None before the first.
        max: largest finite value seen, None before the first.
    """

    counts: list[int]
    n: int = 0
    missing: int = 0
    inf: int = 0
    type_errors: int = 0
    sum_q: int = 0
    sumsq_q: int = 0
    min: float | None = None
    max: float | None = None


class LatencyHistogram(msgspec.Struct, omit_defaults=True):
    """Base-2 exponential buckets of latency in microseconds, the index used by OTLP at ``scale`` 5.

    Attributes:
        offset: index of the first bucket in ``counts``.
        counts: consecutive buckets from ``offset``.
        n: number of observations.
        sum_us: sum of latencies, whole microseconds.
    """

    offset: int = 0
    counts: list[int] = []
    n: int = 0
    sum_us: int = 0


class Window(msgspec.Struct, omit_defaults=True):
    """What one model on one device saw from ``start_ms`` to ``end_ms``: the body of ``up/tel``.

    Attributes:
        model: ``team/model``.
        bundle_sha256: the active bundle while the window was filled.
        version: its version, for people.
        variant: id of the variant that ran.
        baseline_id: sha256 of the baseline the columns are aligned to; windows of another id are stored, never merged.
        start_ms: device's wall clock, UTC epoch ms.
        end_ms: the same at the window's end.
        ok: requests answered.
        errors: requests that failed, by reason (``timeout``, ``crash``, ``nonfinite``, ``runtime``).
        rejects: requests refused by the contract, by code; never counted as errors of the model.
        classes: predicted class counts, in the contract's label order; empty for other tasks.
        latency: end-to-end model latency.
        columns: by column name.
        labels_ok: reserved: labelled predictions that were right.
        labels_n: reserved: labelled predictions.
        stage: ``run`` or ``shadow``.
    """

    model: str
    bundle_sha256: str
    version: str
    variant: str
    baseline_id: str
    start_ms: int
    end_ms: int
    ok: int = 0
    errors: dict[str, int] = {}
    rejects: dict[str, int] = {}
    classes: list[int] = []
    latency: LatencyHistogram = msgspec.field(default_factory=LatencyHistogram)
    columns: dict[str, ColumnCounts] = {}
    labels_ok: int = 0
    labels_n: int = 0
    stage: str = "run"
