import math

import msgspec
import numpy as np
import pytest

from bundles.errors import BundleRefused
from bundles.sketch.build import (
    baseline_id,
    build_baseline,
    encode_baseline,
    parse_baseline,
    provisional_reason,
)
from bundles.sketch.form import BINS
from bundles.sketch.update import WindowBuilder

SEED = 7


def build(columns, **options):
    return build_baseline("team/model", "1.0.0", columns, sources=options.pop("sources", {}), **options)


def only(values, **options):
    return build({"x": np.asarray(values)}, **options).columns[0]


def walk(rows, seed=SEED):
    """Rows whose neighbours are alike, about a steady mean."""
    steps = np.random.default_rng(seed).normal(size=rows)
    out = np.zeros(rows)
    for i in range(1, rows):
        out[i] = 0.5 * out[i - 1] + steps[i]
    return out


def test_bins_hold_equal_shares_of_a_continuous_column():
    column = only(np.random.default_rng(SEED).normal(size=2000))
    assert column.counts == [100] * BINS + [0, 0]


def test_edges_lie_between_training_values_never_on_one():
    values = np.repeat(np.arange(25), 4)
    column = only(values)
    assert not set(column.edges[1:BINS]) & set(values.tolist())


def test_guards_stand_five_percent_of_the_range_beyond_the_rows():
    column = only(np.linspace(0.0, 10.0, 100))
    assert (column.low, column.high) == (pytest.approx(-0.5), pytest.approx(10.5))


def test_a_constant_column_forgives_rounding_and_shows_any_change():
    baseline = build({"x": np.full(300, 0.3)})
    builder = WindowBuilder(baseline)
    builder.observe_batch({"x": np.array([0.3, np.nextafter(0.3, 1), 0.1 + 0.2, 0.31, 0.29])})
    counts = builder.flush()["x"].counts
    assert (sum(counts[:BINS]), counts[BINS:]) == (3, [1, 1])
    assert baseline.columns[0].counts[BINS - 1] == 300


def test_a_column_that_differs_by_rounding_alone_is_constant():
    column = only(0.3 + np.arange(100) % 7 * 1e-16)
    assert len(set(column.edges[1:BINS])) == 1
    assert sum(1 for c in column.counts if c) == 1


def test_a_heap_of_equal_values_keeps_its_own_bin():
    column = only(np.concatenate([np.zeros(600), np.linspace(1, 2, 400)]))
    assert column.counts[0] == 600
    assert max(column.counts[1:]) <= 60


def test_missing_and_infinite_rows_are_missing_in_the_baseline():
    column = only([1.0, 2.0, math.nan, math.inf, 3.0])
    assert (column.n, column.missing, sum(column.counts)) == (5, 2, 3)
    assert only(np.array([1.0, None, 2.0], dtype=object)).missing == 1


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1.0, 1e9, 1e299])
def test_columns_of_any_scale_are_described(scale):
    column = only(np.random.default_rng(SEED).normal(size=400) * scale)
    assert column.sd0 == pytest.approx(scale, rel=0.2)
    assert column.counts == [20] * BINS + [0, 0]


def test_text_takes_its_most_frequent_values_as_categories():
    column = only(["b"] * 5 + ["a"] * 9 + ["c"] * 5)
    assert (column.kind, column.categories, column.counts) == ("categorical", ["a", "b", "c"], [9, 5, 5, 0])


def test_more_than_63_texts_leave_the_rare_ones_to_other():
    column = only([f"v{i:03}" for i in range(100) for _ in range(100 - i)])
    assert len(column.categories) == 63
    assert column.categories[0] == "v000"
    assert column.counts[-1] == sum(100 - i for i in range(63, 100))


def test_given_categories_keep_their_order_and_may_be_unseen():
    column = only(np.array([2, 2, 0]), categories={"x": ["0", "1", "2"]})
    assert (column.categories, column.counts) == (["0", "1", "2"], [1, 0, 2, 0])


def test_steady_rows_in_order_get_the_least_floor_and_are_trusted():
    baseline = build({"x": walk(8000)})
    assert baseline.columns[0].floor == 0.10
    assert not baseline.columns[0].floor_provisional
    assert provisional_reason(baseline) == ""


def test_a_season_in_the_rows_raises_the_floor_of_its_column_alone():
    season = np.sin(np.linspace(0, 4 * np.pi, 8000)) + 0.3 * walk(8000)
    seasonal, steady = build({"season": season, "steady": walk(8000, seed=SEED + 1)}).columns
    assert seasonal.floor > 0.5
    assert steady.floor == 0.10


