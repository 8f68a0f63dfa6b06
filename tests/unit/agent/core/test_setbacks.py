"""What the updater does when effects fail, waits end and the agent starts again."""

from dataclasses import replace

import pytest

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.health import Judgement
from agent.core.policy import DEFAULT_POLICY, MAX_EFFECT_TRIES, MAX_WRONG_CONTENT
from agent.core.state import Asked, Release, Step, UpdaterState
from agent.core.updater import update
from bundles.wire.messages import Profile

PROFILE = Profile(probation_s=60, accept_s=100, download_s=200, activate_s=50)
A, B = (Release(f"t/m/{n}.0.0/bundle.json", letter * 64, 100, n) for n, letter in ((1, "a"), (2, "b")))
RUNNING_A = UpdaterState("t/m", Step.CONFIRMED, gen=1, profile=PROFILE, target=A, committed=A)
RUNNING_B = replace(RUNNING_A, gen=2, target=B, committed=B, previous=A, floor=1)
WAY = [
    (ev.DesiredChanged(1_000, Asked(2, B, "r1", PROFILE)), "authorize"),
    (ev.Authorized(2_000, B.sha256), "admit"),
    (ev.Admitted(2_000, B.sha256, "download"), "download"),
    (ev.Downloaded(3_000, B.sha256, "2.0.0", "v1"), "verify"),
    (ev.Verified(4_000, B.sha256), "stage"),
    (ev.Staged(5_000, B.sha256), "admit"),
    (ev.Admitted(5_000, B.sha256, "activate"), "activate"),
    (ev.Activated(6_000, B.sha256), ""),
]


def tell(state, *events, policy=DEFAULT_POLICY):
    effects = ()
    for event in events:
        state, effects = update(state, event, policy)
    return state, effects


def at_step(step, start=RUNNING_A):
    state = start
    for event, _ in WAY:
        state, _ = update(state, event)
        if state.step is step:
            return state
    raise AssertionError(step)


def failed(effect, code, *, at=7_000, retryable=True, sha256=B.sha256, draw=0.5):
    return ev.EffectFailed(at, effect, sha256, code, retryable, "it failed", draw)


def kinds(effects):
    return [type(effect).__name__ for effect in effects]


BEFORE = [
    (Step.AUTHORIZING, "authorize", fx.Authorize),
    (Step.DOWNLOADING, "download", fx.Download),
    (Step.VERIFYING, "verify", fx.Verify),
    (Step.STAGING, "stage", fx.Stage),
]


