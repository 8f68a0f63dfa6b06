"""Desired documents that cross on their way in."""

from __future__ import annotations

import pytest

from agent.runner.inbox import MAX_WAITING, Inbox
from bundles.errors import TrustRefused, TryAgain
from bundles.wire.messages import Desired


class Line:
    """A schedule whose background work waits until a test lets it go on."""

    def __init__(self) -> None:
        self.jobs = []

    def background(self, work, done) -> None:
        self.jobs.append((work, done))

    def work(self) -> None:
        """Carry out what is in the background now, and whatever that leads to."""
        while self.jobs:
            work, done = self.jobs.pop(0)
            try:
                found = work()
            except Exception as error:
                found = error
            done(found)


class Desk:
    """An inbox, a judge who accepts rising generations, and what came of it."""

    def __init__(self) -> None:
        self.line, self.judged, self.taken, self.refused, self.later = Line(), [], [], [], []
        self.gen, self.is_offline = 0, False
        self.inbox = Inbox(
            self.line, self._accept, lambda found: None, lambda desired: self.taken.append(desired.gen),
            lambda digest, error: self.refused.append(error.code), self.later.append,
        )  # fmt: skip

    def _accept(self, data: bytes) -> Desired:
        gen = int(data)
        self.judged.append(gen)
        if self.is_offline:
            raise TryAgain("no network")
        if gen < self.gen:
            raise TrustRefused("old", code="TRUST_ROLLBACK_DIRECTOR")
        self.gen = gen
        return Desired("dev-1", gen, 0, 1, {})


@pytest.fixture
def desk():
    return Desk()


def test_a_push_is_not_lost_to_the_answer_of_an_earlier_poll(desk):
    """The poll was answered before the push was made, and arrives after it, while the first is still being judged."""
    desk.inbox.put(b"1")
    desk.inbox.put(b"2")
    desk.inbox.put(b"1")
    desk.line.work()
    assert desk.taken == [1, 2]
    assert desk.refused == []


def test_what_is_in_force_is_not_judged_again(desk):
    desk.inbox.put(b"1")
    desk.line.work()
    desk.inbox.put(b"1")
    desk.line.work()
    assert desk.judged == [1]


def test_an_older_one_that_comes_after_a_newer_was_taken_is_refused(desk):
    desk.inbox.put(b"2")
    desk.line.work()
    desk.inbox.put(b"1")
    desk.line.work()
    assert (desk.taken, desk.refused) == ([2], ["TRUST_ROLLBACK_DIRECTOR"])


def test_what_cannot_be_judged_yet_comes_back_unless_a_newer_one_waits(desk):
    desk.is_offline = True
    desk.inbox.put(b"1")
    desk.inbox.put(b"2")
    desk.line.work()
    assert desk.judged == [1, 2]
    assert len(desk.later) == 1
    desk.is_offline = False
    desk.later[0]()
    desk.line.work()
    assert desk.taken == [2]


def test_of_a_flood_the_newest_stay(desk):
    for gen in range(1, 30):
        desk.inbox.put(b"%d" % gen)
    desk.line.work()
    assert desk.judged == [1, *range(30 - MAX_WAITING, 30)]


def test_nothing_is_judged_after_the_end(desk):
    desk.inbox.put(b"1")
    desk.inbox.put(b"2")
    desk.inbox.is_closed = True
    desk.line.work()
    assert desk.taken == []
