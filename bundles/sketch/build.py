"""Making a baseline from rows in time order: edges, guards, moments, and the floor of the decision rule.

Runs where bundles are built, never on a device; needs numpy. The counts come from the same binning code that fills
windows. ``encode_baseline``, ``parse_baseline`` and ``baseline_id`` are offered here too, for whoever builds.
Leaves deriving columns to ``columns``.

The floor (tau) says how far a column moves by itself: step 4 of the rule in 06-drift-and-health.md. It can only be
learned from rows in the order they happened; where they look shuffled, or are few, it is marked provisional.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from bundles.errors import BundleRefused
from bundles.sketch.baseline import MAX_COLUMNS, baseline_id, encode_baseline, parse_baseline
from bundles.sketch.distance import baseline_slots, compare, window_slots
from bundles.sketch.form import (
    BINS,
    MAX_CATEGORIES,
    NUMERIC_SLOTS,
    Baseline,
    ColumnBaseline,
    ColumnCounts,
    ColumnSource,
)
from bundles.sketch.merge import merge_columns
from bundles.sketch.update import UNREADABLE, WindowBuilder, WindowPlan, as_category

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["baseline_id", "build_baseline", "encode_baseline", "parse_baseline", "provisional_reason"]

DECISION_BINS = BINS // 2
GUARD_RATIO = 0.05
FLOOR_LEAST = 0.10
FLOOR_MARGIN = 1.5
BLOCKS_LEAST = 8
BLOCKS_MOST = 32
ROWS_A_BLOCK = 1000
"""More blocks than eight only where each still holds this many rows: their noise stays far under the least floor."""
ROWS_TO_TRUST = 1600
"""Eight blocks of the 200 rows a window is judged on; with fewer rows a floor is provisional."""
ROWS_TO_LEARN = 400
"""With fewer rows the blocks' noise alone would set the floor, so none is learned."""
SHUFFLED_Z = 4.0
"""Lag-1 autocorrelation of shuffled rows is about normal with sd 1/sqrt(n); 4 sd is 6 chances in 100,000 a column."""
SAME_VALUE_RATIO = 1e-9
"""A range this small against its values is rounding, and the column constant."""


def build_baseline(
    model: str,
    version: str,
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    *,
    sources: Mapping[str, ColumnSource],
    categories: Mapping[str, Sequence[str]] | None = None,
    importance: Mapping[str, float] | None = None,
) -> Baseline:
    """Return the baseline of ``columns``.

    Columns of different sources may come from different rows, and often should: a model is surer of the rows it was
    trained on than of any it will meet, so output columns belong to rows it has not seen.

    Args:
        model: ``team/model``.
        version: the release it is for.
        columns: name -> 1-D values in time order, of one length within each source. NaN, None and infinities are
            missing values.
        sources: name -> where the column comes from; ``input`` where not named.
        categories: name -> its categories in slot order. Columns of text that are not named here take their 63 most
            frequent values.
        importance: name -> share of the model's attention on it, 0..1.

    Raises:
        BundleRefused: ``BASELINE_ROWS`` (no rows, or lengths differ) or ``BASELINE_FIELD`` (a column that cannot be
            described: too many, no usable value, more than 63 categories).
    """
    categories, importance = categories or {}, importance or {}
    if not columns:
        _refuse("BASELINE_ROWS", "A baseline needs at least one column.")
    if len(columns) > MAX_COLUMNS:
        _refuse("BASELINE_FIELD", f"A baseline has at most {MAX_COLUMNS} columns; these are {len(columns)}.")
    empty: dict[str, ColumnBaseline] = {}
    cleaned: dict[str, Any] = {}
    for name, values in columns.items():
        source, weight = sources.get(name, "input"), importance.get(name, 0.0)
        empty[name], cleaned[name] = _describe(name, source, weight, values, categories.get(name))
    filled: dict[str, ColumnBaseline] = {}
    for source in sorted({column.source for column in empty.values()}):
        group = [column for column in empty.values() if column.source == source]
        lengths = {len(cleaned[column.name]) for column in group}
        if len(lengths) > 1:
            _refuse("BASELINE_ROWS", f"The {source} columns of the baseline have the lengths {sorted(lengths)}.")
        filled |= _fill_group(group, cleaned, lengths.pop())
    return Baseline(
        model=model,
        version=version,
        columns=[filled[name] for name in columns],
        rows=max(column.n for column in filled.values()),
    )


