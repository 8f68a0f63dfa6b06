from agent.core import effects as fx
from agent.core.state import Release, Step, UpdaterState
from agent.runner.edges import Running
from agent.runner.reporting import Self, model_reported, phase_event, presence

OLD = Release("t/m/1/bundle.json", "a" * 64, 1, 5, "1", "v")
NEW = Release("t/m/2/bundle.json", "b" * 64, 1, 6, "2", "v")


def running(release):
    return Running(release.sha256, release.version, release.variant, "onnxruntime 1", "cpu", is_healthy=True)


def test_what_answers_is_what_the_engine_says_not_what_was_planned():
    state = UpdaterState("t/m", step=Step.ACTIVATING, target=NEW, committed=OLD)
    said = model_reported(state, running(OLD), 3)
    assert (said.sha256, said.version, said.counter, said.target_sha256) == (OLD.sha256, "1", 5, NEW.sha256)
    assert (said.phase, said.floor) == ("activating", 3)
    assert model_reported(state, None, 3).sha256 == ""


def test_the_way_back_is_the_committed_release_in_probation_and_the_previous_one_at_rest():
    probation = UpdaterState("t/m", step=Step.PROBATION, target=NEW, committed=OLD)
    assert model_reported(probation, running(NEW), 0).previous_sha256 == OLD.sha256
    rest = UpdaterState("t/m", step=Step.CONFIRMED, target=NEW, committed=NEW, previous=OLD)
    assert model_reported(rest, running(NEW), 0).previous_sha256 == OLD.sha256
    first = UpdaterState("t/m", step=Step.CONFIRMED, target=OLD, committed=OLD)
    assert model_reported(first, running(OLD), 0).previous_sha256 == ""


def test_a_phase_event_says_who_asked_and_leaves_empty_things_out():
    state = UpdaterState("t/m", step=Step.FAILED, gen=4, rollout="r1", target=NEW, attempts=1)
    event = phase_event(state, "t/m", fx.Report("failed", NEW.sha256, "load", "MODEL_INVALID", "It does not load."))
    assert event["data"] == {"phase": "failed", "reason": "load", "rollout": "r1", "attempt": 1, "variant": "v"}
    assert (event["gen"], event["code"], event["sha256"]) == (4, "MODEL_INVALID", NEW.sha256)


def test_presence_names_what_answers():
    me = Self("cam-1", "0" * 16, 3, 0, "", (), {}, "0.1")
    said = presence(me, "online", 7, {"t/m": running(OLD), "t/n": None})
    assert (said.session, said.state, said.sha256) == (3, "online", {"t/m": OLD.sha256})
