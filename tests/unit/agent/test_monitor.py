import threading

import msgspec
import numpy as np
import pytest

from agent.monitor import ModelIdentity, Monitor, MonitorPlan
from bundles.contract import Contract, TensorSpec
from bundles.errors import BundleRefused
from bundles.sketch.build import baseline_id, build_baseline, encode_baseline
from bundles.sketch.columns import input_columns, output_columns
from bundles.sketch.form import Window
from bundles.sketch.merge import check_window, merge_windows

SEED = 19
LABELS = ["cat", "dog", "owl"]
CONTRACT = Contract(
    inputs=[TensorSpec(name="image", dtype="float32", shape=[None, 8, 8, 1], min=0.0, max=1.0, kind="image")],
    outputs=[TensorSpec(name="scores", dtype="float32", shape=[None, 3], min=0.0, max=1.0)],
    task="classification",
    labels=LABELS,
)
IDENTITY = ModelIdentity(model="t/m", bundle_sha256="ab" * 32, version="1.0.0", variant="cpu")


def batch(rows, seed=SEED):
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet([1, 1, 1], rows).astype(np.float32)
    return {"image": rng.random((rows, 8, 8, 1), dtype=np.float32)}, {"scores": scores}


def columns_of(inputs, outputs):
    return {
        **input_columns(inputs, CONTRACT.inputs),
        **output_columns(outputs, CONTRACT.outputs, task=CONTRACT.task, labels=LABELS),
    }


OUTPUT_COLUMNS = ("predicted_class", "confidence", "margin")
BASELINE = build_baseline(
    "t/m",
    "1.0.0",
    columns_of(*batch(500)),
    sources=dict.fromkeys(OUTPUT_COLUMNS, "output"),
    categories={"predicted_class": LABELS},
)
DATA = encode_baseline(BASELINE)


def monitor(baseline=DATA, contract=CONTRACT):
    return Monitor(baseline, contract, IDENTITY, clock=lambda: 1_000)


def test_a_window_tells_what_was_seen():
    watched = monitor()
    inputs, outputs = batch(3)
    watched.observe(inputs, outputs, 2_000_000, "ok")
    watched.observe(*batch(1), 4_000_000, "ok")
    window = watched.cut(2_000)
    assert (window.model, window.bundle_sha256, window.version, window.variant, window.stage) == (
        "t/m",
        "ab" * 32,
        "1.0.0",
        "cpu",
        "run",
    )
    assert window.baseline_id == baseline_id(DATA)
    assert (window.start_ms, window.end_ms, window.ok) == (1_000, 2_000, 2)
    assert (window.latency.n, window.latency.sum_us) == (2, 6_000)
    assert sum(window.classes) == window.columns["predicted_class"].n == window.columns["sharpness"].n == 4
    assert window.columns["predicted_class"].counts == [*window.classes, 0]
    check_window(window, BASELINE)


def test_an_error_is_counted_by_its_reason_and_its_inputs():
    watched = monitor()
    watched.observe(batch(2)[0], None, 9_000_000, "error:timeout")
    window = watched.cut(2_000)
    assert (window.ok, window.errors, window.latency.n, window.classes) == (0, {"timeout": 1}, 0, [])
    assert set(window.columns) == {"brightness", "contrast", "saturation_share", "sharpness"}


def test_a_rejected_request_counts_as_a_rejection_and_nothing_else():
    watched = monitor()
    watched.observe({"image": np.zeros((9, 9), dtype=np.float32)}, None, 1_000, "reject:INPUT_SHAPE")
    window = watched.cut(2_000)
    assert (window.rejects, window.columns, window.errors) == ({"INPUT_SHAPE": 1}, {}, {})


def test_an_unknown_outcome_is_refused():
    with pytest.raises(ValueError, match="outcome"):
        monitor().observe(None, None, 1, "fine")


