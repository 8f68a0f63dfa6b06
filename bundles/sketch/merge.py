"""Merging of windows: exact addition, in any order, of any number of devices.

``merge_*`` are associative and commutative, and change neither argument. Windows of another model, baseline or stage
are refused: their columns are aligned to other bins, so a sum would look right and be wrong. ``check_window`` is for
whoever takes windows from strangers.
"""

from __future__ import annotations

from collections.abc import Mapping

from bundles.errors import MessageRefused
from bundles.sketch.form import (
    NUMERIC_SLOTS,
    QUANT_CLIP,
    QUANT_SCALE,
    Baseline,
    ColumnCounts,
    LatencyHistogram,
    Window,
)

LOWEST_BUCKET, HIGHEST_BUCKET = -319, 1015
"""Latency buckets of 1 ns and of one hour: what ``latency.bucket_index`` keeps to."""
MOST_IN_A_WINDOW = 1 << 26
"""67 million requests: a thousand a second for most of a day."""
_DISAGREE = "The device's agent and its bundle disagree; look at the agent's version."


def merge_columns(a: ColumnCounts, b: ColumnCounts) -> ColumnCounts:
    """Return the counts of both.

    Raises:
        MessageRefused: ``WINDOW_SHAPE``: the two have different numbers of slots.
    """
    if len(a.counts) != len(b.counts):
        raise MessageRefused(
            f"A column with {len(a.counts)} slots cannot be merged with one of {len(b.counts)}.", code="WINDOW_SHAPE"
        )
    return ColumnCounts(
        counts=[x + y for x, y in zip(a.counts, b.counts, strict=True)],
        n=a.n + b.n,
        missing=a.missing + b.missing,
        inf=a.inf + b.inf,
        type_errors=a.type_errors + b.type_errors,
        sum_q=a.sum_q + b.sum_q,
        sumsq_q=a.sumsq_q + b.sumsq_q,
        min=a.min if b.min is None else b.min if a.min is None else min(a.min, b.min),
        max=a.max if b.max is None else b.max if a.max is None else max(a.max, b.max),
    )


def merge_column_maps(a: Mapping[str, ColumnCounts], b: Mapping[str, ColumnCounts]) -> dict[str, ColumnCounts]:
    """Return the columns of both by name, in name order; a column only one of them has is kept as it is."""
    merged: dict[str, ColumnCounts] = {}
    for name in sorted(a.keys() | b.keys()):
        x, y = a.get(name), b.get(name)
        if x is None or y is None:
            only = x or y
            assert only is not None
            merged[name] = only
        else:
            merged[name] = merge_columns(x, y)
    return merged


def merge_latency(a: LatencyHistogram, b: LatencyHistogram) -> LatencyHistogram:
    """Return the latencies of both, without empty buckets at either end.

    Buckets no latency can fall into are added to the nearest that one can, so that two far apart, from a faulty or
    hostile device, cannot make a run of counts as long as a disk.
    """
    buckets: dict[int, int] = {}
    for histogram in (a, b):
        for at, count in enumerate(histogram.counts, histogram.offset):
            if count:
                index = min(max(at, LOWEST_BUCKET), HIGHEST_BUCKET)
                buckets[index] = buckets.get(index, 0) + count
    return pack_buckets(buckets, n=a.n + b.n, sum_us=a.sum_us + b.sum_us)


def pack_buckets(buckets: Mapping[int, int], *, n: int, sum_us: int) -> LatencyHistogram:
    """Return the histogram holding ``buckets`` (index -> count above zero) as one run of counts."""
    if not buckets:
        return LatencyHistogram(n=n, sum_us=sum_us)
    first, last = min(buckets), max(buckets)
    counts = [buckets.get(index, 0) for index in range(first, last + 1)]
    return LatencyHistogram(offset=first, counts=counts, n=n, sum_us=sum_us)


