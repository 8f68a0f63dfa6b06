"""Two agents with one identity are told from one agent, and honest life raises nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.clones import STEPS_BACK, WINDOW_MS, Sighting, seen

A, B = "a" * 16, "b" * 16


def play(beats, every_ms=30_000):
    state = Sighting()
    for number, (epoch, session, beat) in enumerate(beats):
        state = seen(state, epoch, session, beat, number * every_ms)
    return state


def turns(first, second, count):
    return [beat for pair in zip(first[:count], second[:count], strict=True) for beat in pair]


def test_a_copy_with_a_spool_of_its_own_is_a_conflict():
    first, second = [(A, 5, n) for n in range(20)], [(B, 1, n) for n in range(20)]
    assert play(turns(first, second, 20)).is_conflict


def test_a_copy_of_the_whole_folder_is_a_conflict_at_the_same_session_and_at_others():
    for other in (5, 6):
        first, second = [(A, 5, n) for n in range(40, 60)], [(A, other, n) for n in range(20)]
        assert play(turns(first, second, 20)).is_conflict, other


def test_a_single_return_or_two_is_no_conflict():
    assert not play([(A, 1, 1), (B, 1, 1), (A, 1, 2), (B, 1, 2)]).is_conflict


def test_a_conflict_is_over_after_a_quiet_window():
    first, second = [(A, 5, n) for n in range(20)], [(B, 1, n) for n in range(20)]
    state = play(turns(first, second, 20))
    later = seen(state, B, 1, 21, state.since_ms + WINDOW_MS + 1)
    assert not later.is_conflict
    assert later.steps_back == 0


@given(st.lists(st.sampled_from(["beat", "restart", "new spool", "twice"]), max_size=200))
def test_no_honest_life_is_a_conflict(life):
    epochs, session, beat, beats = 0, 1, 0, []
    for step in life:
        if step == "twice" and beats:
            beats.append(beats[-1])
            continue
        if step == "restart":
            session, beat = session + 1, 0
        elif step == "new spool":
            epochs, session, beat = epochs + 1, session + 1, 0
        beat += 1
        beats.append((f"{epochs:016x}", session, beat))
    state = play(beats)
    assert state.steps_back == 0
    assert not state.is_conflict


@given(st.integers(1, STEPS_BACK - 1), st.integers(1, 8))
def test_a_few_redeliveries_by_a_killed_broker_are_no_conflict(kills, held):
    beats = []
    for kill in range(kills):
        run = [(A, 1, kill * 20 + n) for n in range(20)]
        beats += run + run[-held:]
    assert not play(beats).is_conflict
