"""The geometry of a bar: devices by state as segments that add up to the wave. Colour and labels are the template's.

Drawn as SVG attributes, which a strict Content-Security-Policy allows where it forbids inline style. Up to
``CELLS_UP_TO`` devices each one is a cell of its own, so that one failure among sixteen is seen as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from control_plane.core.states import FAILURES, IN_PROGRESS, DeviceState
from control_plane.web.wording import tone, words

CELLS_UP_TO = 120

S = DeviceState
ORDER: tuple[DeviceState, ...] = (
    S.CONFIRMED,
    *reversed(IN_PROGRESS),
    S.OFFERED,
    *FAILURES,
    S.ROLLING_BACK,
    S.ROLLED_BACK,
    S.DEFERRED,
    S.QUEUED,
    S.SKIPPED,
    S.SUPERSEDED,
    S.CANCELED,
)
"""Left to right: done, on the way, against the release, back again, out of it."""


@dataclass(frozen=True)
class Segment:
    """One state in a bar.

    Attributes:
        state: its stored name.
        label: its name for people.
        tone: see ``wording``.
        count: devices.
        cells: (x, width) of what is drawn, in devices from the left.
    """

    state: str
    label: str
    tone: str
    count: int
    cells: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Bar:
    """A whole bar; ``total`` is its width in devices, at least 1."""

    total: int
    segments: tuple[Segment, ...]

    @property
    def sentence(self) -> str:
        """The bar for those who do not see it."""
        return ", ".join(f"{one.count} {one.label}" for one in self.segments) or "no devices"


def bar(states: Mapping[str, int]) -> Bar:
    """Return the bar of devices by state; states this code does not know are drawn last."""
    known = [state.value for state in ORDER]
    names = [*known, *sorted(set(states) - set(known))]
    total = sum(states.values())
    segments, left = [], 0
    for name in names:
        if count := states.get(name, 0):
            cells = tuple((left + index, 1) for index in range(count)) if total <= CELLS_UP_TO else ((left, count),)
            segments.append(Segment(name, words(name), tone(name), count, cells))
            left += count
    return Bar(max(1, total), tuple(segments))