def merge_windows(a: Window, b: Window) -> Window:
    """Return one window that saw what both saw.

    ``bundle_sha256``, ``version`` and ``variant`` are kept where equal and empty otherwise: two variants of a bundle
    share its baseline.

    Raises:
        MessageRefused: ``WINDOW_BASELINE`` (another model, baseline or stage) or ``WINDOW_SHAPE``.
    """
    for what in ("model", "baseline_id", "stage"):
        if getattr(a, what) != getattr(b, what):
            raise MessageRefused(
                f"Windows of {what} {getattr(a, what)!r} and {getattr(b, what)!r} cannot be merged.",
                code="WINDOW_BASELINE",
                remedy="Store them side by side; only windows of one baseline add up.",
            )
    return Window(
        model=a.model,
        bundle_sha256=_common(a.bundle_sha256, b.bundle_sha256),
        version=_common(a.version, b.version),
        variant=_common(a.variant, b.variant),
        baseline_id=a.baseline_id,
        start_ms=min(a.start_ms, b.start_ms),
        end_ms=max(a.end_ms, b.end_ms),
        ok=a.ok + b.ok,
        errors=_add_maps(a.errors, b.errors),
        rejects=_add_maps(a.rejects, b.rejects),
        classes=_add_classes(a.classes, b.classes),
        latency=merge_latency(a.latency, b.latency),
        columns=merge_column_maps(a.columns, b.columns),
        labels_ok=a.labels_ok + b.labels_ok,
        labels_n=a.labels_n + b.labels_n,
        stage=a.stage,
    )


def check_window(window: Window, baseline: Baseline | None) -> None:
    """Check that ``window`` can have been counted, and that its columns fit the baseline it names.

    Columns the baseline does not know are refused: nothing could read them. So are counts no window holds, because
    one such would drown the honest ones it is added to.

    Args:
        window: from a stranger.
        baseline: the one ``window.baseline_id`` names; None = unknown, then columns are checked for sense alone.

    Raises:
        MessageRefused: ``WINDOW_SHAPE`` or ``WINDOW_COUNTS``; ``details`` names the column.
    """
    latency = window.latency
    tallies = (window.ok, *window.errors.values(), *window.rejects.values(), *window.classes, *latency.counts)
    if not _countable(tallies) or sum(latency.counts) != latency.n or window.start_ms > window.end_ms:
        raise MessageRefused("The window's tallies do not add up.", code="WINDOW_COUNTS", remedy=_DISAGREE)
    slots: dict[str, int] | None = None
    if baseline is not None:
        slots = {c.name: NUMERIC_SLOTS if c.kind == "numeric" else len(c.categories) + 1 for c in baseline.columns}
    for name, column in window.columns.items():
        if slots is not None and len(column.counts) != slots.get(name):
            raise MessageRefused(
                f"Column {name!r} of the window does not fit the baseline it names.",
                code="WINDOW_SHAPE",
                remedy=_DISAGREE,
                details={"column": name},
            )
        numbers = (*column.counts, column.missing, column.inf, column.type_errors)
        quantised_most = QUANT_SCALE * int(QUANT_CLIP)
        if (
            not _countable(numbers)
            or sum(numbers) != column.n
            or abs(column.sum_q) > column.n * quantised_most
            or not 0 <= column.sumsq_q <= column.n * quantised_most**2
        ):
            raise MessageRefused(
                f"The counts of column {name!r} do not add up.",
                code="WINDOW_COUNTS",
                remedy=_DISAGREE,
                details={"column": name},
            )


def _countable(numbers: tuple[int, ...]) -> bool:
    return not numbers or (min(numbers) >= 0 and max(numbers) <= MOST_IN_A_WINDOW)


def _common(a: str, b: str) -> str:
    return a if a == b else ""


def _add_maps(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in sorted(a.keys() | b.keys())}


def _add_classes(a: list[int], b: list[int]) -> list[int]:
    if not a or not b:
        return list(a or b)
    if len(a) != len(b):
        raise MessageRefused(f"Class counts of {len(a)} and {len(b)} labels cannot be merged.", code="WINDOW_SHAPE")
    return [x + y for x, y in zip(a, b, strict=True)]
