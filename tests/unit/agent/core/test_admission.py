"""What puts an update off, and that it costs nothing; what a person may do about it."""

from dataclasses import replace

import pytest

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.policy import DEFAULT_POLICY
from agent.core.reasons import CONDITIONS, ENVIRONMENT, reason_of
from agent.core.state import Asked, Release, Step, UpdaterState
from agent.core.updater import update
from bundles.wire.messages import Profile

PROFILE = Profile(probation_s=60, accept_s=100, download_s=200, activate_s=50)
A, B, C = (Release(f"t/m/{n}.0.0/bundle.json", letter * 64, 100, n) for n, letter in ((1, "a"), (2, "b"), (3, "c")))
RUNNING_A = UpdaterState("t/m", Step.CONFIRMED, gen=1, profile=PROFILE, target=A, committed=A)
RUNNING_B = replace(RUNNING_A, gen=2, target=B, committed=B, previous=A, floor=1)
TO_DOWNLOAD = [ev.DesiredChanged(1_000, Asked(2, B, "r1", PROFILE)), ev.Authorized(2_000, B.sha256)]
TO_ACTIVATE = [
    *TO_DOWNLOAD,
    ev.Admitted(2_500, B.sha256, "download"),
    ev.Downloaded(3_000, B.sha256, "2.0.0", "v1"),
    ev.Verified(4_000, B.sha256),
    ev.Staged(5_000, B.sha256),
]
WAYS = [("download", TO_DOWNLOAD, Step.AUTHORIZING), ("activate", TO_ACTIVATE, Step.STAGING)]
CODES = ["CONDITION_WINDOW", "CONDITION_LOCK", "CONDITION_BATTERY", "CONDITION_METERED", "CONDITION_MEMORY",
         "CONDITION_BUDGET"]  # fmt: skip
COUNTS = ("attempts", "recoveries", "transitions", "deferrals", "wrong_content", "tried")


def tell(state, *events, policy=DEFAULT_POLICY):
    effects = ()
    for event in events:
        state, effects = update(state, event, policy)
    return state, effects


def against(code="CONDITION_LOCK", at=6_000, sha256=B.sha256, wait_ms=0):
    return ev.EffectFailed(at, "admit", sha256, code, True, "not now", 0.5, wait_ms)


def without_journal(effects):
    return [effect for effect in effects if not isinstance(effect, fx.Journal | fx.SetTimer)]


def counts(state):
    return {name: getattr(state, name) for name in COUNTS}


@pytest.mark.parametrize("code", CODES)
def test_every_condition_has_its_word_and_is_no_failure(code):
    assert reason_of(code) == code.removeprefix("CONDITION_").lower()
    assert reason_of(code) in CONDITIONS <= ENVIRONMENT


@pytest.mark.parametrize(("stage", "way", "step"), WAYS)
def test_a_stage_is_asked_for_before_it_begins_and_once(stage, way, step):
    state, effects = tell(RUNNING_A, *way)
    assert (state.step, state.asks) == (step, stage)
    assert without_journal(effects)[-1] == fx.Admit(state.target, stage)
    assert tell(state, way[-1]) == (state, ()), "told twice"
    state, effects = tell(state, ev.Admitted(6_000, B.sha256, stage))
    begun = {"download": (Step.DOWNLOADING, fx.Download), "activate": (Step.ACTIVATING, fx.Activate)}[stage]
    assert (state.step, type(effects[-2])) == begun
    assert tell(state, ev.Admitted(6_000, B.sha256, stage)) == (state, ()), "told twice"


@pytest.mark.parametrize(("stage", "way", "step"), WAYS)
@pytest.mark.parametrize("code", [*CODES, "DISK_FULL"])
def test_a_condition_defers_says_why_and_costs_nothing(stage, way, step, code):
    asked, _ = tell(RUNNING_A, *way)
    state, effects = tell(asked, against(code))
    assert (state.step, state.reason, state.code, state.asks) == (Step.DEFERRED, reason_of(code), code, stage)
    assert without_journal(effects) == [fx.Report("deferred", B.sha256, reason_of(code), code, "not now")]
    assert state.retry_ms == 6_000 + 30_000
    assert counts(state) == counts(asked)
    assert B.sha256 in state.retained, "what is here is kept"
    assert tell(state, against(code)) == (state, ()), "told twice"


