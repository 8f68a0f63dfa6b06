"""Bars: every device is drawn exactly once, whatever the states."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.states import DeviceState
from control_plane.web.bars import CELLS_UP_TO, ORDER, bar

counts = st.dictionaries(st.sampled_from([*(s.value for s in DeviceState), "a_state_of_next_year"]), st.integers(0, 90))


@given(counts)
def test_cells_lie_side_by_side_and_add_up_to_the_wave(states):
    drawn = bar(states)
    cells = [cell for segment in drawn.segments for cell in segment.cells]
    left = 0
    for x, width in cells:
        assert x == left
        left += width
    assert left == sum(states.values())
    assert drawn.total == max(1, left)
    assert {segment.state: segment.count for segment in drawn.segments} == {k: v for k, v in states.items() if v}
    if left <= CELLS_UP_TO:
        assert all(width == 1 for _, width in cells)


def test_every_state_has_its_place():
    assert sorted(ORDER) == sorted(DeviceState)


def test_a_bar_reads_as_a_sentence():
    assert bar({"failed": 1, "confirmed": 15}).sentence == "15 confirmed, 1 failed"
    assert bar({}).sentence == "no devices"
