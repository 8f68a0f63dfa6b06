"""Whole updates in simulated time, with a drawn fate for every effect: finds what only happens in the third act.

The shell here is the runner's contract at its smallest: effects in order, journal first, one queue of answers, a timer,
starts of the agent that forget everything but the journal and the pointer.
"""

import heapq
import random
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.health import Judgement
from agent.core.journal import decode_state, encode_state
from agent.core.policy import DEFAULT_POLICY
from agent.core.state import Asked, Release, Step, UpdaterState
from agent.core.updater import update
from bundles.wire.messages import Profile

PROFILE = Profile(probation_s=10, accept_s=60, download_s=120, activate_s=20)
OLD, NEW, OLDER, FACTORY = (Release(f"t/m/{n}.0.0/bundle.json", f"{n}" * 64, 100, n) for n in (2, 3, 1, 0))
GOOD_START = UpdaterState("t/m", Step.CONFIRMED, gen=1, profile=PROFILE, target=OLD, committed=OLD)
PAIR = replace(GOOD_START, previous=OLDER)
ENDS: Counter[str] = Counter()
STEPS: Counter[str] = Counter()
REASONS: Counter[str] = Counter()


class Device:
    """One device in virtual time.

    ``trouble`` is the chance that an effect fails, hangs or loses power; what is ``dead`` never answers.
    """

    factory: Release | None = None
    dead: frozenset[str] = frozenset()
    hears_late = False
    """Whether the control plane is heard only when no model is on probation."""
    puts_off = 0
    """Conditions still to be told before one lets anything pass."""

    def __init__(self, rng: random.Random, trouble: float, bad_model: bool, start: UpdaterState = GOOD_START) -> None:
        self.rng, self.trouble, self.bad_model = rng, trouble, bad_model
        self.disk_journal = encode_state(start)
        self.pointer = start.committed.sha256 if start.committed else ""
        self.answering = ""
        self.now, self.count = 0, 0
        self.queue: list[tuple[int, int, ev.Event]] = []
        self.timer = 0
        self.activations: Counter[str] = Counter()
        self.asked = Asked(2, NEW, "r1", PROFILE)
        self.events = 0

    def later(self, event_at_ms: int, make) -> None:
        self.count += 1
        heapq.heappush(self.queue, (event_at_ms, self.count, make(event_at_ms)))

    def boot(self) -> None:
        self.queue.clear()
        self.timer, self.answering = 0, ""
        self.state = decode_state(self.disk_journal)
        self.tell(ev.Booted(self.now, None, self.factory))
        self.later(self.now + 10, lambda at: ev.DesiredChanged(at, self.asked))
        self.later(self.now + 20, ev.ContactSeen)

    def tell(self, event: ev.Event) -> None:
        self.events += 1
        if self.hears_late and isinstance(event, ev.ContactSeen) and self.state.step is Step.PROBATION:
            return None
        new, effects = update(self.state, event)
        if any(isinstance(effect, fx.Journal) for effect in effects):
            assert isinstance(effects[0], fx.Journal)
        self.state = new
        STEPS[new.step] += 1
        REASONS[new.reason] += 1
        for effect in effects:
            if self.rng.random() < self.trouble / 4:
                self.now += 5_000
                return self.boot()
            self.carry_out(effect)
        return None

    def carry_out(self, effect: fx.Effect) -> None:
        answer_at = self.now + self.rng.randint(1, 3_000)
        match effect:
            case fx.Journal(state):
                self.disk_journal = encode_state(state)
            case fx.SetTimer(at_ms):
                self.timer = at_ms
            case fx.Admit(release, stage):
                if self.puts_off or self.rng.random() < self.trouble:
                    self.puts_off = max(0, self.puts_off - 1)
                    code = self.rng.choice(["CONDITION_WINDOW", "CONDITION_LOCK", "CONDITION_BATTERY", "DISK_FULL"])
                    wait_ms = self.rng.choice([0, 5_000])
                    failed = ev.EffectFailed(answer_at, "admit", release.sha256, code, True, "not now", 0.5, wait_ms)
                    self.later(answer_at, lambda at: failed)
                elif self.rng.random() > self.trouble / 4:
                    self.later(answer_at, lambda at: ev.Admitted(at, release.sha256, stage))
            case fx.Judge(sha256):
                verdict = "unhealthy" if self.bad_model and sha256 == NEW.sha256 else "healthy"
                reason = "errors" if verdict == "unhealthy" else ""
                self.later(self.now + 1, lambda at: ev.HealthSeen(at, sha256, Judgement(verdict, reason)))
            case fx.Authorize(release) | fx.Download(release) | fx.Verify(release) | fx.Stage(release):
                self.fate(type(effect).__name__.lower(), release.sha256, answer_at)
            case fx.Activate(release):
                self.activations[release.sha256] += 1
                self.fate("activate", release.sha256, answer_at)
            case fx.Revert(to):
                self.fate("revert", to.sha256 if to else "", answer_at)
            case fx.Serve(release):
                self.fate("serve", release.sha256, answer_at)

    def fate(self, kind: str, sha256: str, at: int) -> None:
        roll = self.rng.random()
        if sha256 in self.dead and kind in ("activate", "revert", "serve"):
            failed = ev.EffectFailed(at, kind, sha256, "MODEL_INVALID", False)
            self.later(at, lambda _: failed)
        elif kind in ("activate", "revert", "serve") and roll < 1 - self.trouble / 2:
            self.pointer = self.answering = sha256
            self.later(at, lambda t: ev.Activated(t, sha256))
            self.later(at + 50, ev.ContactSeen)
        elif roll < 1 - self.trouble:
            make = {
                "authorize": ev.Authorized,
                "download": lambda t, s: ev.Downloaded(t, s, "2", "v"),
                "verify": ev.Verified,
                "stage": ev.Staged,
            }[kind]
            self.later(at, lambda t: make(t, sha256))
        elif roll < 1 - self.trouble / 3:
            code = self.rng.choice(["DOWNLOAD_INTERRUPTED", "DISK_FULL", "STORE_CORRUPT", "NOT_READY"])
            self.later(at, lambda t: ev.EffectFailed(t, kind, sha256, code, True, draw=self.rng.random()))
        # else: no answer ever comes; a deadline must end it

    def run(self, limit: int) -> None:
        self.boot()
        while self.events < limit:
            if self.queue and (not self.timer or self.queue[0][0] <= self.timer):
                at, _, event = heapq.heappop(self.queue)
                self.now = max(self.now, at)
                self.tell(event)
            elif self.timer:
                self.now, self.timer = max(self.now, self.timer), 0
                self.tell(ev.Ticked(self.now))
            elif not self.state.step.is_rest:
                self.now += 60_000
                self.tell(ev.ContactSeen(self.now))
            else:
                return
        raise AssertionError(f"still {self.state.step} after {limit} events at {self.now} ms")

    def run_on(self, events: int) -> UpdaterState:
        """Go on for so many answers, as far as there are any."""
        for _ in range(min(events, len(self.queue))):
            at, _, event = heapq.heappop(self.queue)
            self.now = max(self.now, at)
            self.tell(event)
        return self.state


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([0.0, 0.02, 0.1, 0.3]), st.booleans())
def test_every_update_ends_on_the_old_release_or_the_new_one(random_seed, trouble, bad_model):
    device = Device(random.Random(random_seed), trouble, bad_model)
    device.run(limit=4_000)
    state = device.state
    ENDS[f"{state.step} {state.reason}".strip()] += 1
    assert device.pointer in (OLD.sha256, NEW.sha256, "")
    if trouble == 0.0:
        wanted, step = (OLD, Step.ROLLED_BACK) if bad_model else (NEW, Step.CONFIRMED)
        assert (device.answering, state.step) == (wanted.sha256, step)
    if bad_model:
        assert state.committed is None or state.committed.sha256 == OLD.sha256
        assert state.floor == 0
    assert decode_state(device.disk_journal).durable() == state.durable()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_a_device_that_loses_power_at_every_activation_gives_up_on_the_release(random_seed):
    device = Device(random.Random(random_seed), 0.0, bad_model=False)
    original = device.carry_out

    def power_cut(effect: fx.Effect) -> None:
        original(effect)
        if isinstance(effect, fx.Activate):
            device.queue.clear()
            device.later(device.now + 1, lambda at: ev.Booted(at))

    device.carry_out = power_cut
    device.run(limit=500)
    assert device.activations[NEW.sha256] == 2
    assert device.pointer == OLD.sha256
    assert device.state.reason == "reboot_loop"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 60))
