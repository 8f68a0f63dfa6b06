"""Counting, and the two limits that flag a model."""

import numpy as np
import pytest

from agent.inference.stats import CONSTANT_RUN_LIMIT, CRASH_WINDOW_S, MARKED, Tally
from bundles.contract import TensorSpec

SPEC = TensorSpec("y", "float32", [1, 2], min=0.0, max=1.0)


def answer(*values: float) -> dict[str, np.ndarray]:
    return {"y": np.array([values], dtype=np.float32)}


def question(number: float) -> dict[str, np.ndarray]:
    return {"x": np.array([number], dtype=np.float32)}


def test_requests_are_the_sum_of_their_outcomes():
    tally = Tally()
    tally.count_ok(2_000_000)
    tally.count_ok(4_000_000)
    tally.count_error("crash")
    tally.count_reject("INPUT_SHAPE")
    tally.count_reject("INPUT_SHAPE")
    stats = tally.snapshot()
    assert stats.requests == 5
    assert stats.ok == 2
    assert stats.errors == {"crash": 1}
    assert stats.schema_rejects == {"INPUT_SHAPE": 2}
    assert stats.latency_p50_ms == pytest.approx(3.0)


def test_nothing_is_claimed_about_latency_before_the_first_answer():
    assert Tally().snapshot().latency_p99_ms is None


@pytest.mark.parametrize(
    ("times", "flagged"),
    [
        ([0.0, 1.0], False),
        ([0.0, 1.0, 2.0], True),
        ([0.0, 1.0, CRASH_WINDOW_S + 0.5], False),
        ([0.0, 200.0, CRASH_WINDOW_S], True),
        ([0.0, 200.0, 400.0, 450.0], True),
    ],
)
def test_three_crashes_within_five_minutes_flag_the_model(times, flagged):
    tally = Tally()
    for number, time in enumerate(times):
        tally.count_lost_worker(time, hang=bool(number % 2))
    stats = tally.snapshot()
    assert ("crashes" in stats.unhealthy) is flagged
    assert stats.crashes + stats.hangs == len(times)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_withheld(value):
    tally = Tally()
    assert not tally.guard([SPEC], question(1), answer(0.5, value))
    assert tally.snapshot().nonfinite == 1


def test_missing_values_are_let_through_where_the_contract_allows_them():
    spec = TensorSpec("y", "float32", [1, 2], min=0.0, max=1.0, allow_missing=True)
    tally = Tally()
    assert tally.guard([spec], question(1), answer(0.5, np.nan))
    assert tally.guard([spec], question(2), answer(np.nan, np.nan))
    assert not tally.guard([spec], question(3), answer(np.inf, np.nan))
    assert tally.snapshot().nonfinite == 1


def test_an_answer_out_of_range_is_given_out_and_counted():
    tally = Tally()
    assert tally.guard([SPEC], question(1), answer(0.0, 1.0005))  # within the tolerance for rounding
    assert tally.guard([SPEC], question(2), answer(0.0, 1.1))
    assert tally.guard([SPEC], question(3), answer(-0.1, 1.0))
    assert tally.snapshot().out_of_range == 2


@pytest.mark.parametrize(("bad", "flagged"), [(2, False), (3, True)])
def test_more_than_one_percent_of_the_last_200_answers_flag_the_model(bad, flagged):
    tally = Tally()
    for number in range(200):
        tally.guard([SPEC], question(number), answer(0.5, 7.0 if number < bad else number / 1000))
    assert ("guards" in tally.snapshot().unhealthy) is flagged


def test_bad_answers_that_lie_far_apart_do_not_add_up():
    tally = Tally()
    for number in range(1000):
        tally.guard([SPEC], question(number), answer(0.5, 7.0 if number % 150 == 0 else number / 1000))
    assert tally.snapshot().unhealthy == ()


def test_a_stuck_model_is_flagged():
    tally = Tally()
    for number in range(CONSTANT_RUN_LIMIT + 1):
        assert tally.snapshot().unhealthy == ()
        tally.guard([SPEC], question(number + 1), answer(0.5, 0.5))
    assert tally.snapshot().unhealthy == ("constant",)


def test_the_same_question_asked_again_says_nothing_of_a_stuck_model():
    tally = Tally()
    for _ in range(2 * CONSTANT_RUN_LIMIT):
        tally.guard([SPEC], question(1), answer(0.5, 0.5))
    assert tally.snapshot().constant_run == 0


def test_a_change_low_in_a_large_image_counts_as_another_question():
    tally = Tally()
    for number in range(3):
        image = np.zeros((200, 200), dtype=np.uint8)
        image[150:] = number
        tally.guard([SPEC], {"image": image}, answer(0.5, 0.5))
    assert tally.snapshot().constant_run == 2


def test_different_inputs_and_answers_are_counted_over_the_last_ones():
    tally = Tally()
    for number in range(10):
        tally.guard([SPEC], question(number % 4), answer(0.5, 0.5))
    told = tally.snapshot()
    assert (told.distinct_inputs, told.distinct_outputs) == (4, 1)
    for number in range(MARKED):
        tally.guard([SPEC], question(number), answer(0.5, number / MARKED))
    told = tally.snapshot()
    assert (told.distinct_inputs, told.distinct_outputs) == (MARKED, MARKED), "bounded, and the old ones are gone"