def provisional_reason(baseline: Baseline) -> str:
    """Return why floors of ``baseline`` are provisional, as a sentence for the builder; empty = none is."""
    provisional = [column for column in baseline.columns if column.floor_provisional]
    if not provisional:
        return ""
    names, rows = ", ".join(column.name for column in provisional), min(column.n for column in provisional)
    if rows < ROWS_TO_TRUST:
        return f"The drift floors of {names} are provisional: {rows} rows are fewer than {ROWS_TO_TRUST}."
    return f"The drift floors of {names} are provisional: the rows look shuffled, and floors need them in time order."


def _describe(
    name: str, source: ColumnSource, weight: float, values: Any, categories: Sequence[str] | None
) -> tuple[ColumnBaseline, Any]:
    """Return a column without counts, and its values as they are binned: float64, or categories."""
    import numpy as np

    array = np.asarray(values)
    if not len(array):
        _refuse("BASELINE_ROWS", f"Column {name!r} of the baseline has no rows.")
    if categories is not None or _holds_text(array):
        named = [as_category(value) for value in array.tolist()]
        return _categorical(name, source, weight, named, categories), named
    try:
        floats = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        _refuse("BASELINE_FIELD", f"Column {name!r} of the baseline holds values that are no numbers: {error}.")
    floats = np.where(np.isfinite(floats), floats, np.nan)
    return _numeric(name, source, weight, floats), floats


def _fill_group(group: list[ColumnBaseline], cleaned: Mapping[str, Any], rows: int) -> dict[str, ColumnBaseline]:
    """Return the columns of one source with counts and floors."""
    blocks = _count_blocks(group, cleaned, rows)
    shuffled = not any(_keeps_order(column, cleaned[column.name]) for column in group)
    provisional = shuffled or rows < ROWS_TO_TRUST
    return {column.name: _fill(column, [block[column.name] for block in blocks], provisional) for column in group}


def _numeric(name: str, source: ColumnSource, weight: float, values: NDArray[Any]) -> ColumnBaseline:
    """Return a numeric column without counts. ``values``: float64 with NaN for missing."""
    import numpy as np

    distinct, repeats = np.unique(values[~np.isnan(values)], return_counts=True)
    if not len(distinct):
        _refuse("BASELINE_FIELD", f"Column {name!r} of the baseline has no usable value.")
    lowest, highest = float(distinct[0]), float(distinct[-1])
    scale = max(abs(lowest), abs(highest))
    if not scale < 1e300:
        _refuse("BASELINE_FIELD", f"Column {name!r} holds values of {scale:g}, which no bins can be laid over.")
    span = highest - lowest
    mean = float(np.average(distinct, weights=repeats))
    if span <= SAME_VALUE_RATIO * scale:
        # Constant: everything between the guards is the one value, and the guards forgive rounding.
        slack = max(1e-6 * scale, 1e-12)
        low, high = lowest - slack, highest + slack
        inner, deviation = [low] * (BINS - 1), scale or 1.0
    else:
        low, high = lowest - GUARD_RATIO * span, highest + GUARD_RATIO * span
        inner = _inner_edges(distinct, repeats)
        # In units of the span, so that squares of very large or small values neither overflow nor vanish.
        deviation = span * float(np.sqrt(np.average(((distinct - mean) / span) ** 2, weights=repeats))) or span
    edges = [max(low, min(lowest, inner[0])), *inner, highest]
    return ColumnBaseline(
        name=name,
        source=source,
        kind="numeric",
        counts=[0] * NUMERIC_SLOTS,
        n=0,
        edges=edges,
        low=low,
        high=high,
        mu0=mean,
        sd0=deviation,
        importance=weight,
    )


