"""Sketches under drawn data: both binning paths agree, every row lands once, merging is exact in any order."""

import math
from functools import reduce

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.errors import MessageRefused
from bundles.sketch.binning import NumpyBinner, PythonBinner
from bundles.sketch.build import build_baseline, encode_baseline, parse_baseline
from bundles.sketch.form import BINS, NUMERIC_SLOTS, ColumnCounts, LatencyHistogram, Window
from bundles.sketch.latency import LatencyRecorder, bucket_bounds, bucket_index, percentile_us
from bundles.sketch.merge import HIGHEST_BUCKET, LOWEST_BUCKET, merge_columns, merge_latency, merge_windows
from bundles.sketch.update import WindowBuilder, WindowPlan

reals = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e290, max_value=1e290)
ordinary = st.floats(min_value=-100, max_value=100) | st.integers(-5, 5).map(float)
values = st.one_of(
    ordinary, st.floats(), st.integers(), st.none(), st.booleans(), st.text(max_size=3), st.just(10**400), st.just(-0.0)
)
columns_of_values = st.lists(ordinary, min_size=1, max_size=60) | st.lists(reals, min_size=1, max_size=30)


def baseline_of(*columns):
    rows = min(map(len, columns))
    named = {f"c{i}": np.array(column[:rows], dtype=np.float64) for i, column in enumerate(columns)}
    return build_baseline("t/m", "1.0.0", named, sources={})


def counted(binner, rows):
    tally = binner.tally()
    tally.add_rows(rows)
    return tally.counts()


@given(columns_of_values, columns_of_values, st.lists(st.tuples(values, values), max_size=40))
def test_numpy_and_pure_python_give_identical_counts(first, second, rows):
    baseline = baseline_of(first, second)
    fast, plain = NumpyBinner(baseline.columns), PythonBinner(baseline.columns)
    if rows:
        assert msgspec.json.encode(counted(fast, rows)) == msgspec.json.encode(counted(plain, rows))


@given(columns_of_values, st.lists(values, max_size=60))
def test_every_value_is_counted_exactly_once(column, seen):
    builder = WindowBuilder(baseline_of(column))
    for value in seen:
        builder.observe_row({"c0": value})
    counts = builder.flush().get("c0", ColumnCounts(counts=[0] * NUMERIC_SLOTS))
    assert counts.n == len(seen)
    assert sum(counts.counts) + counts.missing + counts.inf + counts.type_errors == len(seen)


@given(columns_of_values)
def test_a_baseline_survives_its_own_file_and_puts_none_of_its_rows_outside(column):
    baseline = baseline_of(column)
    assert parse_baseline(encode_baseline(baseline)) == baseline
    assert sum(baseline.columns[0].counts[BINS:]) == 0
    assert sum(baseline.columns[0].counts) == len(column)


@given(st.sets(st.integers(-50, 50), min_size=1, max_size=10), st.data())
def test_up_to_ten_distinct_values_keep_a_decision_bin_each(distinct, data):
    column = data.draw(st.permutations(sorted(distinct) * 3))
    (built,) = baseline_of(column).columns
    pairs = [built.counts[i] + built.counts[i + 1] for i in range(0, BINS, 2)]
    assert sorted(c for c in pairs if c) == [3] * len(distinct)


@given(st.lists(ordinary, min_size=30, max_size=200), st.lists(st.integers(1, 90), min_size=1, max_size=6))
def test_counts_do_not_depend_on_how_rows_arrive(column, cuts):
    plan = WindowPlan(baseline_of(column))
    whole, rows, parts = WindowBuilder(plan), WindowBuilder(plan), WindowBuilder(plan)
    whole.observe_batch({"c0": np.array(column)})
    for value in column:
        rows.observe_row({"c0": value})
    at = 0
    for cut in [*cuts, len(column)]:
        if column[at : at + cut]:
            parts.observe_batch({"c0": np.array(column[at : at + cut])})
        at += cut
    assert whole.flush() == rows.flush() == parts.flush()


