"""Several sources: who is asked, who rests, and when the way meant is the way used again."""

from contextlib import contextmanager

import pytest

from agent.download import Answer
from agent.download.turns import REST, InTurn, Turns
from bundles.errors import TryAgain

PIECES = [b"aaaa", b"bbbb", b"cccc"]


class Source:
    """Answers as told: a list of (status, pieces) or of errors; the last one stays."""

    def __init__(self, *answers):
        self.answers, self.asked, self.closed = list(answers), [], 0

    @contextmanager
    def open(self, url, offset, etag):
        self.asked.append((url, offset, etag))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, TryAgain):
            raise answer
        try:
            yield answer if isinstance(answer, Answer) else Answer(answer[0], iter(answer[1]))
        finally:
            self.closed += 1


def gone(code="SERVER_UNREACHABLE"):
    return TryAgain("Nobody answers.", code=code)


def breaking(*pieces, code="SERVER_UNREACHABLE"):
    yield from pieces
    raise gone(code)


class World:
    def __init__(self, **sources):
        self.now_s = 100.0
        self.turns = Turns(list(sources), lambda: self.now_s)
        self.one = InTurn(sources, self.turns)

    def read(self, url="u", offset=0):
        with self.one.open(url, offset, "e") as answer:
            return answer.status, b"".join(answer.chunks)


def test_the_first_that_has_it_is_used_and_no_other_is_asked():
    a, b = Source((200, PIECES)), Source((200, PIECES))
    assert World(https=a, mqtt=b).read() == (200, b"".join(PIECES))
    assert (len(a.asked), b.asked) == (1, [])


@pytest.mark.parametrize(
    "answer", [gone(), (503, []), (403, []), (302, []), Answer(200, iter([b"<html>"]), is_page=True)]
)
def test_one_that_fails_hands_over_at_once_and_rests(answer):
    a, b = Source(answer), Source((206, PIECES))
    world = World(https=a, mqtt=b)
    assert world.read(offset=7) == (206, b"".join(PIECES))
    assert b.asked == [("u", 7, "e")]
    assert world.turns.order() == ["mqtt", "https"]
    world.read()
    assert len(a.asked) == 1, "resting"


def test_rests_grow_end_and_are_forgotten():
    world = World(https=Source(gone()), mqtt=Source((200, PIECES)))
    rests = []
    for _ in range(8):
        world.turns.failed("https")
        start = world.now_s
        while world.turns.order()[0] != "https":
            world.now_s += 1
        rests.append(world.now_s - start)
    assert rests[:3] == [30, 60, 120]
    assert rests[-1] == REST.cap_s
    world.turns.worked("https")
    world.turns.failed("https")
    world.now_s += 30
    assert world.turns.order() == ["https", "mqtt"]


def test_a_file_that_is_not_there_says_nothing_against_the_source():
    a, b = Source((404, [])), Source((404, []))
    world = World(https=a, mqtt=b)
    assert world.read() == (404, b"")
    assert (len(a.asked), len(b.asked)) == (1, 1)
    assert world.turns.order() == ["https", "mqtt"]


@pytest.mark.parametrize("status", [429, 503])
def test_one_that_asks_for_patience_gets_it(status):
    busy = Answer(status, iter(()), retry_after_s=1.0)
    a, b = Source(busy), Source((200, PIECES))
    world = World(https=a, mqtt=b)
    assert world.read() == (status, b"")
    assert (len(a.asked), len(b.asked)) == (1, 0)
    assert world.turns.order() == ["https", "mqtt"]


def test_where_none_has_it_the_first_is_told_of():
    world = World(https=Source(gone("SERVER_UNREACHABLE")), mqtt=Source(gone("BROKER_UNREACHABLE")))
    with pytest.raises(TryAgain) as caught:
        world.read()
    assert caught.value.code == "SERVER_UNREACHABLE"
    with pytest.raises(TryAgain) as caught:
        world.read()
    assert caught.value.code == "SERVER_UNREACHABLE", "both rest, and are asked all the same"


@pytest.mark.parametrize(("pieces", "rests"), [([], True), ([b"x"], False)])
def test_one_that_breaks_off_rests_only_where_it_brought_nothing(pieces, rests):
    world = World(https=Source((200, breaking(*pieces))), mqtt=Source((200, PIECES)))
    with pytest.raises(TryAgain):
        world.read()
    assert (world.turns.order()[0] == "mqtt") is rests


def test_one_that_drips_rests():
    world = World(https=Source((200, breaking(b"x", code="ANSWER_SLOW"))), mqtt=Source((200, PIECES)))
    with pytest.raises(TryAgain):
        world.read()
    assert world.turns.order()[0] == "mqtt"


def test_the_way_meant_is_taken_again_as_soon_as_its_rest_is_over():
    world = World(https=Source(gone(), (206, [b"rest"])), mqtt=Source((200, PIECES)))
    with world.one.open("u", 0, "e") as answer:
        assert [next(answer.chunks), next(answer.chunks)] == PIECES[:2]
        world.now_s += 31
        with pytest.raises(TryAgain) as caught:
            next(answer.chunks)
    assert caught.value.code == "SOURCE_CHANGE"
    assert world.read(offset=8) == (206, b"rest")


def test_every_answer_is_closed():
    a, b = Source((503, [])), Source((200, PIECES))
    World(https=a, mqtt=b).read()
    assert (a.closed, b.closed) == (1, 1)
