from pathlib import Path

import msgspec
import numpy as np
import pytest

from bundles.errors import MessageRefused
from bundles.sketch.build import build_baseline
from bundles.sketch.columns import image_columns
from bundles.sketch.form import ColumnCounts
from bundles.sketch.update import WindowBuilder, WindowPlan
from control_plane.core.drift import DriftState, MergedWindow, Verdict, explain, findings, step

SEED = 4107
DEMO_DATA = Path(__file__).parents[3] / "control_plane" / "demo" / "data"
LABELS = ["cat", "dog"]


def rng_of(seed):
    print("seed", seed)
    return np.random.default_rng(seed)


def steady_columns(rng, rows, *, shift=0.0):
    return {
        "temperature": rng.normal(20.0 + shift, 2.0, rows),
        "humidity": rng.gamma(2.0, 1.0, rows),
        "confidence": rng.beta(8, 2, rows),
        "predicted_class": rng.choice(LABELS, rows, p=[0.7, 0.3]),
    }


@pytest.fixture(scope="module")
def baseline():
    return build_baseline(
        "t/m",
        "1.0.0",
        steady_columns(np.random.default_rng(1), 4000),
        sources={"confidence": "output", "predicted_class": "output"},
        categories={"predicted_class": LABELS},
    )


def window_of(baseline, columns, at):
    builder = WindowBuilder(WindowPlan(baseline))
    builder.observe_batch(columns)
    return MergedWindow("base", builder.flush(), at * 1000, (at + 1) * 1000)


