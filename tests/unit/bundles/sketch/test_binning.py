import math

import pytest

from bundles.sketch.binning import NumpyBinner, PythonBinner, make_binner
from bundles.sketch.form import BINS, OVER, UNDER, ColumnBaseline

COLUMN = ColumnBaseline(
    name="x",
    source="input",
    kind="numeric",
    counts=[5] * BINS + [0, 0],
    n=100,
    edges=[float(edge) for edge in range(BINS + 1)],
    low=-1.0,
    high=21.0,
    mu0=10.0,
    sd0=2.0,
)


def counted(binner, rows):
    tally = binner.tally()
    tally.add_rows(rows)
    return tally.counts()


@pytest.mark.parametrize("binner", [NumpyBinner([COLUMN]), PythonBinner([COLUMN])], ids=["numpy", "python"])
@pytest.mark.parametrize(
    ("value", "slot"),
    [
        (0.0, 0),
        (0.999, 0),
        (1.0, 1),
        (19.5, 19),
        (20.0, 19),
        (-0.5, 0),
        (-1.0, 0),
        (-1.0000001, UNDER),
        (20.9, 19),
        (21.0, 19),
        (21.0000001, OVER),
        (-1e308, UNDER),
        (1e308, OVER),
        (True, 1),
    ],
)
def test_a_value_goes_to_the_bin_the_form_describes(binner, value, slot):
    (counts,) = counted(binner, [[value]])
    assert [i for i, c in enumerate(counts.counts) if c] == [slot]


@pytest.mark.parametrize("binner", [NumpyBinner([COLUMN]), PythonBinner([COLUMN])], ids=["numpy", "python"])
def test_what_is_no_finite_number_is_counted_and_never_binned(binner):
    rows = [[math.nan], [None], [math.inf], [-math.inf], ["12"], [b"1"], [[1.0]], [{}], [10**400]]
    (counts,) = counted(binner, rows)
    assert (counts.n, counts.missing, counts.inf, counts.type_errors, sum(counts.counts)) == (9, 2, 2, 5, 0)
    assert (counts.min, counts.max, counts.sum_q, counts.sumsq_q) == (None, None, 0, 0)


@pytest.mark.parametrize("binner", [NumpyBinner([COLUMN]), PythonBinner([COLUMN])], ids=["numpy", "python"])
def test_moments_are_quantised_in_units_of_the_baseline_and_clipped(binner):
    (counts,) = counted(binner, [[12.0], [9.0], [1e300]])
    assert counts.sum_q == 1024 - 512 + 64 * 1024
    assert counts.sumsq_q == 1024**2 + 512**2 + (64 * 1024) ** 2
    assert (counts.min, counts.max) == (9.0, 1e300)


def test_numpy_is_used_where_it_is_installed_and_can_be_declined():
    assert isinstance(make_binner([COLUMN]), NumpyBinner)
    assert isinstance(make_binner([COLUMN], use_numpy=False), PythonBinner)
