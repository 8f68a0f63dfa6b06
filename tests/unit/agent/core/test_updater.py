"""The updater's way forward and back, as a person would tell it: one story a test."""

from dataclasses import replace

import pytest

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.health import Judgement
from agent.core.policy import DEFAULT_POLICY, Policy
from agent.core.state import Asked, Release, Step, Tried, UpdaterState
from agent.core.updater import update
from bundles.wire.messages import Profile

PROFILE = Profile(probation_s=60, accept_s=100, download_s=200, activate_s=50)
A, B, C = (Release(f"t/m/{n}.0.0/bundle.json", letter * 64, 100, n) for n, letter in ((1, "a"), (2, "b"), (3, "c")))
RUNNING_A = UpdaterState(
    "t/m", Step.CONFIRMED, gen=1, profile=PROFILE, target=replace(A, variant="v"), committed=replace(A, variant="v")
)
RUNNING_B = replace(RUNNING_A, gen=2, target=B, committed=B, previous=A, floor=1)


def tell(state, *events, policy=DEFAULT_POLICY):
    """Feed events; return the last state and the effects of the last event."""
    effects = ()
    for event in events:
        state, effects = update(state, event, policy)
    return state, effects


def asked(gen, release, rollout="r1"):
    return Asked(gen, release, rollout, PROFILE)


def desired(gen, release, rollout="r1", at=1_000):
    return ev.DesiredChanged(at, asked(gen, release, rollout))


def kinds(effects):
    return [type(effect).__name__ for effect in effects]


def only(effects, kind):
    found = [effect for effect in effects if isinstance(effect, kind)]
    assert len(found) == 1, effects
    return found[0]


def to_activating(state, release, gen, rollout="r1"):
    return tell(
        state,
        desired(gen, release, rollout),
        ev.Authorized(2_000, release.sha256),
        ev.Admitted(2_000, release.sha256, "download"),
        ev.Downloaded(3_000, release.sha256, "2.0.0", "v1"),
        ev.Verified(4_000, release.sha256),
        ev.Staged(5_000, release.sha256),
        ev.Admitted(5_000, release.sha256, "activate"),
    )[0]


def to_probation(state, release, gen, rollout="r1"):
    return tell(to_activating(state, release, gen, rollout), ev.Activated(10_000, release.sha256))[0]


def health(at, release, verdict, reason=""):
    return ev.HealthSeen(at, release.sha256, Judgement(verdict, reason, "numbers"))


