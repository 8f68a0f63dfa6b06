"""What the updater does about releases that trust forbids, step by step."""

from dataclasses import replace

import pytest

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.health import Judgement
from agent.core.state import Asked, Release, Step, UpdaterState
from agent.core.updater import update
from bundles.wire.messages import Profile

PROFILE = Profile(probation_s=60, accept_s=100, download_s=200, activate_s=50)
A, B, C = (Release(f"t/m/{n}.0.0/bundle.json", letter * 64, 100, n) for n, letter in ((1, "a"), (2, "b"), (3, "c")))
ALONE = UpdaterState("t/m", Step.CONFIRMED, gen=1, profile=PROFILE, target=A, committed=A)
PAIR = replace(ALONE, gen=2, target=B, committed=B, previous=A, floor=1)
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


def seen(*revoked, at=9_000, mode="keep_with_alarm"):
    return ev.StandingSeen(at, frozenset(release.sha256 for release in revoked), mode)


def tell(state, *events):
    effects = ()
    for event in events:
        state, effects = update(state, event)
    return state, effects


def at_step(step, start):
    state = start
    for event in WAY:
        state, _ = update(state, event)
        if state.step is step:
            return state
    raise AssertionError(step)


def without_journal(effects):
    return [effect for effect in effects if not isinstance(effect, fx.Journal | fx.SetTimer)]


def test_nothing_revoked_changes_nothing():
    assert tell(PAIR, seen()) == (PAIR, ())
    assert tell(PAIR, seen(C)) == (PAIR, ()), "what this device does not hold is no concern of the updater"


def test_a_revoked_committed_release_is_left_for_the_previous_one():
    state, effects = tell(PAIR, seen(B))
    assert effects[0] == fx.Journal(state)
    assert without_journal(effects) == [fx.Revert(A)]
    state, effects = tell(state, ev.Activated(9_500, A.sha256))
    assert (state.step, state.committed, state.previous, state.reason) == (Step.ROLLED_BACK, A, None, "revoked")
    assert state.safe_mode == ""
    again, effects = tell(state, seen(B))
    assert without_journal(effects) == [], "told again: nothing more"
    assert again == state


def test_it_is_not_taken_again_without_being_asked_for_anew():
    state, _ = tell(PAIR, seen(B), ev.Activated(9_500, A.sha256))
    state, effects = tell(state, ev.DesiredChanged(10_000, Asked(3, B, state.rollout, PROFILE)))
    assert state.step is Step.AUTHORIZING or state.code == "DENIED_HERE", "trust is asked, or the denial stands"
    assert not any(isinstance(effect, fx.Activate) for effect in effects)


def test_a_revoked_previous_release_is_dropped():
    state, effects = tell(PAIR, seen(A))
    assert (state.step, state.committed, state.previous) == (Step.CONFIRMED, B, None)
    assert fx.CollectGarbage(frozenset({B.sha256})) in effects


@pytest.mark.parametrize("mode", ["keep_with_alarm", "constant", "stop"])
def test_with_nothing_left_the_declared_safe_mode_is_entered_and_left(mode):
    for start, revoked in ((ALONE, (A,)), (PAIR, (A, B))):
        state, effects = tell(start, seen(*revoked, mode=mode))
        committed = start.committed
        assert (state.step, state.committed, state.safe_mode) == (Step.CONFIRMED, committed, mode)
        assert fx.Serve(committed, mode) in effects
        assert fx.TellSafeMode(committed.sha256, mode) in effects
        again, effects = tell(state, seen(*revoked, at=10_000, mode=mode))
        assert (again, effects) == (state, ())
        _, effects = tell(state, ev.Booted(11_000))
        assert effects[0] == fx.Serve(committed, mode), "a start does not end it"
        state, effects = tell(state, seen(at=12_000))
        assert state.safe_mode == ""
        assert without_journal(effects) == [fx.Serve(committed), fx.TellSafeMode(committed.sha256, "")]


def test_a_manifest_that_cannot_be_read_keeps_what_was_declared_before():
    state, _ = tell(ALONE, seen(mode="stop"))
    state, _ = tell(state, ev.StandingSeen(9_500, frozenset({A.sha256}), None))
    assert state.safe_mode == "stop"