class TestEffectsThatFail:
    @pytest.mark.parametrize(("step", "effect", "again"), BEFORE)
    def test_a_passing_failure_is_tried_again_after_a_jittered_wait(self, step, effect, again):
        state = at_step(step)
        state, effects = tell(state, failed(effect, "DOWNLOAD_INTERRUPTED", draw=0.25))
        assert (state.step, state.retry_ms) == (step, 7_000 + 500)
        assert kinds(effects) == ["SetTimer"]
        assert tell(state, failed(effect, "DOWNLOAD_INTERRUPTED")) == (state, ()), "told twice"
        state, effects = tell(state, ev.Ticked(7_500))
        assert kinds(effects) == [again.__name__, "SetTimer"]

    def test_waits_grow_and_are_bounded(self):
        state = at_step(Step.DOWNLOADING)
        waits, at = [], 7_000
        for _ in range(12):
            state, _ = tell(state, failed("download", "DOWNLOAD_INTERRUPTED", at=at, draw=0.999))
            waits.append(state.retry_ms - at)
            at = state.retry_ms
            state = replace(state, deadline_ms=10**9)
            state, _ = tell(state, ev.Ticked(at))
        assert waits == sorted(waits)
        assert waits[-1] <= 300_000

    @pytest.mark.parametrize(("step", "effect", "_again"), BEFORE)
    def test_a_lasting_failure_ends_the_update(self, step, effect, _again):
        state, _effects = tell(at_step(step), failed(effect, "BUNDLE_JSON", retryable=False))
        assert (state.step, state.reason, state.code) == (Step.FAILED, "verify", "BUNDLE_JSON")
        assert state.committed == A

    @pytest.mark.parametrize(("step", "effect", "_again"), BEFORE)
    def test_a_full_disk_puts_the_update_off_and_it_comes_back_by_itself(self, step, effect, _again):
        state, effects = tell(at_step(step), failed(effect, "DISK_FULL", draw=1.0))
        assert (state.step, state.reason, state.phase) == (Step.DEFERRED, "disk", "deferred")
        assert "Report" in kinds(effects)
        state, effects = tell(state, ev.Ticked(state.retry_ms))
        assert state.step is Step.AUTHORIZING
        assert (state.attempts, state.deferrals) == (0, 1)

    def test_no_variant_for_this_device_is_no_failure(self):
        state, _ = tell(at_step(Step.DOWNLOADING), failed("download", "NO_VARIANT", retryable=False))
        assert (state.step, state.reason) == (Step.DEFERRED, "no_variant")

    def test_wrong_bytes_are_fetched_a_few_times_and_no_more(self):
        state = at_step(Step.DOWNLOADING)
        for n in range(MAX_WRONG_CONTENT):
            assert state.step is Step.DOWNLOADING
            state, _ = tell(state, failed("download", "DOWNLOAD_DIGEST", at=7_000 + n))
            state, _ = tell(state, ev.Ticked(state.retry_ms)) if state.retry_ms else (state, ())
        assert (state.step, state.reason, state.code) == (Step.FAILED, "verify", "DOWNLOAD_DIGEST")

    def test_a_damaged_blob_is_fetched_again(self):
        state, effects = tell(at_step(Step.VERIFYING), failed("verify", "STORE_CORRUPT"))
        assert state.step is Step.DOWNLOADING
        assert "Download" in kinds(effects)

    @pytest.mark.parametrize("code", ["TRUST_EXPIRED_timestamp", "TRUST_CLOCK"])
    def test_a_refusal_that_may_pass_is_asked_again(self, code):
        state, _ = tell(at_step(Step.AUTHORIZING), ev.Refused(7_000, B.sha256, code))
        assert state.step is Step.AUTHORIZING
        assert state.retry_ms > 7_000

    @pytest.mark.parametrize("code", ["TRUST_FLOOR", "TRUST_REVOKED", "TRUST_UNSIGNED_team", "BUNDLE_CRITICAL"])
    def test_a_refusal_that_stays_ends_the_update(self, code):
        state, _effects = tell(at_step(Step.AUTHORIZING), ev.Refused(7_000, B.sha256, code, "no"))
        assert (state.step, state.reason, state.code) == (Step.FAILED, "verify", code)

    def test_a_failed_activation_is_tried_once_more_then_taken_back(self):
        state = at_step(Step.ACTIVATING)
        state, _ = tell(state, failed("activate", "NOT_READY"))
        state, effects = tell(state, ev.Ticked(state.retry_ms))
        assert kinds(effects) == ["Journal", "Activate", "SetTimer"]
        assert state.attempts == 2
        state, effects = tell(state, failed("activate", "NOT_READY", at=9_000))
        assert kinds(effects)[:2] == ["Journal", "Revert"]
        state, _ = tell(state, ev.Activated(9_500, A.sha256))
        assert state.step is Step.ROLLED_BACK
        state, _ = tell(state, ev.DesiredChanged(10_000, Asked(3, B, "r1", PROFILE)))
        assert state.reason == "denied"

    def test_a_full_disk_at_activation_is_not_held_against_the_release(self):
        state, _effects = tell(at_step(Step.ACTIVATING), failed("activate", "DISK_FULL"))
        state, _ = tell(state, ev.Activated(8_000, A.sha256))
        assert (state.step, state.reason) == (Step.DEFERRED, "disk")
        state, _ = tell(state, ev.Ticked(state.retry_ms))
        assert state.attempts == 0

    def test_a_damaged_slot_of_previous_is_built_again(self):
        state, _ = tell(RUNNING_B, ev.DesiredChanged(1, Asked(3, A, "r", PROFILE)), ev.Authorized(2, A.sha256))
        state, effects = tell(state, failed("activate", "STORE_MISSING", sha256=A.sha256))
        assert kinds(effects) == ["Journal", "Discard", "Download", "SetTimer"]
        assert state.step is Step.DOWNLOADING

    def test_where_the_committed_release_fails_too_the_one_before_answers(self):
        state = replace(at_step(Step.PROBATION, replace(RUNNING_A, previous=replace(A, sha256="0" * 64, counter=0))))
        state, _ = tell(state, ev.HealthSeen(7_000, B.sha256, Judgement("unhealthy", "crash")))
        state, effects = tell(state, failed("revert", "MODEL_INVALID", sha256=A.sha256, retryable=False))
        assert [e.to.sha256 for e in effects if isinstance(e, fx.Revert)] == ["0" * 64]
        state, _ = tell(state, ev.Activated(8_000, "0" * 64))
        assert (state.step, state.committed.sha256, state.previous) == (Step.ROLLED_BACK, "0" * 64, None)

    def test_a_way_back_that_fails_for_good_ends_and_says_so(self):
        state = at_step(Step.PROBATION)
        state, _ = tell(state, ev.HealthSeen(7_000, B.sha256, Judgement("unhealthy", "crash")))
        for n in range(MAX_EFFECT_TRIES):
            assert state.step is Step.REVERTING
            state, _ = tell(state, failed("revert", "STORE_IO", sha256=A.sha256, at=8_000 + n))
            state, _ = tell(state, ev.Ticked(state.retry_ms)) if state.retry_ms else (state, ())
        assert (state.step, state.code) == (Step.FAILED, "STORE_IO")