def test_it_is_looked_at_again_every_30_s_and_told_once():
    state, _ = tell(RUNNING_A, *TO_ACTIVATE, against())
    begun = state
    for look in range(200):
        at = state.retry_ms
        state, effects = tell(state, ev.Ticked(at))
        assert without_journal(effects) == [fx.Admit(state.target, "activate")]
        state, effects = tell(state, against(at=at + 100))
        assert without_journal(effects) == [], f"told anew at look {look}"
        assert state.retry_ms == at + 100 + 30_000
    assert counts(state) == counts(begun)
    assert (state.since_ms, len(state.history)) == (begun.since_ms, len(begun.history))


def test_another_condition_is_another_reason():
    state, _ = tell(RUNNING_A, *TO_ACTIVATE, against())
    state, effects = tell(state, ev.Ticked(36_000), against("CONDITION_WINDOW", at=36_100))
    assert without_journal(effects) == [fx.Report("deferred", B.sha256, "window", "CONDITION_WINDOW", "not now")]
    assert state.since_ms == 36_100


def test_an_opening_that_is_near_is_met_to_the_millisecond():
    state, effects = tell(RUNNING_A, *TO_ACTIVATE, against("CONDITION_WINDOW", wait_ms=12_345))
    assert state.retry_ms == 6_000 + 12_345
    assert effects[-1] == fx.SetTimer(6_000 + 12_345)


def test_a_far_opening_is_looked_at_all_the_same_because_a_clock_may_be_set():
    state, _ = tell(RUNNING_A, *TO_ACTIVATE, against("CONDITION_WINDOW", wait_ms=10**8))
    assert state.retry_ms == 6_000 + 30_000


def test_a_change_is_looked_at_at_once():
    state, _ = tell(RUNNING_A, *TO_ACTIVATE, against())
    state, effects = tell(state, ev.ConditionsChanged(7_000))
    assert effects == (fx.SetTimer(7_000),)
    assert tell(state, ev.ConditionsChanged(7_000)) == (state, ()), "told twice"
    state, effects = tell(state, ev.Ticked(7_000))
    assert without_journal(effects) == [fx.Admit(state.target, "activate")]
    assert tell(RUNNING_A, ev.ConditionsChanged(7_000)) == (RUNNING_A, ())


def test_a_download_that_was_put_off_is_authorized_anew():
    state, _ = tell(RUNNING_A, *TO_DOWNLOAD, against("CONDITION_METERED"))
    state, effects = tell(state, ev.Ticked(36_000), ev.Admitted(36_100, B.sha256, "download"))
    assert (state.step, state.asks, without_journal(effects)[-1]) == (Step.AUTHORIZING, "", fx.Authorize(state.target))


def test_an_activation_that_was_put_off_is_hashed_and_tried_anew_without_a_download():
    state, _ = tell(RUNNING_A, *TO_ACTIVATE, against("CONDITION_WINDOW"))
    state, effects = tell(state, ev.Ticked(36_000), ev.Admitted(90_000_000, B.sha256, "activate"))
    assert (state.step, state.reason) == (Step.VERIFYING, "")
    assert without_journal(effects)[-1] == fx.Verify(state.target)
    state, effects = tell(state, ev.Verified(90_001_000, B.sha256), ev.Staged(90_002_000, B.sha256))
    assert effects[-2] == fx.Admit(state.target, "activate"), "and asked for once more: the window may have closed"


@pytest.mark.parametrize(("step", "effect", "code", "stage"), [
    (Step.DOWNLOADING, "download", "CONDITION_BUDGET", "download"),
    (Step.STAGING, "stage", "CONDITION_MEMORY", "activate"),
])  # fmt: skip
def test_a_condition_met_in_the_work_itself_puts_it_off_the_same_way(step, effect, code, stage):
    state = RUNNING_A
    for event in TO_ACTIVATE:
        state, _ = tell(state, event)
        if state.step is step:
            break
    begun = counts(state)
    state, _ = tell(state, ev.EffectFailed(6_000, effect, B.sha256, code, True, "not now", 0.5))
    assert (state.step, state.asks, state.retry_ms) == (Step.DEFERRED, stage, 36_000)
    assert counts(state) == begun


@pytest.mark.parametrize(("stage", "way", "step"), WAYS)
def test_an_answer_that_never_comes_is_asked_for_again_and_nobody_is_blamed(stage, way, step):
    state, _ = tell(RUNNING_A, *way)
    due = state.deadline_ms
    state, effects = tell(state, ev.Ticked(due))
    assert (state.step, state.reason, without_journal(effects)) == (step, "", [fx.Admit(state.target, stage)])
    assert state.deadline_ms > due


