"""The least pace of an answer, on a clock of the test's own."""

import pytest

from agent.pace import LEAST_BYTES, WINDOW_S, paced
from bundles.errors import TryAgain


class Link:
    """Pieces that take ``wait_s`` each to come, for somebody who needs ``work_s`` for each."""

    def __init__(self, sizes, wait_s, work_s=0.0):
        self.sizes, self.wait_s, self.work_s, self.seconds = sizes, wait_s, work_s, 0.0

    def pieces(self):
        for size in self.sizes:
            self.seconds += self.wait_s
            yield b"x" * size

    def read(self):
        taken = 0
        for piece in paced(self.pieces(), lambda: self.seconds):
            taken += len(piece)
            self.seconds += self.work_s
        return taken


def test_a_byte_a_second_is_cut_off_after_one_window():
    link = Link([1] * 100_000, 1.0)
    with pytest.raises(TryAgain) as caught:
        link.read()
    assert caught.value.code == "ANSWER_SLOW"
    assert link.seconds == WINDOW_S + 1


def test_a_link_of_2400_bits_a_second_is_left_alone():
    assert Link([300] * 10_000, 1.0).read() == 3_000_000


def test_a_fast_beginning_buys_no_slow_rest():
    link = Link([1 << 20] * 3 + [1] * 1000, 1.0)
    with pytest.raises(TryAgain):
        link.read()
    assert link.seconds < 3 * WINDOW_S


def test_silence_and_then_enough_is_as_good_as_a_steady_trickle():
    assert Link([LEAST_BYTES] * 5, WINDOW_S + 1).read() == 5 * LEAST_BYTES


def test_a_short_answer_may_take_its_time():
    assert Link([1] * 10, WINDOW_S / 11).read() == 10


def test_time_that_the_receiver_takes_does_not_count():
    assert Link([100] * 50, 0.01, work_s=WINDOW_S).read() == 5_000