class TestServing:
    def test_a_damaged_active_bundle_is_fetched_anew_while_the_one_before_answers(self):
        state, effects = tell(RUNNING_B, failed("serve", "STORE_CORRUPT"))
        assert kinds(effects)[:3] == ["Journal", "Discard", "Revert"]
        state, effects = tell(state, ev.Activated(8_000, A.sha256))
        assert (state.step, state.target, state.committed) == (Step.AUTHORIZING, B, A)

    def test_a_damaged_first_release_is_fetched_anew_too(self):
        state, effects = tell(RUNNING_A, failed("serve", "STORE_CORRUPT", sha256=A.sha256))
        assert any(isinstance(e, fx.Revert) and e.to is None for e in effects)
        state, effects = tell(state, ev.Activated(8_000, ""))
        assert (state.step, state.target) == (Step.AUTHORIZING, A)

    def test_a_release_that_no_longer_loads_gives_way_to_the_one_before(self):
        state, _effects = tell(RUNNING_B, failed("serve", "BACKEND_UNAVAILABLE", retryable=False))
        state, _ = tell(state, ev.Activated(8_000, A.sha256))
        assert (state.step, state.reason, state.committed) == (Step.ROLLED_BACK, "load", A)

    def test_serving_is_tried_again_before_that(self):
        state, _ = tell(RUNNING_B, failed("serve", "NOT_READY"))
        state, effects = tell(state, ev.Ticked(state.retry_ms))
        assert kinds(effects) == ["Serve"]
        assert state.step is Step.CONFIRMED

    def test_during_an_update_the_one_before_answers_until_the_cure_is_there(self):
        start = replace(RUNNING_B, gen=1)
        state, _ = tell(start, ev.DesiredChanged(1, Asked(3, replace(A, sha256="c" * 64, counter=3), "r", PROFILE)))
        after, effects = tell(state, failed("serve", "MODEL_INVALID", retryable=False))
        assert kinds(effects) == ["Serve"]
        assert effects[0].release == A
        assert after.durable() == state.durable()
        assert tell(after, failed("serve", "MODEL_INVALID", retryable=False)) == (after, ())