def test_conditions_cost_nothing_however_long_they_last(random_seed, looks):
    device = Device(random.Random(random_seed), 0.0, bad_model=False)
    device.puts_off = looks
    device.run(limit=1_000)
    assert (device.state.step, device.answering) == (Step.CONFIRMED, NEW.sha256)
    assert device.activations == {NEW.sha256: 1}
    assert (device.state.recoveries, device.state.tried, device.state.transitions) == (0, (), 2)
    assert device.now < (looks + 10) * 33_000, "each look is 30 s after the last answer, at most"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([0.0, 0.1]), st.frozensets(st.sampled_from([OLD, OLDER, NEW, FACTORY])))
def test_something_answers_while_any_release_of_the_device_is_sound(random_seed, trouble, dead):
    device = Device(random.Random(random_seed), trouble, bad_model=False, start=PAIR)
    device.factory, device.dead = FACTORY, frozenset(release.sha256 for release in dead)
    try:
        device.run(limit=1_500)
    except AssertionError:  # nothing can ever answer: it is looked at again and again
        assert not {OLD.sha256, OLDER.sha256, FACTORY.sha256, NEW.sha256} - device.dead or trouble
    assert device.answering not in device.dead
    if trouble == 0.0 and not {OLD.sha256, OLDER.sha256, FACTORY.sha256} <= device.dead:
        assert device.answering


def test_a_rollback_target_that_is_also_bad_ends_on_the_factory_release():
    device = Device(random.Random(7), 0.0, bad_model=True, start=PAIR)
    device.factory, device.dead = FACTORY, frozenset({OLD.sha256, OLDER.sha256})
    device.run(limit=500)
    assert device.answering == device.state.committed.sha256 == FACTORY.sha256


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9))
def test_a_release_that_is_never_to_blame_and_never_comes_to_rest_is_given_up(random_seed):
    device = Device(random.Random(random_seed), 0.0, bad_model=False)
    device.hears_late = True
    device.run(limit=2_000)
    assert (device.state.step, device.state.reason) == (Step.ROLLED_BACK, "loop")
    assert device.activations[NEW.sha256] == DEFAULT_POLICY.max_transitions // 3
    assert device.answering == OLD.sha256
    device.asked = replace(device.asked, gen=3)
    device.boot()
    assert device.run_on(200).reason == "denied", "the same rollout does not lift it"


def test_what_was_explored():
    print("ends:", dict(ENDS), "steps:", dict(STEPS), "reasons:", dict(REASONS))
    assert {"confirmed", "rolled_back health"} <= set(ENDS)
    assert set(STEPS) >= set(Step) - {Step.IDLE}
    assert set(REASONS) >= {"window", "lock", "battery", "disk", "loop"}
