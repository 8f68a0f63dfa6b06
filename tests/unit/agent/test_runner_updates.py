"""Journal before effects, effects in order, answers as events: with the real core and a real schedule."""

import threading
from dataclasses import replace

import pytest

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.journal import decode_state
from agent.core.policy import Policy
from agent.core.state import Asked, Release, Step, UpdaterState
from agent.runner import updates as updates_module
from agent.runner.schedule import Schedule, SteadyClock
from agent.runner.updates import Updates
from bundles.errors import TryAgain

MODEL = "vision/digits"
RELEASE = Release("vision/digits/1.0.0/bundle.json", "a" * 64, 100, 1)
ASKED = ev.DesiredChanged(0, Asked(1, RELEASE))
ADMITTED = {
    fx.Authorize: ev.Authorized(0, RELEASE.sha256),
    fx.Admit: ev.Admitted(0, RELEASE.sha256, "download"),
}


class Rig:
    """Records what is carried out; answers as told."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(updates_module, "JOURNAL_RETRY_MS", 20)
        self.log, self.journal, self.disk_errors, self.answers = [], [], 0, {}
        self.schedule = Schedule(SteadyClock().now_ms, workers=2)
        slow = [fx.Authorize, fx.Admit, fx.Download, fx.Verify, fx.Stage, fx.Activate, fx.Revert, fx.Serve, fx.Judge]
        silent = [fx.Commit, fx.RaiseFloor, fx.CollectGarbage, fx.Discard]
        self.updates = Updates(
            self.schedule,
            Policy(commit_offline=True),
            self.save,
            quick=dict.fromkeys((fx.Report, fx.SetTimer, fx.Cancel), self.quick),
            slow=dict.fromkeys((*slow, *silent), self.slow),
            failed=lambda effect, error: ev.EffectFailed(0, "authorize", RELEASE.sha256, "X", False, str(error)),
            changed=lambda model: None,
        )
        self.thread = threading.Thread(target=self.schedule.run)
        self.thread.start()

    def save(self, model, data):
        if self.disk_errors:
            self.disk_errors -= 1
            raise TryAgain("full", code="DISK_FULL")
        self.log.append(("journal", decode_state(data).step))
        self.journal.append(data)

    def quick(self, model, effect):
        self.log.append((type(effect).__name__, getattr(effect, "phase", None)))

    def slow(self, model, effect):
        self.log.append((type(effect).__name__, threading.current_thread().name.startswith("agent-background")))
        answer = self.answers.get(type(effect))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def offer(self, event):
        self.schedule.soon(lambda: self.updates.offer(MODEL, event))

    def until(self, condition):
        done = threading.Event()

        def look():
            if condition():
                done.set()
            else:
                self.schedule.at("look", self.schedule.now_ms() + 5, look)

        self.schedule.soon(look)
        assert done.wait(10), self.log

    @property
    def step(self):
        state = self.updates.states.get(MODEL)
        return state.step if state else None


@pytest.fixture
def rig(monkeypatch):
    rig = Rig(monkeypatch)
    yield rig
    rig.schedule.stop()
    rig.thread.join()


def test_the_journal_is_written_before_anything_else_happens(rig):
    rig.offer(ASKED)
    rig.until(lambda: ("Authorize", True) in rig.log)
    assert rig.log[0] == ("journal", Step.AUTHORIZING)


def test_a_journal_that_cannot_be_written_stops_everything_until_it_can(rig):
    rig.disk_errors = 3
    rig.offer(ASKED)
    rig.until(lambda: rig.step is Step.AUTHORIZING)
    assert rig.disk_errors == 0
    assert [name for name, _ in rig.log].count("journal") == 1
    assert rig.log[0][0] == "journal"


@pytest.mark.parametrize("step", [Step.DOWNLOADING, Step.PROBATION, Step.REVERTING])
def test_a_start_on_a_full_disk_lets_what_is_known_answer_and_does_nothing_else(rig, step):
    old = Release("vision/digits/0.9.0/bundle.json", "b" * 64, 100, 0)
    way_back = old if step is Step.REVERTING else None
    rig.updates.states[MODEL] = UpdaterState(MODEL, step, gen=1, target=RELEASE, committed=old, revert_to=way_back)
    rig.disk_errors = 4
    rig.offer(ev.Booted(0))
    rig.until(lambda: rig.disk_errors == 0)
    until_room = rig.log[: next((i for i, (name, _) in enumerate(rig.log) if name == "journal"), len(rig.log))]
    assert until_room == [("Revert" if step is Step.REVERTING else "Serve", True)]


def test_answers_lead_to_the_next_step(rig):
    rig.answers = {**ADMITTED, fx.Download: TryAgain("net", code="DOWNLOAD_X")}
    rig.offer(ASKED)
    rig.until(lambda: any(name == "Download" for name, _ in rig.log))
    names = [name for name, _ in rig.log if name in ("Authorize", "Download")]
    assert names == ["Authorize", "Download"]


def test_an_unexpected_fault_of_a_step_becomes_its_answer(rig, caplog):
    rig.answers = {fx.Authorize: KeyError("a fault in the agent")}
    rig.offer(ASKED)
    rig.until(lambda: rig.step is Step.FAILED)
    assert rig.updates.states[MODEL].detail == "'a fault in the agent'"
    assert "failed" in caplog.text


def test_times_never_fall_even_for_late_answers(rig):
    seen = []
    original = rig.updates.offer

    def offer(model, event):
        original(model, event)
        seen.append(rig.updates.states[model].since_ms)

    rig.updates.offer = offer
    rig.answers = ADMITTED
    rig.offer(ASKED)
    rig.offer(replace(ASKED, asked=Asked(2, RELEASE)))
    rig.until(lambda: rig.step is Step.DOWNLOADING)
    assert seen == sorted(seen)
    assert seen[0] > 1_700_000_000_000