class TestForward:
    def test_an_instruction_is_journalled_before_trust_is_asked(self):
        state, effects = tell(RUNNING_A, desired(2, B))
        assert kinds(effects) == ["Journal", "Report", "Authorize", "SetTimer"]
        assert effects[0].state == state
        assert only(effects, fx.Report).phase == "accepted"
        assert only(effects, fx.SetTimer).at_ms == 1_000 + 100_000

    def test_every_step_waits_for_its_own_answer(self):
        state = RUNNING_A
        story = [
            (desired(2, B), Step.AUTHORIZING, fx.Authorize),
            (ev.Authorized(2_000, B.sha256), Step.AUTHORIZING, fx.Admit),
            (ev.Admitted(2_500, B.sha256, "download"), Step.DOWNLOADING, fx.Download),
            (ev.Downloaded(3_000, B.sha256, "2.0.0", "v1"), Step.VERIFYING, fx.Verify),
            (ev.Verified(4_000, B.sha256), Step.STAGING, fx.Stage),
            (ev.Staged(5_000, B.sha256), Step.STAGING, fx.Admit),
            (ev.Admitted(5_500, B.sha256, "activate"), Step.ACTIVATING, fx.Activate),
        ]
        for event, step, effect in story:
            state, effects = tell(state, event)
            assert state.step is step
            assert only(effects, effect).release.sha256 == B.sha256
            assert isinstance(effects[0], fx.Journal)
        assert state.target == replace(B, version="2.0.0", variant="v1")

    def test_a_healthy_release_with_contact_is_committed_after_probation(self):
        state = to_probation(RUNNING_A, B, 2)
        state, _ = tell(state, ev.ContactSeen(11_000), health(40_000, B, "healthy"))
        assert state.step is Step.PROBATION, "healthy, but not for long enough"
        state, effects = tell(state, health(70_000, B, "healthy"))
        assert state.step is Step.CONFIRMED
        assert state.committed.sha256 == B.sha256
        assert state.previous.sha256 == A.sha256
        assert kinds(effects) == ["Journal", "Commit", "RaiseFloor", "CollectGarbage", "Report"]
        assert only(effects, fx.RaiseFloor).counter == A.counter
        assert only(effects, fx.CollectGarbage).keep == {A.sha256, B.sha256}

    def test_probation_asks_for_judgement_and_for_one_at_its_end(self):
        state = to_probation(RUNNING_A, B, 2)
        due = []
        while state.due_ms <= 70_000:
            due.append(state.due_ms)
            state, effects = tell(state, ev.Ticked(state.due_ms))
            assert only(effects, fx.Judge).sha256 == B.sha256
        assert len(due) == 8
        assert due[-1] == 70_000

    def test_the_first_release_has_nothing_before_it(self):
        state = to_probation(UpdaterState("t/m"), A, 1)
        state, effects = tell(state, ev.ContactSeen(11_000), health(70_000, A, "healthy"))
        assert (state.committed.sha256, state.previous, state.floor) == (A.sha256, None, 0)
        assert "RaiseFloor" not in kinds(effects)

    def test_what_runs_already_is_confirmed_without_work(self):
        state, effects = tell(RUNNING_A, desired(5, A))
        assert (state.step, state.gen) == (Step.CONFIRMED, 5)
        assert kinds(effects) == ["Journal", "Report"]

    def test_an_empty_instruction_takes_the_model_out(self):
        state, effects = tell(RUNNING_B, desired(3, None))
        assert only(effects, fx.Revert).to is None
        state, _ = tell(state, ev.Activated(2_000, ""))
        assert (state.step, state.committed, state.previous, state.floor) == (Step.IDLE, None, None, 1)


class TestProbation:
    def test_unhealthy_goes_back_and_says_why(self):
        state = to_probation(RUNNING_A, B, 2)
        state, effects = tell(state, health(20_000, B, "unhealthy", "errors"))
        assert kinds(effects)[:2] == ["Journal", "Revert"]
        assert only(effects, fx.Revert).to.sha256 == A.sha256
        state, effects = tell(state, ev.Activated(21_000, A.sha256))
        assert state.step is Step.ROLLED_BACK
        report = only(effects, fx.Report)
        assert (report.phase, report.reason, report.code) == ("rolled_back", "health", "errors")
        assert (state.committed.sha256, state.floor) == (A.sha256, 0)

    def test_unknown_is_never_success(self):
        state = to_probation(RUNNING_A, B, 2)
        state, _ = tell(state, ev.ContactSeen(11_000), health(90_000, B, "unknown", "no_data"))
        assert state.step is Step.PROBATION
        state, effects = tell(state, ev.Ticked(10_000 + 110_000))
        assert only(effects, fx.Revert).to.sha256 == A.sha256
        assert (state.reason, state.code) == ("health", "no_data")

    def test_no_commit_without_contact_and_no_blame_either(self):
        state = to_probation(RUNNING_A, B, 2)
        state, _ = tell(state, health(70_000, B, "healthy"))
        assert state.step is Step.PROBATION
        state, effects = tell(state, ev.Ticked(120_000), ev.Activated(121_000, A.sha256))
        assert (state.step, state.reason) == (Step.DEFERRED, "offline")
        assert only(effects, fx.Report).phase == "deferred"
        state, effects = tell(state, ev.ContactSeen(500_000))
        assert state.step is Step.AUTHORIZING
        assert state.attempts == 0, "an attempt lost to the network is not counted"

    def test_contact_during_the_wait_commits(self):
        state = to_probation(RUNNING_A, B, 2)
        state, _ = tell(state, health(70_000, B, "healthy"), ev.ContactSeen(80_000))
        assert state.step is Step.CONFIRMED

    def test_an_owner_may_declare_that_contact_is_not_needed(self):
        state = to_probation(RUNNING_A, B, 2)
        state, _ = tell(state, health(70_000, B, "healthy"), policy=Policy(commit_offline=True))
        assert state.step is Step.CONFIRMED

    def test_contact_before_the_activation_does_not_count(self):
        state = to_activating(RUNNING_A, B, 2)
        state, _ = tell(state, ev.ContactSeen(6_000), ev.Activated(10_000, B.sha256), health(70_000, B, "healthy"))
        assert state.step is Step.PROBATION

    def test_a_crash_loop_after_commit_returns_to_previous_good(self):
        state, effects = tell(RUNNING_B, health(9_000, B, "unhealthy", "crash"))
        assert only(effects, fx.Revert).to.sha256 == A.sha256
        state, _ = tell(state, ev.Activated(9_100, A.sha256))
        assert (state.step, state.committed.sha256, state.previous) == (Step.ROLLED_BACK, A.sha256, None)

    def test_a_slow_day_after_commit_does_not(self):
        assert tell(RUNNING_B, health(9_000, B, "unhealthy", "latency")) == (RUNNING_B, ())