def _inner_edges(distinct: NDArray[Any], repeats: NDArray[Any]) -> list[float]:
    """Return the 19 edges between 20 bins; each lies between two neighbouring distinct values, equal ones allowed.

    Up to ten distinct values get a *pair* of bins each (the second stays empty), because decisions are taken on bins
    summed in pairs. More values are cut at the boundary nearest to each twentieth of the rows.
    """
    import numpy as np

    cuts = (distinct[:-1] + distinct[1:]) / 2
    cuts = np.where(cuts > distinct[:-1], cuts, distinct[1:])  # the middle of adjacent floats may round down
    if len(distinct) <= DECISION_BINS:
        doubled = np.repeat(cuts, 2).tolist()
        # Bin 2i holds value i, which needs two edges a cut; what is left repeats the last cut, so the last value
        # lands in the last bin.
        return [*doubled, *[doubled[-1]] * (BINS - 1 - len(doubled))]
    below = np.cumsum(repeats)[:-1]
    wanted = np.arange(1, BINS) * (repeats.sum() / BINS)
    right = np.clip(np.searchsorted(below, wanted), 0, len(below) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(wanted - below[left] < below[right] - wanted, left, right)
    edges: list[float] = cuts[nearest].tolist()
    return edges


def _categorical(
    name: str, source: ColumnSource, weight: float, values: list[str | None], given: Sequence[str] | None
) -> ColumnBaseline:
    """Return a categorical column without counts."""
    if UNREADABLE in values:
        _refuse("BASELINE_FIELD", f"Column {name!r} of the baseline holds values that name no category.")
    if given is None:
        seen = Counter(value for value in values if value is not None)
        given = sorted(seen, key=lambda value: (-seen[value], value))[:MAX_CATEGORIES]
    if not 1 <= len(given) <= MAX_CATEGORIES or len(set(given)) != len(given):
        _refuse(
            "BASELINE_FIELD", f"Column {name!r} needs 1 to {MAX_CATEGORIES} different categories; it has {len(given)}."
        )
    return ColumnBaseline(
        name=name,
        source=source,
        kind="categorical",
        counts=[0] * (len(given) + 1),
        n=0,
        categories=list(given),
        importance=weight,
    )


def _count_blocks(group: list[ColumnBaseline], cleaned: Mapping[str, Any], rows: int) -> list[dict[str, ColumnCounts]]:
    """Count the rows in consecutive blocks of equal length (to one row), at least 8 where there are as many rows."""
    count = min(max(BLOCKS_LEAST, rows // ROWS_A_BLOCK), BLOCKS_MOST, rows)
    plan = WindowPlan(Baseline(model="", version="", columns=group, rows=rows), use_numpy=True)
    blocks = []
    for index in range(count):
        first, last = index * rows // count, (index + 1) * rows // count
        builder = WindowBuilder(plan)
        builder.observe_batch({column.name: cleaned[column.name][first:last] for column in group})
        blocks.append(builder.flush())
    return blocks


def _fill(column: ColumnBaseline, blocks: list[ColumnCounts], provisional: bool) -> ColumnBaseline:
    """Return ``column`` with its counts and its floor."""
    total = blocks[0]
    for block in blocks[1:]:
        total = merge_columns(total, block)
    whole = msgspec.structs.replace(column, counts=total.counts, missing=total.missing, n=total.n)
    floor = FLOOR_LEAST
    if total.n >= ROWS_TO_LEARN:
        all_slots = baseline_slots(whole)
        for block in blocks:
            slots = window_slots(block, column.kind)
            rest = [a - b for a, b in zip(all_slots, slots, strict=True)]
            floor = max(floor, FLOOR_MARGIN * compare(rest, slots).eff)
    return msgspec.structs.replace(whole, floor=floor, floor_provisional=provisional)


def _holds_text(array: NDArray[Any]) -> bool:
    """Whether any value is text; an object array of numbers and None is numeric."""
    return array.dtype.kind == "U" or (array.dtype.kind == "O" and any(isinstance(v, str) for v in array.tolist()))


def _keeps_order(column: ColumnBaseline, values: Any) -> bool:
    """Whether neighbouring rows are more alike (or less) than shuffled ones would be, by lag-1 autocorrelation."""
    import numpy as np

    if column.kind == "categorical":
        slots = {category: slot for slot, category in enumerate(column.categories)}
        ranks = np.array([slots.get(value, -1) for value in values if value is not None], dtype=np.float64)
    else:
        # Ranks, because one outlier would decide the correlation of raw values.
        ranks = np.searchsorted(column.edges[1:BINS], values[~np.isnan(values)], side="right").astype(np.float64)
    centred = ranks - ranks.mean() if len(ranks) else ranks
    power = float(centred @ centred)
    if not power:
        return False
    return abs(float(centred[:-1] @ centred[1:])) / power > SHUFFLED_Z / math.sqrt(len(ranks))


def _refuse(code: str, sentence: str) -> NoReturn:
    raise BundleRefused(sentence, code=code, remedy="Mend the rows the baseline is built from and build again.")