def test_windows_follow_one_another_and_quiet_ones_are_not_cut():
    watched = monitor()
    assert watched.cut(1_500) is None
    watched.observe(*batch(1), 1_000, "ok")
    first = watched.cut(2_000)
    assert watched.cut(2_500) is None
    watched.observe(*batch(2), 1_000, "ok")
    second = watched.cut(3_000)
    assert (first.start_ms, first.end_ms, second.start_ms, second.end_ms) == (1_000, 2_000, 2_000, 3_000)
    assert (first.ok, second.ok, second.columns["margin"].n) == (1, 1, 2)


def test_a_clock_set_back_does_not_turn_a_window_around():
    watched = monitor()
    watched.observe(*batch(1), 1_000, "ok")
    window = watched.cut(400)
    assert window.start_ms <= window.end_ms == 400


def test_without_a_baseline_outcomes_latency_and_classes_are_still_counted():
    watched = monitor(baseline=None)
    watched.observe(*batch(5), 1_000_000, "ok")
    window = watched.cut(2_000)
    assert (window.baseline_id, window.columns, window.ok, sum(window.classes)) == ("", {}, 1, 5)


def test_a_baseline_that_cannot_be_read_is_refused_at_activation():
    with pytest.raises(BundleRefused):
        monitor(baseline=b"{}")


def test_scores_that_are_not_finite_have_no_class_but_are_seen_as_missing():
    watched = monitor()
    inputs, outputs = batch(1)
    watched.observe(inputs, {"scores": outputs["scores"] * np.nan}, 1_000, "ok")
    window = watched.cut(2_000)
    assert sum(window.classes) == 0
    assert window.columns["predicted_class"].missing == window.columns["confidence"].missing == 1


def test_a_regression_has_columns_and_no_classes():
    contract = Contract(
        inputs=[TensorSpec(name="row", dtype="float32", shape=[None, 1], kind="tabular", features=["age"])],
        outputs=[TensorSpec(name="price", dtype="float32", shape=[None, 1])],
        task="regression",
    )
    baseline = build_baseline(
        "t/m", "1", {"age": np.arange(40.0), "price": np.arange(40.0)}, sources={"price": "output"}
    )
    watched = monitor(encode_baseline(baseline), contract)
    watched.observe({"row": np.ones((2, 1))}, {"price": np.ones((2, 1))}, 1_000, "ok")
    window = watched.cut(2_000)
    assert (window.classes, window.columns["age"].n, window.columns["price"].n) == ([], 2, 2)


def test_rows_known_beforehand_count_as_if_they_had_been_computed():
    inputs, outputs = batch(40)
    columns = columns_of(inputs, outputs)
    plan = MonitorPlan(DATA)
    computed, replayed = monitor(plan), monitor(plan)
    for row in range(40):
        computed.observe(
            {"image": inputs["image"][row : row + 1]}, {"scores": outputs["scores"][row : row + 1]}, 5_000, "ok"
        )
        numbers = {name: float(v[row]) for name, v in columns.items() if name != "predicted_class"}
        replayed.observe_columns(numbers, LABELS.index(columns["predicted_class"][row]), 5_000)
    assert computed.cut(2_000) == replayed.cut(2_000)


def test_requests_on_many_threads_are_each_counted_once():
    watched, whole = monitor(), monitor()
    windows = []
    requests = [batch(2, seed) for seed in range(200)]

    def send(part):
        for inputs, outputs in part:
            watched.observe(inputs, outputs, 1_000_000, "ok")

    threads = [threading.Thread(target=send, args=(requests[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if window := watched.cut(2_000):
            windows.append(window)
    if window := watched.cut(2_000):
        windows.append(window)
    for inputs, outputs in requests:
        whole.observe(inputs, outputs, 1_000_000, "ok")
    merged = windows[0]
    for window in windows[1:]:
        merged = merge_windows(merged, window)
    assert merged == whole.cut(2_000)


def test_a_window_travels_as_messagepack():
    watched = monitor()
    watched.observe(*batch(300), 1_000_000, "ok")
    window = watched.cut(2_000)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(window), type=Window) == window
