"""Binning of numeric columns: rows of values in, integers of ``ColumnCounts`` out.

Two implementations of one definition, numpy and pure Python (armv7l devices may have no numpy), which give identical
integers; a property test holds them together. Leaves buffering to ``update``, and the choice of edges to ``build``.

A value x goes to ``under`` if x < low, to ``over`` if x > high, and else to the bin whose edges enclose it; values
between a guard and the outermost edge belong to the outermost bin. NaN and infinities are counted, never binned.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bundles.sketch.form import BINS, NUMERIC_SLOTS, QUANT_CLIP, QUANT_SCALE, ColumnBaseline, ColumnCounts

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NONFINITE = NUMERIC_SLOTS
"""Scratch slot of the numpy path: where NaN and infinities land, to be told apart from binned values."""
_WIDTH = NUMERIC_SLOTS + 1
_COLUMNS_AT_ONCE, _ROWS_AT_ONCE = 32, 4096
"""Parts small enough to stay in a small processor's cache: 200 columns at once cost twice as much a value."""


class Tally(Protocol):
    """Counts rows of some numeric columns."""

    def add_rows(self, rows: Sequence[Sequence[Any]]) -> None:
        """Count ``rows``: each holds one value a column, in column order; anything but a number is a type error."""
        ...

    def counts(self) -> list[ColumnCounts]:
        """Return what was counted so far, in column order; never touched again."""
        ...


class Binner(Protocol):
    """What tallies of the same columns share; any number of them may be alive."""

    def tally(self) -> Tally:
        """Return a tally that has counted nothing."""
        ...


def thresholds(column: ColumnBaseline) -> list[float]:
    """Return the 21 ascending thresholds of a numeric column.

    ``bisect_right(thresholds, x)`` is 0 for ``under``, 1..20 for the bins, 21 for ``over``: low, the 19 inner edges,
    and the first number above high.
    """
    return [column.low, *column.edges[1:BINS], math.nextafter(column.high, math.inf)]


def as_number(value: object) -> float | None:
    """Return ``value`` as a float (None is NaN), or None if a numeric column cannot hold it.

    Text is never parsed: a device that sends ``"1.5"`` has a fault that should be seen.
    """
    if value is None:
        return math.nan
    if isinstance(value, (str, bytes, bytearray)):
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # the except clause is the check
    except (TypeError, ValueError, OverflowError):
        return None


class PythonBinner:
    """``Binner`` with nothing but the standard library; 1 to 3 us a value."""

    def __init__(self, columns: Sequence[ColumnBaseline]) -> None:
        self.columns = [(thresholds(column), column.mu0, column.sd0) for column in columns]

    def tally(self) -> PythonTally:
        """See ``Binner``."""
        return PythonTally(self)


class PythonTally:
    """``Tally`` of a ``PythonBinner``. Not thread-safe."""

    def __init__(self, binner: PythonBinner) -> None:
        self._binner = binner
        self._slots = [[0] * NUMERIC_SLOTS for _ in binner.columns]
        self._totals = [ColumnCounts(counts=[]) for _ in binner.columns]

    def add_rows(self, rows: Sequence[Sequence[Any]]) -> None:
        """See ``Tally``."""
        for row in rows:
            for value, total, slots, column in zip(row, self._totals, self._slots, self._binner.columns, strict=True):
                self._add(value, total, slots, *column)

    def counts(self) -> list[ColumnCounts]:
        """See ``Tally``."""
        return [
            msgspec.structs.replace(total, counts=_in_form_order(slots))
            for total, slots in zip(self._totals, self._slots, strict=True)
        ]

    @staticmethod
    def _add(value: Any, total: ColumnCounts, slots: list[int], bounds: list[float], mu0: float, sd0: float) -> None:
        total.n += 1
        x = as_number(value)
        if x is None:
            total.type_errors += 1
        elif math.isnan(x):
            total.missing += 1
        elif math.isinf(x):
            total.inf += 1
        else:
            x += 0.0  # -0.0 becomes 0.0, so that minima merge to the same bytes in any order
            slots[bisect_right(bounds, x)] += 1
            q = round(min(max((x - mu0) / sd0, -QUANT_CLIP), QUANT_CLIP) * QUANT_SCALE)
            total.sum_q += q
            total.sumsq_q += q * q
            total.min = x if total.min is None or x < total.min else total.min
            total.max = x if total.max is None or x > total.max else total.max


class NumpyBinner:
    """``Binner`` over whole blocks: 2-D operations where columns can share them, ``searchsorted`` a column."""

    def __init__(self, columns: Sequence[ColumnBaseline]) -> None:
        import numpy as np

        self.bounds = [np.array(thresholds(column), dtype=np.float64) for column in columns]
        self.mu0 = np.array([[column.mu0] for column in columns], dtype=np.float64)
        self.sd0 = np.array([[column.sd0] for column in columns], dtype=np.float64)
        self.offsets = np.arange(len(columns), dtype=np.intp)[:, None] * _WIDTH

    def tally(self) -> NumpyTally:
        """See ``Binner``."""
        return NumpyTally(self)