class TestRollBack:
    def test_previous_comes_back_without_download_or_second_probation(self):
        state, effects = tell(RUNNING_B, desired(3, A), ev.Authorized(2_000, A.sha256))
        assert kinds(effects) == ["Journal", "Report", "Activate", "SetTimer"]
        state, effects = tell(state, ev.Activated(3_000, A.sha256))
        assert (state.step, state.committed.sha256, state.previous) == (Step.CONFIRMED, A.sha256, None)
        assert state.floor == A.counter, "the floor never rises above what runs"

    def test_trust_is_asked_about_previous_too(self):
        state, _ = tell(RUNNING_B, desired(3, A), ev.Refused(2_000, A.sha256, "TRUST_REVOKED", "revoked"))
        assert (state.step, state.committed.sha256) == (Step.FAILED, B.sha256)

    def test_an_instruction_to_go_back_ends_probation_at_once(self):
        state = to_probation(RUNNING_A, B, 2)
        state, effects = tell(state, desired(3, A, at=20_000))
        assert only(effects, fx.Revert).to.sha256 == A.sha256
        state, effects = tell(state, ev.Activated(21_000, A.sha256))
        assert (state.step, state.gen, state.committed.sha256) == (Step.CONFIRMED, 3, A.sha256)

    def test_a_release_taken_up_after_a_halted_one_has_the_right_floor(self):
        # Releases 5, 6 (halted), 7: the floor after 7 is 5, never 6.
        five, six, seven = (replace(A, sha256=c * 64, counter=n) for c, n in (("5", 5), ("6", 6), ("7", 7)))
        state = replace(RUNNING_A, target=five, committed=five)
        state = to_probation(state, six, 2)
        state, _ = tell(state, ev.ContactSeen(11_000), health(70_000, six, "healthy"))
        state, _ = tell(state, desired(3, five), ev.Authorized(80_000, five.sha256), ev.Activated(81_000, five.sha256))
        state = to_probation(state, seven, 4, "r2")
        state, _ = tell(state, ev.ContactSeen(11_000), health(70_000, seven, "healthy"))
        assert (state.committed.counter, state.previous.counter, state.floor) == (7, 5, 5)

    def test_a_person_may_go_back_and_redelivery_does_not_undo_it(self):
        state, effects = tell(RUNNING_B, ev.RollbackRequested(5_000, "ann", B.sha256))
        assert only(effects, fx.Revert).to.sha256 == A.sha256
        state, _ = tell(state, ev.Activated(6_000, A.sha256))
        assert (state.step, state.reason) == (Step.ROLLED_BACK, "user")
        assert tell(state, desired(2, B), ev.RollbackRequested(7_000, "ann", B.sha256)) == (state, ())
        state, _ = tell(state, desired(3, B, rollout=""))
        assert state.step is Step.AUTHORIZING, "a later generation set by hand asks anew"

    def test_a_person_may_stop_a_download(self):
        state, effects = tell(
            RUNNING_A, desired(2, B), ev.Authorized(2_000, B.sha256), ev.RollbackRequested(3_000, "ann")
        )
        assert only(effects, fx.Cancel).sha256 == B.sha256
        assert (state.step, state.committed.sha256) == (Step.ROLLED_BACK, A.sha256)


