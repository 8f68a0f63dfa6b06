import math

import numpy as np
import pytest

from bundles.sketch.build import build_baseline
from bundles.sketch.distance import (
    baseline_slots,
    benjamini_hochberg,
    chi2_survival,
    compare,
    decision_counts,
    moments,
    window_slots,
)
from bundles.sketch.form import ColumnCounts
from bundles.sketch.update import WindowBuilder


# Critical values from the chi-squared tables of any textbook.
@pytest.mark.parametrize(
    ("x", "df", "p"),
    [
        (3.841, 1, 0.05),
        (6.635, 1, 0.01),
        (18.307, 10, 0.05),
        (26.217, 12, 0.01),
        (32.909, 12, 0.001),
        (82.53, 63, 0.05),
    ],
)
def test_chi_squared_tail_matches_the_tables(x, df, p):
    assert chi2_survival(x, df) == pytest.approx(p, rel=0.06)


def test_chi_squared_tail_without_freedom_or_distance_is_certain():
    assert chi2_survival(5.0, 0) == chi2_survival(0.0, 4) == 1.0


def test_benjamini_hochberg_of_their_own_example():
    # Benjamini and Hochberg (1995), section 3.2: four of fifteen are rejected at q = 0.05.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert benjamini_hochberg(p, 0.05) == [True] * 4 + [False] * 11
    assert benjamini_hochberg(p[::-1], 0.05) == [False] * 11 + [True] * 4


def test_benjamini_hochberg_steps_up_past_a_p_value_over_its_own_line():
    assert benjamini_hochberg([0.020, 0.021, 0.022], 0.03) == [True, True, True]
    assert benjamini_hochberg([], 0.01) == []


def test_decisions_are_taken_on_pairs_of_bins_guards_and_missing():
    assert decision_counts([1] * 20 + [7, 8], 9, "numeric") == [2] * 10 + [7, 8, 9]
    assert decision_counts([3, 4, 5], 6, "categorical") == [3, 4, 5, 6]


def test_unusable_values_share_the_slot_of_missing_ones():
    column = ColumnCounts(counts=[1, 2], n=9, missing=1, inf=2, type_errors=3)
    assert window_slots(column, "categorical") == [1, 2, 6]


def test_one_comparison_by_hand():
    found = compare([60, 40, 0], [20, 80, 0])
    p, q = (60.5 / 101, 40.5 / 101), (20.5 / 101, 80.5 / 101)
    psi = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    g = 2 * (60 * math.log(60 / 40) + 40 * math.log(40 / 60) + 20 * math.log(20 / 40) + 80 * math.log(80 / 60))
    assert (found.psi, found.g) == (pytest.approx(psi), pytest.approx(g))
    assert found.eff == pytest.approx(psi - 1 * (1 / 100 + 1 / 100))
    assert (found.df, found.n) == (1, 100)


def test_slots_empty_on_both_sides_count_for_nothing():
    assert compare([60, 40], [20, 80]) == compare([60, 0, 40, 0], [20, 0, 80, 0])


def test_an_empty_sample_is_refused():
    with pytest.raises(ValueError, match="empty"):
        compare([1, 2], [0, 0])


def test_the_correction_centres_eff_on_zero_when_nothing_moved():
    seed = 20240607
    print("seed", seed)
    rng = np.random.default_rng(seed)
    share = np.full(13, 1 / 13)
    effs, significant = [], 0
    for _ in range(400):
        found = compare(rng.multinomial(1000, share).tolist(), rng.multinomial(250, share).tolist())
        effs.append(found.eff)
        significant += found.p < 0.01
    # Uncorrected, the mean would be 12 * (1/250 + 1/1000) = 0.06.
    assert abs(np.mean(effs)) < 0.01
    assert significant / 400 < 0.03


def test_moments_read_back_from_integers():
    seed = 5
    rng = np.random.default_rng(seed)
    baseline = build_baseline("t/m", "1", {"x": rng.normal(3.0, 0.5, 1000)}, sources={})
    seen = rng.normal(4.0, 0.2, 500)
    builder = WindowBuilder(baseline)
    builder.observe_batch({"x": seen})
    mean, deviation = moments(builder.flush()["x"], baseline.columns[0])
    assert mean == pytest.approx(seen.mean(), abs=0.001)
    assert deviation == pytest.approx(seen.std(), abs=0.001)
    assert sum(baseline_slots(baseline.columns[0])) == 1000