@pytest.mark.parametrize("step", [Step.AUTHORIZING, Step.DOWNLOADING, Step.VERIFYING, Step.STAGING])
def test_a_revoked_update_on_its_way_ends(step):
    state, effects = tell(at_step(step, PAIR), seen(C))
    assert (state.step, state.reason, state.code, state.committed) == (Step.FAILED, "revoked", "TRUST_REVOKED", B)
    assert fx.Cancel(C.sha256) in effects


@pytest.mark.parametrize("step", [Step.ACTIVATING, Step.PROBATION])
def test_a_revoked_update_that_may_answer_already_is_taken_back(step):
    state, effects = tell(at_step(step, PAIR), seen(C))
    assert without_journal(effects) == [fx.Revert(B)]
    state, _ = tell(state, ev.Activated(9_500, B.sha256))
    assert (state.step, state.committed, state.previous) == (Step.ROLLED_BACK, B, A)


def test_a_revoked_update_and_a_revoked_committed_release_lead_to_the_previous_one():
    state, effects = tell(at_step(Step.PROBATION, PAIR), seen(B, C))
    assert without_journal(effects) == [fx.Revert(A)]
    state, _ = tell(state, ev.Activated(9_500, A.sha256))
    assert (state.committed, state.previous, state.safe_mode) == (A, None, "")


def test_where_the_update_fails_and_nothing_else_may_run_the_safe_mode_is_entered():
    state, effects = tell(at_step(Step.PROBATION, PAIR), seen(A, B, mode="stop"))
    assert not any(isinstance(effect, fx.Revert) for effect in effects), "the update may be the cure"
    state, effects = tell(state, ev.HealthSeen(9_100, C.sha256, Judgement("unhealthy", "errors")))
    assert fx.Revert(B, "stop") in effects
    state, effects = tell(state, ev.Activated(9_500, B.sha256))
    assert (state.committed, state.safe_mode) == (B, "stop")
    assert fx.TellSafeMode(B.sha256, "stop") in effects


def test_a_commit_ends_the_safe_mode_and_keeps_no_revoked_previous():
    state, _ = tell(ALONE, seen(A, mode="stop"))
    state = at_step(Step.PROBATION, state)
    assert state.safe_mode == "stop"
    state, _ = tell(state, ev.ContactSeen(7_000))
    state, effects = tell(state, ev.HealthSeen(70_000, C.sha256, Judgement("healthy")))
    assert state.committed.sha256 == C.sha256
    assert (state.step, state.previous, state.safe_mode) == (Step.CONFIRMED, None, "")
    assert fx.TellSafeMode(C.sha256, "") in effects


def test_an_update_on_its_way_waits_until_the_revoked_release_is_left():
    state, effects = tell(at_step(Step.DOWNLOADING, PAIR), seen(B))
    assert without_journal(effects) == [fx.Cancel(C.sha256), fx.Revert(A)]
    state, effects = tell(state, ev.Activated(9_500, A.sha256))
    assert (state.step, state.committed, state.target) == (Step.AUTHORIZING, A, C)


def test_the_way_back_turns_where_its_end_is_revoked():
    state, _ = tell(PAIR, ev.RollbackRequested(8_000, "ann"))
    assert state.revert_to == A
    state, effects = tell(state, seen(A))
    assert without_journal(effects) == [fx.Revert(B)]
    state, _ = tell(state, ev.Activated(9_500, B.sha256))
    assert (state.committed, state.previous) == (B, None)


@pytest.mark.parametrize("step", [Step.ACTIVATING, Step.PROBATION])
def test_a_start_in_the_middle_serves_the_previous_release_rather_than_a_revoked_one(step):
    state, _ = tell(at_step(step, PAIR), seen(B))
    _, effects = tell(state, ev.Booted(9_500))
    assert [e for e in effects if isinstance(e, fx.Serve)] == [fx.Serve(A)]


def test_a_start_in_the_middle_of_a_return_serves_the_release_returned_to():
    state, _ = tell(PAIR, ev.DesiredChanged(8_000, Asked(3, A, "", PROFILE)), ev.Authorized(8_100, A.sha256), seen(B))
    assert (state.step, state.revoked) == (Step.ACTIVATING, (B.sha256,))
    _, effects = tell(state, ev.Booted(9_500))
    assert [e for e in effects if isinstance(e, fx.Serve)] == [fx.Serve(A)]