class NumpyTally:
    """``Tally`` of a ``NumpyBinner``; takes whole blocks too. Not thread-safe."""

    def __init__(self, binner: NumpyBinner) -> None:
        import numpy as np

        self._np = np
        self._binner = binner
        columns = len(binner.bounds)
        self._rows = 0
        self._slots = np.zeros((columns, _WIDTH), dtype=np.int64)
        # Sums of squares stay below 2**63 for 2**31 rows.
        self._sums = np.zeros((2, columns), dtype=np.int64)
        self._missing = np.zeros(columns, dtype=np.int64)
        self._type_errors = [0] * columns
        self._min = np.full(columns, math.inf)
        self._max = np.full(columns, -math.inf)

    def add_rows(self, rows: Sequence[Sequence[Any]]) -> None:
        """See ``Tally``."""
        np = self._np
        try:
            block = np.array(rows)
        except (ValueError, TypeError, OverflowError):
            block = np.empty(0, dtype=object)
        if block.dtype.kind in "fiub" and block.ndim == 2:
            self.add_block(np.ascontiguousarray(block.T, dtype=np.float64))
            return
        # Rare: some value is None, text or an object. Clean them one by one, as the pure path does.
        clean = np.empty((len(self._type_errors), len(rows)), dtype=np.float64)
        for at, row in enumerate(rows):
            for index, value in enumerate(row):
                x = as_number(value)
                self._type_errors[index] += x is None
                clean[index, at] = math.nan if x is None else x
        self.add_block(clean)

    def add_block(self, block: NDArray[Any]) -> None:
        """Count ``block``, float64 [columns, rows], each column contiguous."""
        columns, rows = block.shape
        self._rows += rows
        for column in range(0, columns, _COLUMNS_AT_ONCE):
            for row in range(0, rows, _ROWS_AT_ONCE):
                part = slice(column, column + _COLUMNS_AT_ONCE)
                self._add_part(block[part, row : row + _ROWS_AT_ONCE], part)

    def counts(self) -> list[ColumnCounts]:
        """See ``Tally``."""
        slots, sums, missing = self._slots.tolist(), self._sums.tolist(), self._missing.tolist()
        low, high = self._min.tolist(), self._max.tolist()
        return [
            ColumnCounts(
                counts=_in_form_order(slots[c]),
                n=self._rows,
                # A type error was put into the block as NaN.
                missing=missing[c] - self._type_errors[c],
                inf=slots[c][_NONFINITE] - missing[c],
                type_errors=self._type_errors[c],
                sum_q=sums[0][c],
                sumsq_q=sums[1][c],
                min=low[c] + 0.0 if slots[c][_NONFINITE] < self._rows else None,
                max=high[c] + 0.0 if slots[c][_NONFINITE] < self._rows else None,
            )
            for c in range(len(slots))
        ]

    def _add_part(self, values: NDArray[Any], part: slice) -> None:
        np = self._np
        mu0 = self._binner.mu0[part]
        finite = np.isfinite(values)
        whole = bool(finite.all())
        if not whole:
            self._missing[part] += np.isnan(values).sum(axis=1)
            values = np.where(finite, values, mu0)  # the mean adds nothing to the sums
        with np.errstate(over="ignore"):  # +-1e308 less its mean may overflow; the clip below is meant to catch it
            q = values - mu0
            q /= self._binner.sd0[part]
        np.maximum(q, -QUANT_CLIP, out=q)
        np.minimum(q, QUANT_CLIP, out=q)
        q *= QUANT_SCALE
        np.rint(q, out=q)
        # Whole numbers below 2**53 add exactly in float64: _ROWS_AT_ONCE * 2**32 is far below.
        self._sums[0, part] += q.sum(axis=1).astype(np.int64)
        self._sums[1, part] += np.einsum("ij,ij->i", q, q).astype(np.int64)
        slot = np.empty(values.shape, dtype=np.intp)
        for index, bounds in enumerate(self._binner.bounds[part]):
            slot[index] = bounds.searchsorted(values[index], side="right")
        low = high = values
        if not whole:
            slot[~finite] = _NONFINITE
            low, high = np.where(finite, values, math.inf), np.where(finite, values, -math.inf)
        columns = len(values)
        slot += self._binner.offsets[:columns]
        self._slots[part] += np.bincount(slot.ravel(), minlength=columns * _WIDTH).reshape(columns, _WIDTH)
        np.minimum(self._min[part], low.min(axis=1), out=self._min[part])
        np.maximum(self._max[part], high.max(axis=1), out=self._max[part])


def make_binner(columns: Sequence[ColumnBaseline], *, use_numpy: bool | None = None) -> Binner:
    """Return a binner for ``columns`` (all numeric).

    Args:
        columns: in the order of the rows to come.
        use_numpy: None = where it is installed.
    """
    if use_numpy is None:
        try:
            return NumpyBinner(columns)
        except ImportError:
            return PythonBinner(columns)
    return NumpyBinner(columns) if use_numpy else PythonBinner(columns)


def _in_form_order(slots: list[int]) -> list[int]:
    """Reorder threshold slots (under, bins, over) to the form's order (bins, under, over)."""
    return [*slots[1 : BINS + 1], slots[0], slots[BINS + 1]]
