"""The drift decision: has a column of this model, in this cohort, moved away from its signed baseline?

Steps 1 to 5 of the rule in 06-drift-and-health.md, pure: state and a window in, state and a verdict out. Merged
windows are gathered until a column holds 200 values; then bias-corrected PSI against the column's learned floor, a
G-test under Benjamini-Hochberg across columns, and a CUSUM that needs either one strong window or several weak ones.
Leaves the statistics to ``bundles.sketch.distance``, telling people to ``alerts``, and merging to the roll-ups.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bundles.sketch.distance import (
    Distance,
    baseline_slots,
    benjamini_hochberg,
    compare,
    moments,
    window_slots,
)
from bundles.sketch.form import BINS, Baseline, ColumnBaseline, ColumnCounts, ColumnSource, Window
from bundles.sketch.merge import merge_columns
from control_plane.core.alerts import Finding

N_MIN = 200
FALSE_DISCOVERY_RATE = 0.01
FLOOR_LEAST = 0.10
STEP_LOW, STEP_HIGH = -1.0, 2.0
S_MOST = 3.0
S_ALARM = 1.0


class MergedWindow(msgspec.Struct, frozen=True):
    """What a cohort saw of one model in one bucket of time.

    Attributes:
        baseline_id: the baseline the columns are aligned to.
        columns: by name.
        start_ms: start of the bucket, UTC epoch ms.
        end_ms: its end; buckets are judged in this order.
    """

    baseline_id: str
    columns: dict[str, ColumnCounts]
    start_ms: int
    end_ms: int

    @classmethod
    def of(cls, window: Window, start_ms: int, end_ms: int) -> MergedWindow:
        """Return the columns of a merged ``window`` as the bucket from ``start_ms`` to ``end_ms``."""
        return cls(window.baseline_id, window.columns, start_ms, end_ms)


class ColumnState(msgspec.Struct, frozen=True):
    """What is remembered of one column.

    Attributes:
        pending: counts gathered since the column was last judged; None = none.
        pending_from_ms: start of the first window gathered.
        s: the CUSUM, 0..3.
        is_alarming: whether it has reached 1 since it was last 0.
    """

    pending: ColumnCounts | None = None
    pending_from_ms: int = 0
    s: float = 0.0
    is_alarming: bool = False


class DriftState(msgspec.Struct, frozen=True):
    """What is remembered of one model and baseline in one cohort; begin with ``DriftState(baseline_id)``.

    Attributes:
        baseline_id: the baseline judged against.
        through_ms: end of the newest window taken in.
        columns: by name.
    """

    baseline_id: str
    through_ms: int = -1
    columns: dict[str, ColumnState] = {}


class ColumnVerdict(msgspec.Struct, frozen=True):
    """What was found about one column.

    Attributes:
        name: the feature.
        source: whether it describes inputs, outputs or a joint statistic.
        n: values judged, missing ones included.
        eff: bias-corrected PSI.
        g: G statistic.
        p: its chance when nothing has moved.
        is_significant: whether p passes Benjamini-Hochberg across the columns judged together.
        floor: tau; what ``eff`` is held against.
        s: the CUSUM after this window.
        is_alarming: whether the column is in alarm after this window.
        size: how large the movement is, for ranking columns; see ``_size``.
        movement: what moved, in words (``mean 3.1 -> 1.2 (baseline sd 0.4)``).
    """

    name: str
    source: ColumnSource
    n: int
    eff: float
    g: float
    p: float
    is_significant: bool
    floor: float
    s: float
    is_alarming: bool
    size: float
    movement: str


class Verdict(msgspec.Struct, frozen=True):
    """What one step found.

    Attributes:
        is_evaluated: False while windows are still gathered, and for a window seen before.
        columns: the columns judged: alarming before others, among them inputs before outputs (a moved input explains
            a moved output, never the other way round), then by ``size``. The first is the one to name.
        from_ms: start of what was judged.
        through_ms: end of what was judged.
    """

    is_evaluated: bool
    columns: tuple[ColumnVerdict, ...] = ()
    from_ms: int = 0
    through_ms: int = 0


def step(state: DriftState, window: MergedWindow, baseline: Baseline) -> tuple[DriftState, Verdict]:
    """Take in one merged window.

    Windows must come in the order of ``end_ms``; one that is not newer than the last changes nothing, so a repeated
    call is harmless. A column with too few values keeps gathering and keeps its CUSUM.

    Args:
        state: from the last step.
        window: of the same baseline.
        baseline: the one ``baseline_id`` names.

    Raises:
        ValueError: state and window name different baselines.
        MessageRefused: ``WINDOW_SHAPE``: a column does not fit what was gathered before.
    """
    if state.baseline_id != window.baseline_id:
        raise ValueError(f"state of baseline {state.baseline_id!r} was given a window of {window.baseline_id!r}")
    if window.end_ms <= state.through_ms:
        return state, Verdict(is_evaluated=False)
    columns = _gather(state.columns, window)
    ready = [
        (column, columns[column.name])
        for column in baseline.columns
        if column.n and column.name in columns and _values(columns[column.name]) >= N_MIN
    ]
    judged = [(column, held, _compare(column, held)) for column, held in ready]
    rejected = benjamini_hochberg([distance.p for _, _, distance in judged], FALSE_DISCOVERY_RATE)
    verdicts = []
    for (column, held, distance), is_significant in zip(judged, rejected, strict=True):
        verdict = _judge(column, held, distance, is_significant)
        verdicts.append(verdict)
        columns[column.name] = ColumnState(s=verdict.s, is_alarming=verdict.is_alarming)
    verdicts.sort(key=lambda v: (not v.is_alarming, v.source == "output", -v.size, v.name))
    return (
        DriftState(state.baseline_id, window.end_ms, columns),
        Verdict(
            is_evaluated=bool(verdicts),
            columns=tuple(verdicts),
            from_ms=min((held.pending_from_ms for _, held, _ in judged), default=window.start_ms),
            through_ms=window.end_ms,
        ),
    )


def explain(verdict: ColumnVerdict) -> str:
    """Return one sentence naming the feature, what was measured, what it was held against and what moved.

    For example: ``sharpness moved: eff 1.92 against a floor of 0.10; mean 3.1 -> 1.2 (baseline sd 0.4)``.
    """
    if verdict.is_alarming:
        what = "moved"
    elif verdict.is_significant and verdict.eff >= verdict.floor:
        what = "is moving"
    else:
        what = "is steady"
    return f"{verdict.name} {what}: eff {verdict.eff:.2f} against a floor of {verdict.floor:.2f}; {verdict.movement}"


def findings(verdict: Verdict, *, model: str, version: str, cohort: str) -> tuple[Finding, ...]:
    """Return what a verdict tells the alerts: one finding a judged column, none where nothing was judged."""
    return tuple(
        Finding(
            labels={"alert": "drift", "model": model, "version": version, "cohort": cohort, "feature": column.name},
            is_firing=column.is_alarming,
            severity="warning",
            value=column.eff,
            sentence=explain(column),
            window_end_ms=verdict.through_ms,
        )
        for column in verdict.columns
    )


def _gather(columns: Mapping[str, ColumnState], window: MergedWindow) -> dict[str, ColumnState]:
    gathered = dict(columns)
    for name, new in window.columns.items():
        held = gathered.get(name, ColumnState())
        if held.pending is None:
            gathered[name] = msgspec.structs.replace(held, pending=new, pending_from_ms=window.start_ms)
        else:
            gathered[name] = msgspec.structs.replace(held, pending=merge_columns(held.pending, new))
    return gathered


def _values(held: ColumnState) -> int:
    counts = held.pending
    return sum(counts.counts) + counts.missing + counts.inf + counts.type_errors if counts is not None else 0


def _compare(column: ColumnBaseline, held: ColumnState) -> Distance:
    assert held.pending is not None
    return compare(baseline_slots(column), window_slots(held.pending, column.kind))


def _judge(column: ColumnBaseline, held: ColumnState, distance: Distance, is_significant: bool) -> ColumnVerdict:
    assert held.pending is not None
    floor = max(FLOOR_LEAST, column.floor)
    push = min(max(distance.eff / floor - 1.0, STEP_LOW), STEP_HIGH) if is_significant else STEP_LOW
    s = min(max(held.s + push, 0.0), S_MOST)
    return ColumnVerdict(
        name=column.name,
        source=column.source,
        n=distance.n,
        eff=distance.eff,
        g=distance.g,
        p=distance.p,
        is_significant=is_significant,
        floor=floor,
        s=s,
        # Between 0 and 1 an alarm stays as it was: raised at 1, cleared at 0.
        is_alarming=s >= S_ALARM or (held.is_alarming and s > 0.0),
        size=_size(column, held.pending, distance.eff),
        movement=_movement(column, held.pending),
    )


def _size(column: ColumnBaseline, counts: ColumnCounts, eff: float) -> float:
    """Return the larger of eff and z squared, z the shift of the mean in sds of the baseline.

    Bins saturate once all values have left the baseline's range, and then cannot say which column went furthest. The
    two are of one scale: PSI is a J-divergence, and that of two normals of one variance is z squared.
    """
    found = moments(counts, column)
    return max(eff, ((found[0] - column.mu0) / column.sd0) ** 2) if found is not None else eff


def _movement(column: ColumnBaseline, counts: ColumnCounts) -> str:
    """Say what changed most visibly, for people: the mean or a category's share, then values lost or out of range."""
    parts = []
    if column.kind == "categorical":
        parts.append(_category_movement(column, counts))
    elif (found := moments(counts, column)) is not None:
        parts.append(f"mean {column.mu0:.3g} -> {found[0]:.3g} (baseline sd {column.sd0:.2g}, now {found[1]:.2g})")
    lost = (counts.missing + counts.inf + counts.type_errors) / counts.n
    lost_before = column.missing / column.n
    if abs(lost - lost_before) >= 0.01:
        parts.append(f"values missing {lost_before:.1%} -> {lost:.1%}")
    if column.kind == "numeric":
        outside, outside_before = sum(counts.counts[BINS:]) / counts.n, sum(column.counts[BINS:]) / column.n
        if outside - outside_before >= 0.01:
            parts.append(f"{outside:.1%} outside the range of the baseline")
    return ", ".join(parts)


def _category_movement(column: ColumnBaseline, counts: ColumnCounts) -> str:
    """Name the category whose share changed most."""
    names = [*column.categories, "(any other)"]
    total, total_before = max(sum(counts.counts), 1), max(sum(column.counts), 1)
    shares = [
        (b / total_before, c / total, name) for b, c, name in zip(column.counts, counts.counts, names, strict=True)
    ]
    before, now, name = max(shares, key=lambda share: abs(share[1] - share[0]))
    return f"share of {name!r} {before:.1%} -> {now:.1%}"
