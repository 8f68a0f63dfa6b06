import numpy as np
import pytest

from bundles.sketch.build import build_baseline
from bundles.sketch.update import WindowBuilder, WindowPlan

SEED = 11


@pytest.fixture(params=[True, False], ids=["numpy", "python"])
def plan(request):
    rng = np.random.default_rng(SEED)
    columns = {
        "a": rng.normal(size=500),
        "b": rng.normal(size=500),
        "confidence": rng.random(500),
        "predicted_class": rng.choice(["cat", "dog"], 500),
    }
    sources = {"confidence": "output", "predicted_class": "output"}
    return WindowPlan(build_baseline("t/m", "1.0.0", columns, sources=sources), use_numpy=request.param)


def test_columns_come_back_in_the_order_of_the_baseline(plan):
    builder = WindowBuilder(plan)
    builder.observe_row({"predicted_class": "cat", "confidence": 0.5, "b": 0.1, "a": 0.2})
    assert list(builder.flush()) == ["a", "b", "confidence", "predicted_class"]


def test_a_request_that_failed_is_counted_by_its_inputs_alone(plan):
    builder = WindowBuilder(plan)
    builder.observe_row({"a": 0.1, "b": 0.2})
    assert set(builder.flush()) == {"a", "b"}


def test_a_feature_absent_from_its_row_is_missing(plan):
    builder = WindowBuilder(plan)
    builder.observe_row({"a": 0.1})
    builder.observe_batch({"a": np.zeros(3)})
    counts = builder.flush()["b"]
    assert (counts.n, counts.missing) == (4, 4)


def test_columns_the_baseline_does_not_know_are_ignored(plan):
    builder = WindowBuilder(plan)
    builder.observe_row({"unheard_of": 1.0})
    builder.observe_batch({"unheard_of": np.ones(500)})
    assert builder.flush() == {}


def test_categories_are_named_by_text_or_whole_number():
    columns = {"state": np.array(["0", "1", "2"] * 10)}
    builder = WindowBuilder(build_baseline("t/m", "1", columns, sources={}, categories={"state": ["0", "1", "2"]}))
    builder.observe_batch({"state": [0, 1.0, "2", True, np.int8(2), np.float32(1), 0.5, "x", None, float("nan"), b"1"]})
    counts = builder.flush()["state"]
    assert counts.counts == [1, 3, 2, 2]
    assert (counts.n, counts.missing, counts.type_errors) == (11, 2, 1)


def test_columns_of_different_lengths_are_refused_and_nothing_is_counted(plan):
    builder = WindowBuilder(plan)
    with pytest.raises(ValueError, match="lengths"):
        builder.observe_batch({"a": np.zeros(3), "b": np.zeros(4)})
    assert builder.flush() == {}


def test_flushed_counts_are_not_touched_by_later_rows(plan):
    builder = WindowBuilder(plan)
    builder.observe_row({"a": 0.1, "b": 0.2, "predicted_class": "cat"})
    first = builder.flush()
    builder.observe_row({"a": 0.1, "b": 0.2, "predicted_class": "cat"})
    assert first["a"].n == first["predicted_class"].n == sum(first["predicted_class"].counts) == 1
    assert builder.flush()["a"].n == 2


def test_a_thousand_rows_by_one_and_two_at_a_time_agree(plan):
    rng = np.random.default_rng(SEED)
    rows = rng.normal(size=(1000, 2))
    single, double = WindowBuilder(plan), WindowBuilder(plan)
    for a, b in rows.tolist():
        single.observe_row({"a": a, "b": b})
    for at in range(0, 1000, 2):
        double.observe_batch({"a": rows[at : at + 2, 0], "b": rows[at : at + 2, 1]})
    assert single.flush() == double.flush()
