"""Every way back ends on something that answers; every loop ends."""

from dataclasses import replace

import pytest

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.health import Judgement
from agent.core.policy import DEFAULT_POLICY, MAX_EFFECT_TRIES, Policy
from agent.core.state import MAX_HISTORY, Asked, Release, Step, UpdaterState
from agent.core.updater import update
from bundles.wire.messages import Profile

PROFILE = Profile(probation_s=60, accept_s=100, download_s=200, activate_s=50)
A, B, C, F = (
    Release(f"t/m/{n}.0.0/bundle.json", letter * 64, 100, n) for n, letter in ((1, "a"), (2, "b"), (3, "c"), (0, "f"))
)
RUNNING_B = UpdaterState(
    "t/m", Step.CONFIRMED, gen=2, profile=PROFILE, target=B, committed=B, previous=A, factory=F, floor=1
)
ALONE = replace(RUNNING_B, previous=None)
WAY = [
    ev.DesiredChanged(1_000, Asked(3, C, "r1", PROFILE)),
    ev.Authorized(2_000, C.sha256),
    ev.Admitted(2_000, C.sha256, "download"),
    ev.Downloaded(3_000, C.sha256, "3.0.0", "v1"),
    ev.Verified(4_000, C.sha256),
    ev.Staged(5_000, C.sha256),
    ev.Admitted(5_000, C.sha256, "activate"),
    ev.Activated(6_000, C.sha256),
]
UNWELL = Judgement("unhealthy", "errors", "it fails")


def tell(state, *events, policy=DEFAULT_POLICY):
    effects = ()
    for event in events:
        state, effects = update(state, event, policy)
    return state, effects


def dead(effect, release, at):
    return ev.EffectFailed(at, effect, release.sha256, "MODEL_INVALID", False)


def only(effects, *types):
    return [effect for effect in effects if isinstance(effect, types)]


def test_an_agent_that_lost_everything_starts_on_the_factory_release():
    state, effects = tell(UpdaterState("t/m"), ev.Booted(1_000, None, F))
    assert (state.step, state.committed, state.factory) == (Step.CONFIRMED, F, F)
    assert only(effects, fx.Serve) == [fx.Serve(F)]


def test_the_pointer_is_believed_before_the_factory():
    state, effects = tell(UpdaterState("t/m"), ev.Booted(1_000, A, F))
    assert (state.committed, state.factory, only(effects, fx.Serve)) == (A, F, [fx.Serve(A)])


def test_what_the_disk_says_of_the_factory_release_takes_the_place_of_the_journal():
    assert tell(RUNNING_B, ev.Booted(1_000, B, None))[0].factory is None
    assert tell(replace(RUNNING_B, factory=None), ev.Booted(1_000, B, F))[0].factory == F


def test_a_first_release_that_failed_leaves_the_factory_release_answering():
    failed = UpdaterState("t/m", Step.FAILED, gen=1, target=C, reason="load")
    state, effects = tell(failed, ev.Booted(1_000, None, F))
    assert (state.step, state.committed, only(effects, fx.Serve)) == (Step.FAILED, F, [fx.Serve(F)])


def test_a_device_that_is_to_run_nothing_runs_nothing():
    told = UpdaterState("t/m", Step.IDLE, gen=4)
    state, effects = tell(told, ev.Booted(1_000, None, F))
    assert (state.committed, only(effects, fx.Serve)) == (None, [])
    state, effects = tell(RUNNING_B, ev.DesiredChanged(1_000, Asked(3, None)))
    assert only(effects, fx.Revert) == [fx.Revert(None)]


def test_a_first_activation_that_fails_goes_to_the_factory_release():
    state = replace(UpdaterState("t/m", profile=PROFILE), factory=F)
    state, _ = tell(state, *WAY[:6])
    state, effects = tell(state, dead("activate", C, 7_000))
    assert only(effects, fx.Revert) == [fx.Revert(F)]
    state, _ = tell(state, ev.Activated(8_000, F.sha256))
    assert (state.step, state.committed) == (Step.ROLLED_BACK, F)


def test_the_rollback_target_is_also_bad_and_so_is_the_one_before():
    state, effects = tell(RUNNING_B, *WAY, ev.HealthSeen(10_000, C.sha256, UNWELL))
    for release, before in ((B, A), (A, F)):
        assert only(effects, fx.Revert) == [fx.Revert(release)]
        state, effects = tell(state, dead("revert", release, 11_000))
        assert only(effects, fx.Revert) == [fx.Revert(before)]
    state, _ = tell(state, ev.Activated(12_000, F.sha256))
    assert (state.step, state.reason, state.committed) == (Step.ROLLED_BACK, "health", F)
    assert state.retained == {F.sha256}


