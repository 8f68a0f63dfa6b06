"""What a person may ask of a device's updaters, and the story that is told of them."""

import json
import time
from dataclasses import replace

import pytest

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.policy import Policy
from agent.core.state import Asked, Passage, Release, Step, Tried, UpdaterState
from agent.runner.owner import request_retry, request_rollback
from agent.runner.schedule import Schedule
from agent.runner.story import story, waits_for
from agent.runner.updates import Updates
from bundles.errors import Refused

MODEL = "vision/digits"
A, B, F = (Release(f"{MODEL}/{n}.0.0/bundle.json", letter * 64, 100, n) for n, letter in ((1, "a"), (2, "b"), (0, "f")))
RUNNING = UpdaterState(MODEL, Step.CONFIRMED, gen=2, target=B, committed=B, previous=A)


@pytest.fixture
def updates():
    done = []
    kinds = (fx.Report, fx.SetTimer, fx.Cancel, fx.Revert, fx.Authorize, fx.CollectGarbage, fx.Admit)
    made = Updates(
        Schedule(lambda: time.time_ns() // 10**6, workers=0),
        Policy(),
        lambda model, data: None,
        quick=dict.fromkeys(kinds, lambda model, effect: done.append(effect)),
        slow={},
        failed=lambda effect, error: None,
        changed=lambda model: None,
    )
    made.states[MODEL] = RUNNING
    made.done = done
    return made


def effects(updates, kind):
    return [effect for effect in updates.done if isinstance(effect, kind)]


def test_a_roll_back_leaves_what_the_person_saw_and_once(updates):
    assert request_rollback(updates, "", "ann", B.sha256) == MODEL
    assert effects(updates, fx.Revert) == [fx.Revert(A)]
    updates.offer(MODEL, ev.Activated(0, A.sha256))
    with pytest.raises(Refused) as caught:
        request_rollback(updates, MODEL, "ann", B.sha256)
    assert caught.value.code == "NO_PREVIOUS"
    assert len(effects(updates, fx.Revert)) == 1


def test_a_roll_back_may_go_to_the_factory_release(updates):
    updates.states[MODEL] = replace(RUNNING, previous=None, factory=F)
    request_rollback(updates, MODEL, "ann")
    assert effects(updates, fx.Revert) == [fx.Revert(F)]


def test_a_retry_begins_what_was_denied(updates):
    request_rollback(updates, MODEL, "ann")
    updates.offer(MODEL, ev.Activated(0, A.sha256))
    assert updates.states[MODEL].tried[0].attempts == 2
    assert request_retry(updates, "", "ann") == MODEL
    assert effects(updates, fx.Authorize) == [fx.Authorize(B)]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (RUNNING, "NOTHING_TO_RETRY"),
        (replace(RUNNING, step=Step.PROBATION), "NOTHING_TO_RETRY"),
        (replace(RUNNING, step=Step.FAILED, target=None), "NOTHING_TO_RETRY"),
        (replace(RUNNING, step=Step.FAILED, target=F, revoked=(F.sha256,)), "TRUST_REVOKED"),
    ],
)
def test_a_retry_that_makes_no_sense_says_so(updates, state, code):
    updates.states[MODEL] = state
    with pytest.raises(Refused) as caught:
        request_retry(updates, MODEL, "ann")
    assert caught.value.code == code
    assert updates.states[MODEL] == state


@pytest.mark.parametrize("ask", [request_rollback, request_retry])
def test_the_model_may_be_left_out_where_there_is_one(updates, ask):
    with pytest.raises(Refused) as caught:
        ask(updates, "vision/other", "ann")
    assert MODEL in caught.value.remedy
    updates.states["vision/other"] = UpdaterState("vision/other")
    with pytest.raises(Refused) as caught:
        ask(updates, "", "ann")
    assert "vision/other" in caught.value.remedy


def test_the_story_is_whole_and_plain():
    state = replace(
        RUNNING,
        step=Step.DEFERRED,
        target=replace(B, sha256="c" * 64, version="3.0.0"),
        factory=F,
        reason="window",
        code="CONDITION_WINDOW",
        asks="activate",
        since_ms=5,
        retry_ms=9,
        attempts=1,
        tried=(Tried("d" * 64, 2, 1, "r0", "health"), Tried("e" * 64, 1, 2, "r1", "load")),
        history=(Passage(5, "deferred", "c" * 64, "window", "CONDITION_WINDOW"),),
        pending=Asked(4, A),
    )
    told = json.loads(json.dumps(story(state, Policy(), (3, 10))))
    assert {name: release["version"] for name, release in told["releases"].items()} == {
        "active": "2.0.0", "committed": "2.0.0", "previous": "1.0.0", "factory": "0.0.0", "target": "3.0.0",
    }  # fmt: skip
    assert (told["step"], told["since_ms"], told["looked_at_ms"]) == ("deferred", 5, 9)
    assert told["waits_for"] == "the end of: window"
    assert told["counts"]["attempts"] == [1, 2]
    assert told["counts"]["transitions"] == [0, 30]
    assert [(d["sha256"][0], d["reason"]) for d in told["denied"]] == [("d", "health")]
    assert [t["sha256"][0] for t in told["tried"]] == ["e"]
    assert told["history"][0]["step"] == "deferred"
    assert (told["download"], told["next_gen"]) == (None, 4)


def test_progress_is_told_while_something_is_fetched():
    fetching = replace(RUNNING, step=Step.DOWNLOADING)
    assert story(fetching, Policy(), (3, 10))["download"] == {"bytes": 3, "of": 10}
    assert story(fetching, Policy(), (0, 0))["download"] is None


@pytest.mark.parametrize("step", list(Step))
def test_whatever_is_under_way_says_what_it_waits_for(step):
    state = replace(RUNNING, step=step, reason="offline" if step is Step.DEFERRED else "")
    assert bool(waits_for(state)) is not step.is_rest
