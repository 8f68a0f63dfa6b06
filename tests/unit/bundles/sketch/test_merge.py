import msgspec
import numpy as np
import pytest

from bundles.errors import MessageRefused
from bundles.sketch.build import build_baseline
from bundles.sketch.form import ColumnCounts, LatencyHistogram, Window
from bundles.sketch.merge import HIGHEST_BUCKET, check_window, merge_columns, merge_latency, merge_windows
from bundles.sketch.update import WindowBuilder

BASELINE = build_baseline(
    "t/m", "1.0.0", {"x": np.arange(50.0), "kind": np.array(["a", "b"] * 25)}, sources={"kind": "output"}
)


def window(**changes):
    builder = WindowBuilder(BASELINE)
    builder.observe_batch({"x": np.arange(4.0), "kind": ["a", "b", "a", "z"]})
    values = {
        "model": "t/m",
        "bundle_sha256": "aa",
        "version": "1.0.0",
        "variant": "cpu",
        "baseline_id": "base",
        "start_ms": 10,
        "end_ms": 20,
        "ok": 4,
        "classes": [3, 1],
        "latency": LatencyHistogram(offset=300, counts=[3, 0, 1], n=4, sum_us=2800),
        "columns": builder.flush(),
    }
    return Window(**{**values, **changes})


def test_windows_add_up():
    merged = merge_windows(
        window(errors={"timeout": 1}), window(errors={"crash": 2, "timeout": 1}, start_ms=5, end_ms=12, variant="gpu")
    )
    assert (merged.ok, merged.classes, merged.errors) == (8, [6, 2], {"crash": 2, "timeout": 2})
    assert (merged.start_ms, merged.end_ms) == (5, 20)
    assert (merged.bundle_sha256, merged.variant) == ("aa", "")
    assert merged.columns["x"].n == merged.columns["kind"].n == 8
    assert merged.columns["kind"].counts == [4, 2, 2]
    assert merged.latency == LatencyHistogram(offset=300, counts=[6, 0, 2], n=8, sum_us=5600)


def test_a_column_only_one_device_has_is_kept():
    merged = merge_windows(window(columns={}), window())
    assert merged.columns == window().columns


def test_columns_of_another_shape_are_refused():
    with pytest.raises(MessageRefused) as refused:
        merge_columns(ColumnCounts(counts=[1, 2]), ColumnCounts(counts=[1]))
    assert refused.value.code == "WINDOW_SHAPE"
    with pytest.raises(MessageRefused):
        merge_windows(window(), window(classes=[1, 2, 3]))


def test_buckets_far_apart_cannot_make_a_run_as_long_as_a_disk():
    far = LatencyHistogram(offset=10**15, counts=[1], n=1, sum_us=1)
    merged = merge_latency(LatencyHistogram(offset=-(10**15), counts=[1], n=1, sum_us=1), far)
    assert len(merged.counts) < 2000
    assert sum(merged.counts) == 2
    assert merge_latency(merged, LatencyHistogram()).offset + len(merged.counts) - 1 == HIGHEST_BUCKET


def test_an_honest_window_passes():
    check_window(window(), BASELINE)
    check_window(window(), None)
    check_window(window(columns={}), BASELINE)


X = window().columns["x"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ok": -1}, "WINDOW_COUNTS"),
        ({"classes": [2**60]}, "WINDOW_COUNTS"),
        ({"start_ms": 30}, "WINDOW_COUNTS"),
        ({"errors": {"timeout": -4}}, "WINDOW_COUNTS"),
        ({"latency": LatencyHistogram(counts=[1], n=2)}, "WINDOW_COUNTS"),
        ({"columns": {"unheard_of": X}}, "WINDOW_SHAPE"),
        ({"columns": {"x": ColumnCounts(counts=[1], n=1)}}, "WINDOW_SHAPE"),
        ({"columns": {"x": msgspec.structs.replace(X, n=5)}}, "WINDOW_COUNTS"),
        ({"columns": {"x": msgspec.structs.replace(X, missing=-1, n=3)}}, "WINDOW_COUNTS"),
        ({"columns": {"x": msgspec.structs.replace(X, sum_q=2**40)}}, "WINDOW_COUNTS"),
        ({"columns": {"x": msgspec.structs.replace(X, sumsq_q=-1)}}, "WINDOW_COUNTS"),
    ],
)
def test_a_window_nobody_can_have_counted_is_refused(changes, code):
    with pytest.raises(MessageRefused) as refused:
        check_window(window(**changes), BASELINE)
    assert refused.value.code == code