class TestDeadlines:
    @pytest.mark.parametrize(
        ("step", "wait_s", "end", "reason"),
        [
            (Step.AUTHORIZING, 100, Step.DEFERRED, "transport"),
            (Step.DOWNLOADING, 200, Step.DEFERRED, "timeout_download"),
            (Step.VERIFYING, 50, Step.FAILED, "deadline"),
            (Step.STAGING, 50, Step.FAILED, "deadline"),
            (Step.ACTIVATING, 50, Step.REVERTING, "deadline"),
            (Step.PROBATION, 110, Step.REVERTING, "health"),
        ],
    )
    def test_every_wait_ends(self, step, wait_s, end, reason):
        state = at_step(step)
        began = state.since_ms
        before, _ = tell(state, ev.Ticked(began + wait_s * 1_000 - 1))
        assert before.step is step
        after, effects = tell(state, ev.Ticked(began + wait_s * 1_000))
        assert (after.step, after.reason) == (end, reason)
        if step.is_before_activation:
            assert "Cancel" in kinds(effects)


class TestStarts:
    @pytest.mark.parametrize("step", [row[0] for row in BEFORE])
    def test_a_start_before_activation_serves_the_old_and_asks_trust_again(self, step):
        state, effects = tell(at_step(step), ev.Booted(50_000))
        assert kinds(effects) == ["Journal", "Serve", "Authorize", "SetTimer"]
        assert (state.step, state.recoveries, effects[1].release) == (Step.AUTHORIZING, 1, A)

    @pytest.mark.parametrize("step", [Step.ACTIVATING, Step.PROBATION])
    def test_a_start_in_the_middle_of_an_activation_counts_as_an_attempt(self, step):
        state, effects = tell(at_step(step), ev.Booted(50_000))
        assert kinds(effects) == ["Journal", "Serve", "Activate", "SetTimer"]
        assert (state.attempts, effects[0].state.attempts) == (2, 2)
        state, effects = tell(state, ev.Booted(60_000))
        assert [e.to for e in effects if isinstance(e, fx.Revert)] == [A]
        assert state.reason == "reboot_loop"

    def test_starts_during_one_update_are_counted(self):
        state = at_step(Step.STAGING)
        for n in range(12):
            state, _ = tell(state, ev.Booted(50_000 + n))
        assert (state.step, state.reason) == (Step.FAILED, "reboot_loop")
        state, _ = tell(state, ev.DesiredChanged(60_000, Asked(3, B, "r1", PROFILE)))
        assert state.reason == "denied"

    def test_a_start_at_rest_serves_and_writes_nothing(self):
        state, effects = tell(RUNNING_B, ev.Booted(50_000, B))
        assert state == RUNNING_B
        assert kinds(effects) == ["Serve", "RaiseFloor", "CollectGarbage"]

    def test_a_start_on_the_way_back_goes_on_with_it(self):
        state, _ = tell(at_step(Step.PROBATION), ev.HealthSeen(7_000, B.sha256, Judgement("unhealthy", "errors")))
        state, effects = tell(state, ev.Booted(50_000))
        assert kinds(effects) == ["Journal", "Revert", "SetTimer"]
        state, _ = tell(state, ev.Activated(51_000, A.sha256))
        assert (state.step, state.reason) == (Step.ROLLED_BACK, "health")

    def test_deadlines_begin_anew_with_the_new_clock(self):
        state, _ = tell(at_step(Step.DOWNLOADING), ev.Booted(99_000_000))
        assert state.deadline_ms == 99_000_000 + 100_000

    def test_with_a_lost_journal_what_the_pointer_names_is_adopted(self):
        state, effects = tell(UpdaterState("t/m"), ev.Booted(50_000, A))
        assert (state.step, state.committed) == (Step.CONFIRMED, A)
        assert kinds(effects)[:2] == ["Journal", "Serve"]

    def test_a_put_off_update_goes_on_after_a_start(self):
        state, _ = tell(at_step(Step.DOWNLOADING), failed("download", "DISK_FULL"))
        state, _effects = tell(state, ev.Booted(50_000))
        assert state.step is Step.AUTHORIZING