class TestInstructions:
    def test_an_older_or_equal_generation_changes_nothing(self):
        for gen in (1, 2):
            assert tell(RUNNING_B, desired(gen, C)) == (RUNNING_B, ())

    def test_another_release_replaces_a_download(self):
        state, effects = tell(RUNNING_A, desired(2, B), ev.Authorized(2_000, B.sha256), desired(3, C, at=3_000))
        assert kinds(effects) == ["Journal", "Cancel", "Report", "Authorize", "SetTimer"]
        assert state.target == C
        assert tell(state, ev.Downloaded(4_000, B.sha256, "2.0.0", "v1")) == (state, ()), "a late answer is not taken"

    def test_a_later_generation_of_the_same_release_goes_on(self):
        admitted = ev.Admitted(2_000, B.sha256, "download")
        state, _ = tell(RUNNING_A, desired(2, B), ev.Authorized(2_000, B.sha256), admitted)
        later, effects = tell(state, desired(3, B))
        assert (later.step, later.gen, later.deadline_ms) == (Step.DOWNLOADING, 3, state.deadline_ms)
        assert "Download" not in kinds(effects)

    def test_an_instruction_during_the_way_back_waits(self):
        state = to_probation(RUNNING_A, B, 2)
        state, _ = tell(state, health(20_000, B, "unhealthy", "errors"))
        state, effects = tell(state, desired(3, C, at=20_500))
        assert kinds(effects) == ["Journal"]
        state, effects = tell(state, ev.Activated(21_000, A.sha256))
        assert (state.step, state.target, state.gen) == (Step.AUTHORIZING, C, 3)

    @pytest.mark.parametrize(("rollout", "gen", "step"), [("r1", 5, Step.FAILED), ("r2", 5, Step.AUTHORIZING)])
    def test_a_denied_digest_is_taken_up_only_when_asked_for_anew(self, rollout, gen, step):
        state = replace(RUNNING_A, tried=(Tried(B.sha256, 2, 2, "r1", "health"),))
        state, effects = tell(state, desired(gen, B, rollout))
        assert state.step is step
        if step is Step.FAILED:
            assert (state.reason, state.code) == ("denied", "DENIED_HERE")
            assert "Authorize" not in kinds(effects)

    def test_two_failed_activations_deny_a_digest(self):
        state = RUNNING_A
        for gen in (2, 3):
            state = to_probation(state, B, gen)
            state, _ = tell(state, health(20_000, B, "unhealthy", "errors"), ev.Activated(21_000, A.sha256))
        state, _ = tell(state, desired(4, B))
        assert (state.step, state.reason) == (Step.FAILED, "denied")

    def test_a_failed_trial_ends_the_update_with_the_trials_reason(self):
        state, _ = tell(
            RUNNING_A,
            desired(2, B),
            ev.Authorized(2_000, B.sha256),
            ev.Admitted(2_000, B.sha256, "download"),
            ev.Downloaded(3_000, B.sha256, "2.0.0", "v1"),
            ev.Verified(4_000, B.sha256),
        )
        state, effects = tell(state, ev.TrialFailed(5_000, B.sha256, "GOLDEN_MISMATCH", "3 of 32 differ"))
        assert (state.step, state.reason, state.committed.sha256) == (Step.FAILED, "golden_mismatch", A.sha256)
        assert B.sha256 not in only(effects, fx.CollectGarbage).keep