@pytest.mark.parametrize("code", ["STORE_CORRUPT", "STORE_MISSING"])
def test_a_way_back_that_is_damaged_is_left_at_once_since_nothing_answers_meanwhile(code):
    state, _ = tell(RUNNING_B, *WAY, ev.HealthSeen(7_000, C.sha256, UNWELL))
    state, effects = tell(state, ev.EffectFailed(8_000, "revert", B.sha256, code, retryable=True))
    assert only(effects, fx.Revert) == [fx.Revert(A)]
    state, effects = tell(state, ev.EffectFailed(9_000, "revert", A.sha256, code, retryable=True))
    assert only(effects, fx.Revert) == [fx.Revert(F)]
    assert state.since_ms == 9_000


def test_power_cuts_on_every_way_back_leave_the_committed_release_asked_to_answer():
    state, _ = tell(RUNNING_B, *WAY, ev.HealthSeen(7_000, C.sha256, UNWELL))
    for start in range(DEFAULT_POLICY.max_recoveries + 4):
        state, effects = tell(state, ev.Booted(10_000 + start, None, F))
        assert only(effects, fx.Revert, fx.Serve), f"nothing is asked to answer at start {start + 1}"
    assert state.step is Step.FAILED
    assert only(effects, fx.Serve) == [fx.Serve(B)]


def test_a_way_back_that_takes_too_long_goes_further_back():
    state, _ = tell(ALONE, *WAY, ev.HealthSeen(10_000, C.sha256, UNWELL))
    for _ in range(MAX_EFFECT_TRIES):
        state, effects = tell(state, ev.Ticked(state.deadline_ms))
    assert only(effects, fx.Revert) == [fx.Revert(F)]


def test_at_rest_a_committed_release_that_does_not_start_is_left_for_the_factory_release():
    _, effects = tell(ALONE, ev.Booted(1_000, B, F), dead("serve", B, 2_000))
    assert only(effects, fx.Revert) == [fx.Revert(F)]


def test_during_an_update_each_way_back_is_asked_in_turn():
    state, _ = tell(RUNNING_B, *WAY[:3])
    for release, before in ((B, A), (A, F)):
        state, effects = tell(state, dead("serve", release, 3_000))
        assert only(effects, fx.Serve) == [fx.Serve(before)]
        assert tell(state, dead("serve", release, 3_000)) == (state, ()), "told twice"
    assert tell(state, dead("serve", F, 3_000)) == (state, ()), "there is no other: the update is the cure"


def test_a_crashing_release_without_a_previous_one_is_left_for_the_factory_release():
    crash = ev.HealthSeen(9_000, B.sha256, Judgement("unhealthy", "crash", "3 times"))
    assert only(tell(ALONE, crash)[1], fx.Revert) == [fx.Revert(F)]
    alone = replace(ALONE, factory=None)
    assert tell(alone, crash) == (alone, ())
    assert tell(replace(ALONE, committed=F, target=F), replace(crash, sha256=F.sha256))[1] == ()


def test_a_person_may_go_back_to_the_factory_release():
    assert only(tell(ALONE, ev.RollbackRequested(9_000, "ann"))[1], fx.Revert) == [fx.Revert(F)]


def test_a_revoked_release_without_a_previous_one_is_left_for_the_factory_release():
    seen = ev.StandingSeen(9_000, frozenset({B.sha256}), "stop")
    state, effects = tell(ALONE, seen)
    assert (only(effects, fx.Revert), state.safe_mode) == ([fx.Revert(F)], "")
    state, effects = tell(ALONE, replace(seen, revoked=frozenset({B.sha256, F.sha256})))
    assert (state.safe_mode, only(effects, fx.Revert)) == ("stop", []), "a factory release can be forbidden too"


def test_damage_at_rest_fetches_anew_with_the_factory_release_answering():
    damaged = ev.EffectFailed(2_000, "serve", B.sha256, "STORE_CORRUPT", True)
    state, effects = tell(ALONE, damaged)
    assert only(effects, fx.Revert, fx.Discard) == [fx.Discard(B), fx.Revert(F)]
    state, effects = tell(state, ev.Activated(3_000, F.sha256))
    assert (state.committed, state.target, only(effects, fx.Authorize)) == (F, B, [fx.Authorize(B)])


def test_where_nothing_answers_it_is_looked_at_again():
    state, _ = tell(replace(ALONE, factory=None), dead("serve", B, 2_000))
    assert (state.step, state.retry_ms) == (Step.FAILED, 2_000 + 600_000)
    state, effects = tell(state, ev.Ticked(state.retry_ms))
    assert only(effects, fx.Serve) == [fx.Serve(B)]
    state, effects = tell(state, dead("serve", B, 700_000))
    assert (state.retry_ms, only(effects, fx.Report)) == (1_300_000, []), "and told once"
    state, _ = tell(state, ev.Activated(1_300_000, B.sha256))
    assert state.due_ms == 0