counts_of = st.builds(
    ColumnCounts,
    counts=st.lists(st.integers(0, 1000), min_size=NUMERIC_SLOTS, max_size=NUMERIC_SLOTS),
    n=st.integers(0, 10_000),
    missing=st.integers(0, 9),
    inf=st.integers(0, 9),
    type_errors=st.integers(0, 9),
    sum_q=st.integers(-(2**40), 2**40),
    sumsq_q=st.integers(0, 2**50),
    min=st.none() | ordinary,
    max=st.none() | ordinary,
)
latencies = st.builds(
    LatencyHistogram,
    offset=st.integers(-400, 1200),
    counts=st.lists(st.integers(0, 5), max_size=12),
    n=st.integers(0, 60),
    sum_us=st.integers(0, 10**9),
)
windows = st.builds(
    Window,
    model=st.just("t/m"),
    bundle_sha256=st.sampled_from(["a", "b"]),
    version=st.just("1.0.0"),
    variant=st.sampled_from(["x", "y", ""]),
    baseline_id=st.just("base"),
    start_ms=st.integers(0, 100),
    end_ms=st.integers(100, 200),
    ok=st.integers(0, 99),
    errors=st.dictionaries(st.sampled_from(["timeout", "crash"]), st.integers(1, 9)),
    rejects=st.dictionaries(st.sampled_from(["INPUT_RANGE", "INPUT_SHAPE"]), st.integers(1, 9)),
    classes=st.just([]) | st.lists(st.integers(0, 9), min_size=3, max_size=3),
    latency=latencies,
    columns=st.dictionaries(st.sampled_from(["sharpness", "confidence", "margin"]), counts_of),
    labels_ok=st.integers(0, 5),
    labels_n=st.integers(5, 9),
)


def encoded(window):
    return msgspec.msgpack.encode(window)


@given(windows, windows)
def test_merging_does_not_depend_on_the_order_and_changes_neither_window(a, b):
    before = encoded(a), encoded(b)
    assert encoded(merge_windows(a, b)) == encoded(merge_windows(b, a))
    assert (encoded(a), encoded(b)) == before


@given(windows, windows, windows)
def test_merging_does_not_depend_on_the_grouping(a, b, c):
    assert encoded(merge_windows(merge_windows(a, b), c)) == encoded(merge_windows(a, merge_windows(b, c)))


@given(st.lists(ordinary, min_size=1, max_size=80), st.integers(1, 6), st.randoms(use_true_random=False))
def test_merged_parts_equal_the_whole_bit_for_bit(column, devices, rng):
    plan = WindowPlan(baseline_of(column))
    whole = WindowBuilder(plan)
    whole.observe_batch({"c0": np.array([*column, math.nan])})
    shards = [[] for _ in range(devices)]
    for value in [*column, math.nan]:
        shards[rng.randrange(devices)].append(value)
    parts = []
    for shard in shards:
        builder = WindowBuilder(plan)
        for value in shard:
            builder.observe_row({"c0": value})
        parts.extend(builder.flush().values())
    rng.shuffle(parts)
    assert msgspec.json.encode(reduce(merge_columns, parts)) == msgspec.json.encode(whole.flush()["c0"])


@given(windows, st.sampled_from(["model", "baseline_id", "stage"]))
def test_windows_of_another_baseline_are_never_merged(window, field):
    other = msgspec.structs.replace(window, **{field: "another"})
    with pytest.raises(MessageRefused) as refused:
        merge_windows(window, other)
    assert refused.value.code == "WINDOW_BASELINE"


@given(st.integers(-5, 10**14))
def test_a_latency_lies_in_its_bucket(latency_ns):
    index = bucket_index(latency_ns)
    assert LOWEST_BUCKET <= index <= HIGHEST_BUCKET
    low, high = bucket_bounds(index)
    micros = min(max(latency_ns, 1), 3_600_000_000_000) / 1000
    assert low * (1 - 1e-12) < micros <= high * (1 + 1e-12)


@given(st.lists(st.integers(1, 10**11), min_size=1, max_size=50), st.floats(0.01, 1.0), st.integers(1, 5))
def test_a_percentile_of_merged_devices_is_within_its_promised_error(latencies_ns, ratio, devices):
    recorders = [LatencyRecorder() for _ in range(devices)]
    for i, latency in enumerate(latencies_ns):
        recorders[i % devices].observe(latency)
    merged = reduce(merge_latency, [r.histogram() for r in recorders], LatencyHistogram())
    exact_us = sorted(latencies_ns)[max(math.ceil(ratio * len(latencies_ns)), 1) - 1] / 1000
    assert merged.n == sum(merged.counts) == len(latencies_ns)
    assert abs(percentile_us(merged, ratio) / exact_us - 1) <= 0.0110