def test_shuffling_hides_the_season_and_is_noticed():
    season = np.sin(np.linspace(0, 4 * np.pi, 8000))
    baseline = build({"x": np.random.default_rng(SEED).permutation(season)})
    assert baseline.columns[0].floor == 0.10
    assert baseline.columns[0].floor_provisional
    assert "shuffled" in provisional_reason(baseline)


def test_few_rows_make_a_provisional_floor():
    baseline = build({"x": walk(300)})
    assert baseline.columns[0].floor == 0.10
    assert "300 rows" in provisional_reason(baseline)


def test_outputs_may_come_from_other_rows_than_inputs():
    baseline = build(
        {"x": walk(3000), "confidence": walk(200), "margin": walk(200)},
        sources={"confidence": "output", "margin": "output"},
    )
    assert ([c.n for c in baseline.columns], baseline.rows) == ([3000, 200, 200], 3000)
    assert [c.floor_provisional for c in baseline.columns] == [False, True, True]
    assert "confidence, margin" in provisional_reason(baseline)


def test_order_is_noticed_in_a_categorical_column_too():
    states = np.repeat(["day", "night"], 100).tolist() * 10
    assert not only(states).floor_provisional
    assert only(np.random.default_rng(SEED).permutation(states)).floor_provisional


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({}, "BASELINE_ROWS"),
        ({"x": np.array([])}, "BASELINE_ROWS"),
        ({"x": np.ones(3), "y": np.ones(4)}, "BASELINE_ROWS"),
        ({"x": np.full(9, math.nan)}, "BASELINE_FIELD"),
        ({"x": np.array([0.0, 1e305])}, "BASELINE_FIELD"),
        ({"x": np.array([{}, 1], dtype=object)}, "BASELINE_FIELD"),
        ({"x": np.array([(1, 2), "a"], dtype=object)}, "BASELINE_FIELD"),
        ({f"c{i}": np.ones(2) for i in range(513)}, "BASELINE_FIELD"),
    ],
)
def test_columns_that_cannot_be_described_are_refused(columns, code):
    with pytest.raises(BundleRefused) as refused:
        build(columns)
    assert refused.value.code == code


def test_the_id_is_the_digest_of_the_file():
    data = encode_baseline(build({"x": walk(500)}))
    assert baseline_id(data) != baseline_id(data + b" ")
    assert len(baseline_id(data)) == 64


def test_a_field_of_a_later_release_is_passed_over():
    raw = msgspec.json.decode(encode_baseline(build({"x": walk(500)})))
    raw["season_days"] = 7
    raw["columns"][0]["holiday"] = True
    assert parse_baseline(msgspec.json.encode(raw)).columns[0].name == "x"


def _set(raw, path, value):
    *above, last = path
    for key in above:
        raw = raw[key]
    raw[last] = value


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (["format_version"], 2, "BASELINE_FORMAT_VERSION"),
        (["rows"], "many", "BASELINE_FIELD"),
        (["columns", 1, "name"], "x", "BASELINE_FIELD"),
        (["columns", 0, "name"], "", "BASELINE_FIELD"),
        (["columns", 0, "sd0"], 0.0, "BASELINE_FIELD"),
        (["columns", 0, "floor"], -1.0, "BASELINE_FIELD"),
        (["columns", 0, "edges"], [1.0, 2.0], "BASELINE_FIELD"),
        (["columns", 0, "edges", 3], 1e9, "BASELINE_FIELD"),
        (["columns", 0, "low"], 1e9, "BASELINE_FIELD"),
        (["columns", 0, "counts"], [1] * 5, "BASELINE_FIELD"),
        (["columns", 0, "counts", 0], -1, "BASELINE_FIELD"),
        (["columns", 0, "n"], 3, "BASELINE_FIELD"),
        (["columns", 1, "categories"], ["a", "a"], "BASELINE_FIELD"),
        (["columns", 1, "counts"], [500], "BASELINE_FIELD"),
    ],
)
def test_a_baseline_that_binning_would_trip_over_is_refused(path, value, code):
    raw = msgspec.json.decode(encode_baseline(build({"x": walk(500), "y": np.repeat(["a", "b"], 250)})))
    _set(raw, path, value)
    with pytest.raises(BundleRefused) as refused:
        parse_baseline(msgspec.json.encode(raw))
    assert refused.value.code == code
    assert refused.value.remedy


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b'{"a":NaN}', b" " * ((4 << 20) + 1)])
def test_bytes_that_are_no_json_are_refused(data):
    with pytest.raises(BundleRefused) as refused:
        parse_baseline(data)
    assert refused.value.code == "BASELINE_JSON"
