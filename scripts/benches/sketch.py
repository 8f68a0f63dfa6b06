"""What sketches cost: filling a window on a device, merging and judging one on the server.

The limit beside filling is numpy's bare ``searchsorted`` into the same 21 edges: the least anything that bins can cost.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import numpy as np

from benches.measuring.figure import Figure, Plan
from benches.measuring.timing import call_s, medians
from bundles.sketch.baseline import baseline_id, encode_baseline
from bundles.sketch.build import build_baseline
from bundles.sketch.form import Baseline, Window
from bundles.sketch.latency import LatencyRecorder
from bundles.sketch.merge import merge_windows
from bundles.sketch.update import BUFFER_ROWS, WindowBuilder, WindowPlan
from bundles.wire import codec
from bundles.wire.messages import Telemetry
from control_plane.core.drift import DriftState, MergedWindow, step

NAME = "sketch"
FEATURES, DECISION_COLUMNS = 20, 24
VALUE_BAR_NS, ROW_BAR_US, FLUSH_BAR_MS, MERGE_BAR_US, DECISION_BAR_MS = 50.0, 3.0, 2.0, 60.0, 2.0
BASELINE_ROWS, WINDOW_ROWS = 4096, 720
"""A window of an hour at one input in five seconds."""
SEED = 7


def run(plan: Plan) -> Iterator[Figure]:
    """Measure."""
    rounds, calls = plan.repeats(7, 3), plan.repeats(400, 60)
    yield from _fill(rounds, calls)
    yield _rows(rounds, plan.repeats(40, 8))
    yield _flush(plan.repeats(1000, 200))
    yield from _merge(rounds, calls)
    yield _decide(rounds, calls)


def _fill(rounds: int, calls: int) -> Iterator[Figure]:
    rows, baseline = _rows_of(FEATURES, BUFFER_ROWS, SEED + 1), _baseline(FEATURES)
    limit = [(np.asarray(column.edges), rows[column.name]) for column in baseline.columns]
    builder = WindowBuilder(WindowPlan(baseline))
    sides = {
        "own": lambda: call_s(lambda: builder.observe_batch(rows), calls),
        "limit": lambda: call_s(lambda: [edges.searchsorted(values) for edges, values in limit], calls),
    }
    found = medians(sides, rounds)
    own, peer = (found[side] * 1e9 / (FEATURES * BUFFER_ROWS) for side in ("own", "limit"))
    note = f"{FEATURES} features, {BUFFER_ROWS} rows a call"
    yield Figure(NAME, "update_ns_per_value", own, "ns", "numpy searchsorted", peer, VALUE_BAR_NS, n=rounds, note=note)


def _rows(rounds: int, buffers: int) -> Figure:
    rows, builder = _single_rows(), WindowBuilder(WindowPlan(_baseline(FEATURES)))

    def amortised_s() -> float:
        started = time.perf_counter()
        for _ in range(buffers):
            for row in rows:
                builder.observe_row(row)
        return (time.perf_counter() - started) / (buffers * len(rows))

    value = medians({"own": amortised_s}, rounds)["own"] * 1e6
    note = f"{FEATURES} features, one row a call, binning included, no joint statistics"
    return Figure(NAME, "row_us", value, "us", bar=ROW_BAR_US, n=rounds, note=note)


def _flush(times: int) -> Figure:
    rows, builder = _single_rows()[:-1], WindowBuilder(WindowPlan(_baseline(FEATURES)))
    taken = []
    for _ in range(times):
        for row in rows:
            builder.observe_row(row)
        started = time.perf_counter()
        builder.flush()
        taken.append(time.perf_counter() - started)
    p99 = statistics.quantiles(taken, n=100)[98] * 1e3
    note = f"p99 of windows ended with {len(rows)} rows waiting"
    return Figure(NAME, "flush_p99_ms", p99, "ms", bar=FLUSH_BAR_MS, n=times, note=note)


def _merge(rounds: int, calls: int) -> Iterator[Figure]:
    window = _window(_baseline(FEATURES), FEATURES)
    payload = codec.encode(Telemetry("cam-1", "0" * 16, 1, 1, window))

    def take_in() -> None:
        message = codec.decode_up("up/tel", payload)
        assert isinstance(message, Telemetry)
        merge_windows(window, message.window)

    sides = {
        "own": lambda: call_s(take_in, calls),
        "decode": lambda: call_s(lambda: codec.decode_up("up/tel", payload), calls),
    }
    found = {name: seconds * 1e6 for name, seconds in medians(sides, rounds).items()}
    note = f"one report of {FEATURES} features and their latencies, {len(payload)} bytes, decoded and merged"
    yield Figure(
        NAME, "merge_us", found["own"], "us", "decoding alone", found["decode"], MERGE_BAR_US, n=rounds, note=note
    )


def _decide(rounds: int, calls: int) -> Figure:
    baseline = _baseline(DECISION_COLUMNS)
    window = MergedWindow.of(_window(baseline, DECISION_COLUMNS), 1, 2)
    state = DriftState(window.baseline_id)
    _, verdict = step(state, window, baseline)
    assert len(verdict.columns) == DECISION_COLUMNS, "every column must be judged, or there is nothing to time"
    found = medians({"own": lambda: call_s(lambda: step(state, window, baseline), calls)}, rounds)
    note = f"{DECISION_COLUMNS} columns judged"
    return Figure(NAME, "decision_ms", found["own"] * 1e3, "ms", bar=DECISION_BAR_MS, n=rounds, note=note)


def _baseline(columns: int) -> Baseline:
    rows = _rows_of(columns, BASELINE_ROWS, SEED)
    return build_baseline("bench/table", "1.0.0", rows, sources=dict.fromkeys(rows, "input"))


def _window(baseline: Baseline, columns: int) -> Window:
    builder = WindowBuilder(baseline)
    builder.observe_batch(_rows_of(columns, WINDOW_ROWS, SEED + 2))
    latency = LatencyRecorder()
    for nanoseconds in np.random.default_rng(SEED).lognormal(13.0, 0.4, WINDOW_ROWS).astype(int).tolist():
        latency.observe(nanoseconds)
    return Window(
        model="bench/table",
        bundle_sha256="0" * 64,
        version="1.0.0",
        variant="any",
        baseline_id=baseline_id(encode_baseline(baseline)),
        start_ms=1,
        end_ms=2,
        ok=WINDOW_ROWS,
        latency=latency.histogram(),
        columns=builder.flush(),
    )


def _single_rows() -> list[dict[str, float]]:
    columns = {name: values.tolist() for name, values in _rows_of(FEATURES, BUFFER_ROWS, SEED + 1).items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rows_of(columns: int, rows: int, seed: int) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    drawn = np.random.default_rng(seed).normal(size=(columns, rows))
    return {f"f{number}": values for number, values in enumerate(drawn)}