def play(baseline, batches, state=None):
    """Step through ``batches``; return the last state and every verdict."""
    state, verdicts = state or DriftState("base"), []
    for at, columns in enumerate(batches, start=state.through_ms // 1000 if state.through_ms > 0 else 0):
        state, verdict = step(state, window_of(baseline, columns, at), baseline)
        verdicts.append(verdict)
    return state, verdicts


def alarming(verdict):
    return [column.name for column in verdict.columns if column.is_alarming]


def one(verdict, name):
    return next(column for column in verdict.columns if column.name == name)


def test_below_200_values_nothing_is_decided_and_nothing_is_lost(baseline):
    rng = rng_of(SEED)
    state, verdicts = play(baseline, [steady_columns(rng, 70, shift=50.0) for _ in range(3)])
    assert [v.is_evaluated for v in verdicts] == [False, False, True]
    judged = one(verdicts[2], "temperature")
    assert (judged.n, judged.is_alarming) == (210, True)
    assert (verdicts[2].from_ms, verdicts[2].through_ms) == (0, 3000)
    assert state.columns["temperature"].pending is None


def test_the_same_window_again_changes_nothing(baseline):
    rng = rng_of(SEED)
    window = window_of(baseline, steady_columns(rng, 250), 5)
    state, _ = step(DriftState("base"), window, baseline)
    assert step(state, window, baseline) == (state, Verdict(is_evaluated=False))
    earlier = window_of(baseline, steady_columns(rng, 250), 4)
    assert step(state, earlier, baseline) == (state, Verdict(is_evaluated=False))


def test_steady_windows_raise_no_alarm(baseline):
    rng = rng_of(SEED)
    _, verdicts = play(baseline, [steady_columns(rng, 250) for _ in range(300)])
    assert all(v.is_evaluated for v in verdicts)
    assert sum(bool(alarming(v)) for v in verdicts) == 0


def test_a_harmless_shift_of_a_twentieth_of_a_deviation_is_not_flagged(baseline):
    rng = rng_of(SEED)
    _, verdicts = play(baseline, [steady_columns(rng, 250, shift=0.1) for _ in range(100)])
    assert sum(bool(alarming(v)) for v in verdicts) == 0
    # 5,000 rows see the shift clearly; it is still too small to matter.
    _, verdicts = play(baseline, [steady_columns(rng, 5000, shift=0.1) for _ in range(20)])
    assert sum(bool(alarming(v)) for v in verdicts) == 0


def test_a_shifted_feature_is_named_and_the_others_are_not(baseline):
    rng = rng_of(SEED)
    _, verdicts = play(baseline, [steady_columns(rng, 250, shift=2.0) for _ in range(3)])
    assert alarming(verdicts[-1]) == ["temperature"]
    assert verdicts[-1].columns[0].name == "temperature"
    sentence = explain(verdicts[-1].columns[0])
    assert sentence.startswith("temperature moved: eff ")
    assert "against a floor of 0.10; mean 20 -> 22" in sentence


def test_an_alarm_needs_a_strong_window_or_several_weak_ones_and_clears_at_zero(baseline):
    rng = rng_of(SEED)
    weak = [steady_columns(rng, 3000, shift=0.8) for _ in range(6)]
    state, verdicts = play(baseline, weak)
    course = [one(v, "temperature") for v in verdicts]
    assert not course[0].is_alarming
    assert 0.0 < course[0].s < 1.0
    assert explain(course[0]).startswith("temperature is moving")
    assert course[-1].is_alarming
    state, verdicts = play(baseline, [steady_columns(rng, 3000, shift=5.0) for _ in range(3)], state)
    assert one(verdicts[-1], "temperature").s == 3.0
    _, verdicts = play(baseline, [steady_columns(rng, 3000) for _ in range(4)], state)
    assert [(one(v, "temperature").s, one(v, "temperature").is_alarming) for v in verdicts] == [
        (2.0, True),
        (1.0, True),
        (0.0, False),
        (0.0, False),
    ]
    assert explain(one(verdicts[-1], "temperature")).startswith("temperature is steady")


def test_an_alarm_between_one_and_zero_stays_as_it_was(baseline):
    rng = rng_of(SEED)
    state, _ = play(baseline, [steady_columns(rng, 250, shift=50.0)])
    assert state.columns["temperature"].s == 2.0
    half = msgspec.structs.replace(state.columns["temperature"], s=1.5)
    state = msgspec.structs.replace(state, columns={**state.columns, "temperature": half})
    _, verdicts = play(baseline, [steady_columns(rng, 250) for _ in range(2)], state)
    course = [one(v, "temperature") for v in verdicts]
    assert [(c.s, c.is_alarming) for c in course] == [(0.5, True), (0.0, False)]


def test_the_floor_of_a_seasonal_column_lets_its_season_pass():
    rng = rng_of(SEED)
    season = np.sin(np.linspace(0, 6 * np.pi, 6000)) * 2
    built = build_baseline("t/m", "1", {"load": season + rng.normal(size=6000)}, sources={})
    peak = [{"load": 2.0 + rng.normal(size=250)} for _ in range(5)]
    _, verdicts = play(built, peak)
    assert one(verdicts[-1], "load").floor > 1.0
    assert not any(alarming(v) for v in verdicts)
    flat = msgspec.structs.replace(built, columns=[msgspec.structs.replace(built.columns[0], floor=0.10)])
    _, verdicts = play(flat, peak)
    assert alarming(verdicts[-1]) == ["load"]


def test_values_that_go_missing_are_drift(baseline):
    rng = rng_of(SEED)
    columns = steady_columns(rng, 300)
    columns["humidity"][::4] = np.nan
    _, verdicts = play(baseline, [columns])
    assert alarming(verdicts[0]) == ["humidity"]
    assert "values missing 0.0% -> 25.0%" in explain(one(verdicts[0], "humidity"))


def test_a_class_that_takes_over_is_named_with_its_share(baseline):
    rng = rng_of(SEED)
    columns = steady_columns(rng, 400)
    columns["predicted_class"] = rng.choice(LABELS, 400, p=[0.2, 0.8])
    _, verdicts = play(baseline, [columns])
    assert alarming(verdicts[0]) == ["predicted_class"]
    assert "share of 'cat' 69.9% -> 17.0%" in explain(verdicts[0].columns[0])


def test_a_moved_input_is_named_before_the_output_it_moved(baseline):
    rng = rng_of(SEED)
    columns = steady_columns(rng, 400, shift=2.0)
    columns["confidence"] = rng.beta(1, 8, 400)
    _, verdicts = play(baseline, [columns])
    assert alarming(verdicts[0]) == ["temperature", "confidence"]
    assert one(verdicts[0], "confidence").size > one(verdicts[0], "temperature").size


def test_a_column_that_saw_less_is_judged_later_than_the_others(baseline):
    rng = rng_of(SEED)
    columns = steady_columns(rng, 250)
    inputs = {name: columns[name] for name in ("temperature", "humidity")}
    few = {name: values[:100] for name, values in steady_columns(rng, 250).items()}
    state, verdicts = play(baseline, [few, inputs])
    assert {c.name for c in verdicts[1].columns} == {"temperature", "humidity"}
    assert state.columns["confidence"].pending.n == 100


def test_windows_of_another_baseline_are_refused(baseline):
    with pytest.raises(ValueError, match="baseline"):
        step(DriftState("another"), window_of(baseline, steady_columns(rng_of(SEED), 10), 0), baseline)


def test_columns_of_another_shape_are_refused(baseline):
    state, _ = play(baseline, [steady_columns(rng_of(SEED), 10)])
    odd = MergedWindow("base", {"temperature": ColumnCounts(counts=[1, 2], n=3)}, 1000, 2000)
    with pytest.raises(MessageRefused):
        step(state, odd, baseline)


def test_state_and_verdict_survive_the_database(baseline):
    rng = rng_of(SEED)
    state, verdicts = play(baseline, [steady_columns(rng, 250), steady_columns(rng, 50)])
    assert msgspec.json.decode(msgspec.json.encode(state), type=DriftState) == state
    assert msgspec.json.decode(msgspec.json.encode(verdicts[0]), type=Verdict) == verdicts[0]


def test_every_judged_column_is_a_finding_and_only_alarms_fire(baseline):
    rng = rng_of(SEED)
    _, verdicts = play(baseline, [steady_columns(rng, 50), steady_columns(rng, 250, shift=50.0)])
    assert findings(verdicts[0], model="t/m", version="1.0.0", cohort="default") == ()
    found = findings(verdicts[1], model="t/m", version="1.0.0", cohort="default")
    assert [f.labels["feature"] for f in found if f.is_firing] == ["temperature"]
    assert len(found) == 4
    assert found[0].labels == {
        "alert": "drift",
        "model": "t/m",
        "version": "1.0.0",
        "cohort": "default",
        "feature": "temperature",
    }
    assert (found[0].window_end_ms, found[0].severity) == (2000, "warning")


# Real digits: the demo's training rows are the baseline, its stream is what cameras see.


def digits(name):
    with np.load(DEMO_DATA / f"digits-{name}.npz") as file:
        return file["x"].astype(np.float64)


def camera_columns(images):
    return image_columns(images, 0.0, 16.0)


def blurred(images):
    """The images after a 3x3 binomial blur, as a lens out of focus gives."""
    for axis in (1, 2):
        images = (np.roll(images, 1, axis) + 2 * images + np.roll(images, -1, axis)) / 4
    return images


@pytest.fixture(scope="module")
def digits_baseline():
    return build_baseline("t/digits", "1.0.0", camera_columns(digits("train")), sources={})


def watch(baseline, images, windows, rows, seed):
    """Judge ``windows`` windows of ``rows`` images drawn from ``images``; return the verdicts."""
    rng, columns = rng_of(seed), camera_columns(images)
    picks = (rng.choice(len(images), rows) for _ in range(windows))
    return play(baseline, [{name: v[pick] for name, v in columns.items()} for pick in picks])[1]


@pytest.mark.parametrize("rows", [60, 250])
def test_cameras_that_see_the_same_digits_raise_no_alarm(digits_baseline, rows):
    verdicts = watch(digits_baseline, digits("stream"), 300, rows, SEED)
    assert sum(v.is_evaluated for v in verdicts) == (300 if rows >= 200 else 75)
    assert sum(bool(alarming(v)) for v in verdicts) == 0


def test_a_camera_out_of_focus_is_told_at_once_and_by_its_sharpness(digits_baseline):
    (verdict,) = watch(digits_baseline, blurred(digits("stream")), 1, 250, SEED)
    assert verdict.columns[0].name == "sharpness"
    assert verdict.columns[0].is_alarming
    assert "brightness" not in alarming(verdict)
    assert explain(verdict.columns[0]).startswith("sharpness moved: eff ")


def test_a_camera_in_the_dark_is_not_called_out_of_focus(digits_baseline):
    (verdict,) = watch(digits_baseline, digits("stream") * 0.5, 1, 250, SEED)
    assert {"brightness", "contrast"} <= set(alarming(verdict))
    assert "sharpness" not in alarming(verdict)


def test_a_slightly_brighter_camera_is_left_alone(digits_baseline):
    # 0.03 of 16 is a twentieth of the standard deviation of brightness.
    verdicts = watch(digits_baseline, digits("stream") + 0.03, 100, 250, SEED)
    assert sum(bool(alarming(v)) for v in verdicts) == 0
