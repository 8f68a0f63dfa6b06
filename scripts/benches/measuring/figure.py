"""One measured figure, its form in JSON and in a table. Less is better, unless a figure says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        is_quick: fewer repeats: to see that a bench works, not to quote.
        models: folder of further models, or None.
    """

    is_quick: bool = False
    models: Path | None = None

    def repeats(self, full: int, quick: int) -> int:
        """Return how often to repeat."""
        return quick if self.is_quick else full


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        bench: which bench.
        metric: what was measured.
        value: the median.
        unit: of ``value`` and ``peer_value``.
        peer: what it is compared with, measured in the same run; empty = nothing.
        peer_value: the peer's median.
        bar: highest value the design allows (lowest, where more is better); None = it names none.
        is_bar_of_ratio: the bar is on ``ratio``, not on ``value``.
        n: measurements behind the median.
        note: what a reader must know.
        is_more_better: the bar is the lowest value allowed.
    """

    bench: str
    metric: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    bar: float | None = None
    is_bar_of_ratio: bool = False
    n: int = 1
    note: str = ""
    is_more_better: bool = False

    @property
    def ratio(self) -> float | None:
        """``value`` in units of the peer's."""
        return self.value / self.peer_value if self.peer_value else None

    @property
    def ok(self) -> bool | None:
        """Whether the bar is kept; None where there is none."""
        judged = self.ratio if self.is_bar_of_ratio else self.value
        if self.bar is None or judged is None:
            return None
        return judged >= self.bar if self.is_more_better else judged <= self.bar

    def with_note(self, more: str) -> Figure:
        """Return the figure with ``more`` said at the end of its note."""
        return replace(self, note="; ".join(filter(None, [self.note, more])))

    def _about_bar(self) -> list[str]:
        about = ["bar on the ratio"] if self.is_bar_of_ratio else []
        return [*about, "more is better"] if self.is_more_better else about

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of this figure."""
        return {
            "bench": self.bench,
            "metric": self.metric,
            "value": _rounded(self.value),
            "unit": self.unit,
            "peer": self.peer,
            "peer_value": _rounded(self.peer_value),
            "ratio": _rounded(self.ratio),
            "bar": self.bar,
            "ok": self.ok,
            "n": self.n,
            "note": "; ".join(filter(None, [*self._about_bar(), self.note])),
        }


_COLUMNS = "{:<10} {:<42} {:>10} {:<8} {:>9} {:>7} {:>8} {:<4} {:>5}  {}"


def header() -> str:
    """Return the head of the table."""
    return _COLUMNS.format("bench", "metric", "value", "unit", "peer", "ratio", "bar", "ok", "n", "compared with; note")


def row(figure: Figure) -> str:
    """Return the figure's line of the table."""
    bar = "" if figure.bar is None else f"{figure.bar:g}{'x' if figure.is_bar_of_ratio else ''}"
    return _COLUMNS.format(
        figure.bench,
        figure.metric,
        _short(figure.value),
        figure.unit,
        _short(figure.peer_value),
        "" if figure.ratio is None else f"{figure.ratio:.2f}x",
        bar,
        {True: "ok", False: "MISS", None: ""}[figure.ok],
        figure.n,
        "; ".join(filter(None, [figure.peer, figure.note])),
    ).rstrip()


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _rounded(value: float | None) -> float | None:
    """Return ``value`` with the five digits that can mean something."""
    return None if value is None else float(f"{value:.5g}")
