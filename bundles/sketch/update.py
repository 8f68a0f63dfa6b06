"""Filling one window: rows in, one ``ColumnCounts`` a column of the baseline out.

Rows are buffered and binned 256 at a time, which is what makes a value cost tens of nanoseconds. Leaves the binning
of numbers to ``binning``, deriving columns from tensors to ``columns``, and time, identity and locks to the device's
monitor. Columns the baseline does not know are ignored: nothing could be compared with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from bundles.sketch.binning import Binner, NumpyTally, make_binner
from bundles.sketch.form import Baseline, ColumnBaseline, ColumnCounts

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUFFER_ROWS = 256


class WindowPlan:
    """What windows of one baseline share; build it once and hand it to as many builders as there are devices.

    Numeric columns come in blocks that are always observed together (inputs, outputs, joint), so that a request
    that failed can be counted by its inputs alone.
    """

    def __init__(self, baseline: Baseline, *, use_numpy: bool | None = None) -> None:
        """Prepare thresholds.

        Args:
            baseline: checked by ``parse_baseline``.
            use_numpy: None = where it is installed; both ways give the same integers.
        """
        self.names = [column.name for column in baseline.columns]
        self.categorical = [column for column in baseline.columns if column.kind == "categorical"]
        self.blocks: list[tuple[list[str], Binner]] = []
        for source in ("input", "output", "joint"):
            block = [c for c in baseline.columns if c.kind == "numeric" and c.source == source]
            if block:
                self.blocks.append(([c.name for c in block], make_binner(block, use_numpy=use_numpy)))


class WindowBuilder:
    """Collects the columns of one window. Not thread-safe.

    A block of columns of which an observation names none was not observed; once it names one, the others of that
    block are missing in those rows.
    """

    def __init__(self, plan: WindowPlan | Baseline) -> None:
        if isinstance(plan, Baseline):
            plan = WindowPlan(plan)
        self._plan = plan
        self._numeric = [_NumericBlock(names, binner) for names, binner in plan.blocks]
        self._categorical = {column.name: _CategoricalColumn(column) for column in plan.categorical}

    def observe_row(self, row: Mapping[str, Any]) -> None:
        """Count one row: column name -> number, or category as text or whole number; None and NaN are missing."""
        for block in self._numeric:
            block.add_row(row)
        for name, column in self._categorical.items():
            if name in row:
                column.add_value(row[name])

    def observe_batch(self, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
        """Count many rows: column name -> 1-D values, all of one length.

        Raises:
            ValueError: the lengths differ; nothing was counted.
        """
        lengths = {len(values) for values in columns.values()}
        if len(lengths) > 1:
            raise ValueError(f"columns of one batch have the lengths {sorted(lengths)}")
        rows = lengths.pop() if lengths else 0
        if rows == 1:
            self.observe_row({name: _item(values[0]) for name, values in columns.items()})
        elif rows > 1:
            for block in self._numeric:
                block.add_batch(columns, rows)
            for name, column in self._categorical.items():
                if name in columns:
                    column.add_values(_items(columns[name]))

    def flush(self) -> dict[str, ColumnCounts]:
        """Bin what is buffered and return the counts so far, by column name in the baseline's order.

        Columns that saw nothing are left out. The counts returned are not touched again.
        """
        seen: dict[str, ColumnCounts] = {}
        for block in self._numeric:
            seen.update(block.counts())
        seen.update((name, column.counts()) for name, column in self._categorical.items())
        return {name: seen[name] for name in self._plan.names if name in seen and seen[name].n}


class _NumericBlock:
    """Numeric columns that are observed together: rows waiting to be binned, and their tally."""

    def __init__(self, names: list[str], binner: Binner) -> None:
        self._names = names
        self._known = frozenset(names)
        # itemgetter picks twenty values in the time a loop picks seven; of one name it would not make a tuple.
        self._pick: Callable[[Mapping[str, Any]], Sequence[Any]] = (
            itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)
        )
        self._tally = binner.tally()
        self._rows: list[Sequence[Any]] = []
        self._parts: list[NDArray[Any]] = []
        self._part_rows = 0

    def add_row(self, row: Mapping[str, Any]) -> None:
        if self._known.isdisjoint(row):
            return
        try:
            self._rows.append(self._pick(row))
        except KeyError:  # rare: some column is missing in this row
            self._rows.append([row.get(name, math.nan) for name in self._names])
        if len(self._rows) >= BUFFER_ROWS:
            self._bin_rows()

    def add_batch(self, columns: Mapping[str, Sequence[Any] | NDArray[Any]], rows: int) -> None:
        if self._known.isdisjoint(columns):
            return
        values = [columns.get(name) for name in self._names]
        if isinstance(self._tally, NumpyTally) and all(v is None or _is_numeric_array(v) for v in values):
            self._add_part(values, rows)
            return
        lists = [repeat(math.nan, rows) if v is None else _items(v) for v in values]
        self._rows.extend(zip(*lists, strict=False))
        if len(self._rows) >= BUFFER_ROWS:
            self._bin_rows()

    def counts(self) -> dict[str, ColumnCounts]:
        self._bin_rows()
        self._bin_parts()
        return dict(zip(self._names, self._tally.counts(), strict=True))

    def _add_part(self, values: Sequence[Any], rows: int) -> None:
        import numpy as np

        part = np.empty((len(values), rows), dtype=np.float64)
        for index, column in enumerate(values):
            part[index] = math.nan if column is None else column
        self._parts.append(part)
        self._part_rows += rows
        if self._part_rows >= BUFFER_ROWS:
            self._bin_parts()

    def _bin_rows(self) -> None:
        if self._rows:
            rows, self._rows = self._rows, []
            self._tally.add_rows(rows)

    def _bin_parts(self) -> None:
        if self._parts and isinstance(self._tally, NumpyTally):
            import numpy as np

            parts, self._parts, self._part_rows = self._parts, [], 0
            self._tally.add_block(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))


class _CategoricalColumn:
    """Counts of one categorical column, in slot order."""

    def __init__(self, column: ColumnBaseline) -> None:
        self._slots = {category: slot for slot, category in enumerate(column.categories)}
        self._counts = [0] * (len(column.categories) + 1)
        self._missing = self._type_errors = 0

    def add_value(self, value: Any) -> None:
        category = value if type(value) is str else as_category(value)
        if category is None:
            self._missing += 1
        elif category is UNREADABLE:
            self._type_errors += 1
        else:
            self._counts[self._slots.get(category, -1)] += 1

    def add_values(self, values: Iterable[Any]) -> None:
        for value in values:
            self.add_value(value)

    def counts(self) -> ColumnCounts:
        return ColumnCounts(
            counts=list(self._counts),
            n=sum(self._counts) + self._missing + self._type_errors,
            missing=self._missing,
            type_errors=self._type_errors,
        )


UNREADABLE = "\0unreadable"
"""A string no category is: what ``as_category`` makes of a value that cannot name one."""


def as_category(value: Any) -> str | None:
    """Return the category ``value`` names, or None where it is missing.

    Text stands for itself, a whole number for its decimal digits (3, 3.0 and True name ``3``, ``3`` and ``1``), any
    other finite number for its shortest decimal form. Everything else names no category and counts as a type error.
    """
    value = _item(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return UNREADABLE


def _is_numeric_array(values: Any) -> bool:
    dtype = getattr(values, "dtype", None)
    return dtype is not None and dtype.kind in "fiub"


def _item(value: Any) -> Any:
    """Return a numpy scalar as a plain value; anything else as it is."""
    return value.item() if hasattr(value, "item") else value


def _items(values: Any) -> list[Any]:
    """Return the values of an array or a sequence as plain values."""
    if hasattr(values, "tolist"):
        plain: list[Any] = values.tolist()
        return plain
    return [_item(value) for value in values]