def test_the_factory_release_is_never_collected():
    state, effects = tell(
        RUNNING_B, *WAY, ev.ContactSeen(50_000), ev.HealthSeen(70_000, C.sha256, Judgement("healthy"))
    )
    assert state.step is Step.CONFIRMED
    assert only(effects, fx.CollectGarbage) == [fx.CollectGarbage(frozenset({C.sha256, B.sha256, F.sha256}))]


class TestTheLastBound:
    CAP = Policy(max_transitions=4)

    def without_contact(self, state, at):
        """One round: healthy, never heard, taken back, heard."""
        state, _ = tell(
            state,
            ev.Admitted(at, C.sha256, "activate"),
            ev.Activated(at, C.sha256),
            ev.HealthSeen(at + 60_000, C.sha256, Judgement("healthy")),
            ev.Ticked(at + 110_000),
            policy=self.CAP,
        )
        assert state.step is Step.REVERTING
        return tell(state, ev.Activated(at + 120_000, B.sha256), policy=self.CAP)

    def again(self, state, at):
        return tell(state, ev.ContactSeen(at), *(replace(event, at_ms=at) for event in WAY[1:6]), policy=self.CAP)

    def test_a_release_that_never_comes_to_rest_is_given_up(self):
        state, _ = tell(RUNNING_B, *WAY[:6], policy=self.CAP)
        state, _ = self.without_contact(state, 10_000)
        assert (state.step, state.reason, state.transitions) == (Step.DEFERRED, "offline", 3)
        state, _ = self.again(state, 200_000)
        state, effects = self.without_contact(state, 200_000)
        assert (state.step, state.reason, state.code) == (Step.ROLLED_BACK, "loop", "TRANSITION_CAP")
        assert only(effects, fx.Report)[0].reason == "loop"
        state, _ = tell(state, ev.DesiredChanged(400_000, Asked(4, C, "r1", PROFILE)), policy=self.CAP)
        assert (state.step, state.reason) == (Step.FAILED, "denied")

    def test_no_activation_is_begun_beyond_it(self):
        state = replace(tell(RUNNING_B, *WAY[:6])[0], transitions=4)
        state, effects = tell(state, WAY[6], policy=self.CAP)
        assert (state.step, state.reason, only(effects, fx.Activate)) == (Step.FAILED, "loop", [])
        assert state.tried[0].attempts == self.CAP.max_attempts

    def test_another_instruction_begins_to_count_anew(self):
        state, _ = tell(replace(RUNNING_B, transitions=4), *WAY, policy=self.CAP)
        assert (state.step, state.transitions) == (Step.PROBATION, 2)

    def test_a_way_back_is_never_refused(self):
        state = replace(tell(RUNNING_B, *WAY)[0], transitions=99)
        state, effects = tell(state, ev.HealthSeen(10_000, C.sha256, UNWELL), policy=self.CAP)
        assert only(effects, fx.Revert) == [fx.Revert(B)]

    def test_wrong_bytes_are_counted_over_deferrals(self):
        state, _ = tell(RUNNING_B, *WAY[:3])
        wrong = ev.EffectFailed(3_000, "download", C.sha256, "DOWNLOAD_DIGEST", True)
        state, _ = tell(state, wrong, ev.Ticked(5_000), replace(wrong, at_ms=6_000), ev.Ticked(400_000))
        assert (state.step, state.wrong_content) == (Step.DEFERRED, 2)
        state, _ = tell(state, ev.Ticked(state.retry_ms), *(replace(e, at_ms=800_000) for e in WAY[1:3]))
        state, _ = tell(state, replace(wrong, at_ms=900_000))
        assert (state.step, state.reason) == (Step.FAILED, "verify")


class TestHistory:
    def test_every_step_is_kept_with_its_time_and_reason(self):
        state, _ = tell(RUNNING_B, *WAY, ev.HealthSeen(10_000, C.sha256, UNWELL), ev.Activated(11_000, B.sha256))
        assert [(p.at_ms, p.step) for p in state.history] == [
            (1_000, "authorizing"),
            (2_000, "downloading"),
            (3_000, "verifying"),
            (4_000, "staging"),
            (5_000, "activating"),
            (6_000, "probation"),
            (10_000, "reverting"),
            (11_000, "rolled_back"),
        ]
        assert (state.history[-1].reason, state.history[-1].code) == ("health", "errors")

    def test_it_is_bounded(self):
        state = RUNNING_B
        for number in range(3, 40):
            state, _ = tell(state, ev.DesiredChanged(number, Asked(number, C if number % 2 else A)))
        assert len(state.history) == MAX_HISTORY
        assert state.history[-1].at_ms == 39


@pytest.mark.parametrize("release", [A, F])
def test_ways_back_are_named_once_and_best_first(release):
    state = replace(RUNNING_B, previous=A, factory=release)
    assert state.ways_back == ((B, A) if release == A else (B, A, F))
    assert replace(state, revoked=(A.sha256,)).before_committed == (None if release == A else F)