def test_a_look_that_fails_is_repeated():
    state, _ = tell(RUNNING_A, *TO_ACTIVATE)
    state, _ = tell(state, ev.EffectFailed(6_000, "admit", B.sha256, "STORE_IO", True, "", 0.5))
    assert (state.step, state.retry_ms) == (Step.STAGING, 7_000)
    _, effects = tell(state, ev.Ticked(7_000))
    assert without_journal(effects) == [fx.Admit(state.target, "activate")]


def test_a_start_looks_again_at_once_and_counts_nothing():
    state, _ = tell(RUNNING_A, *TO_ACTIVATE, against("CONDITION_BATTERY"))
    started, effects = tell(state, ev.Booted(50_000))
    assert without_journal(effects) == [fx.Serve(A), fx.Admit(state.target, "activate")]
    assert counts(started) == counts(state)
    assert started.step is Step.DEFERRED


def test_a_way_back_is_never_put_off():
    state, effects = tell(
        RUNNING_B, ev.DesiredChanged(1_000, Asked(3, A, "r1", PROFILE)), ev.Authorized(2_000, A.sha256)
    )
    assert (state.step, without_journal(effects)[-1]) == (Step.ACTIVATING, fx.Activate(A))
    state, effects = tell(RUNNING_B, ev.RollbackRequested(1_000, "ann"))
    assert without_journal(effects) == [fx.Revert(A)]
    state, _ = tell(RUNNING_A, *TO_ACTIVATE, against())
    state, _ = tell(state, ev.DesiredChanged(7_000, Asked(3, A, "r1", PROFILE)))
    assert (state.step, state.target) == (Step.CONFIRMED, A), "back to what runs: nothing is left to wait for"


def test_where_nothing_answers_the_activation_waits_for_nothing():
    empty = UpdaterState("t/m", profile=PROFILE)
    state, _ = tell(empty, *TO_ACTIVATE)
    assert state.step is Step.ACTIVATING


def test_another_release_takes_the_place_of_the_one_put_off():
    state, _ = tell(RUNNING_A, *TO_ACTIVATE, against())
    state, effects = tell(state, ev.DesiredChanged(7_000, Asked(3, C, "r2", PROFILE)))
    assert (state.step, state.asks, state.target) == (Step.AUTHORIZING, "", C)
    assert fx.Cancel(B.sha256) in effects


class TestRetry:
    def test_what_is_put_off_is_looked_at_and_the_condition_still_holds(self):
        state, _ = tell(RUNNING_A, *TO_ACTIVATE, against())
        state, _ = tell(state, ev.RetryRequested(7_000, "ann"))
        state, effects = tell(state, ev.Ticked(7_000))
        assert without_journal(effects) == [fx.Admit(state.target, "activate")]

    def test_a_denied_release_is_begun_anew(self):
        denied = replace(RUNNING_A, gen=2, rollout="r1", target=B, step=Step.FAILED, reason="denied", attempts=2)
        state, _ = tell(replace(denied, transitions=30), ev.RollbackRequested(1, "x"))
        state, effects = tell(state, ev.RetryRequested(7_000, "ann"))
        assert (state.step, state.attempts, state.transitions, state.tried) == (Step.AUTHORIZING, 0, 0, ())
        assert without_journal(effects)[-1] == fx.Authorize(B)
        assert tell(state, ev.RetryRequested(7_000, "ann")) == (state, ()), "told twice"

    def test_what_waits_for_contact_is_begun_at_once(self):
        state = replace(RUNNING_A, gen=2, target=B, step=Step.DEFERRED, reason="offline")
        state, effects = tell(state, ev.RetryRequested(7_000, "ann"))
        assert without_journal(effects)[-1] == fx.Authorize(B)

    def test_what_trust_forbids_stays_where_it_is(self):
        state = replace(RUNNING_A, gen=2, target=B, step=Step.FAILED, revoked=(B.sha256,))
        assert tell(state, ev.RetryRequested(7_000, "ann")) == (state, ())

    @pytest.mark.parametrize("state", [RUNNING_A, RUNNING_B, UpdaterState("t/m")])
    def test_what_runs_is_left_alone(self, state):
        assert tell(state, ev.RetryRequested(7_000, "ann")) == (state, ())
