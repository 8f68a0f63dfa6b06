"""Verbs are offered exactly where the core would let them through, and only to those who may."""

from __future__ import annotations

import itertools

import pytest

from control_plane.auth import Principal, Role
from control_plane.core.policy import Deadlines, Policy
from control_plane.core.rollout import (
    AbortRequested,
    Approved,
    HaltRequested,
    Overridden,
    PauseRequested,
    Rejected,
    Resumed,
    Rollout,
    WaveState,
    refusal,
)
from control_plane.core.states import PauseReason, RolloutPhase
from control_plane.core.tally import Tally
from control_plane.db.queries.rollouts import RolloutView
from control_plane.web.verbs import VERBS, find_verb, verbs_for

EVENTS = {
    "approve": Approved("bob", "spec", 1),
    "reject": Rejected("bob", "no", 1),
    "pause": PauseRequested("bob", "", 1),
    "resume": Resumed("bob", 1),
    "promote": Overridden("bob", "", 1),
    "rollback": HaltRequested("bob", "", 1),
    "abort": AbortRequested("bob", "", 1),
}


def _state(phase: RolloutPhase, pause: PauseReason) -> Rollout:
    wave = WaveState(index=0, soak_s=1, min_resolved=1, tally=Tally())
    policy = Policy(deadlines=Deadlines(1, 1, 1, 1))
    return Rollout("ro-1", "spec", "ada", policy, 1, (wave,), phase, 0, pause)


def _view(phase: str, pause: str = "", *, approver: str = "") -> RolloutView:
    return RolloutView(
        id="ro-1", team="vision", model="vision/digits", bundle_sha256="", release_version="1.0.0", baseline_sha256="",
        phase=phase, pause=pause, reason="", wave=1, waves=1, devices=1, engaged=0, confirmed=0, failed=0,
        creator="ada", approver=approver, created_ms=0, updated_ms=0, version=1, revision=1,
    )  # fmt: skip


def test_a_verb_fits_where_the_core_would_not_refuse_it():
    assert set(EVENTS) == {verb.name for verb in VERBS}
    for phase, pause in itertools.product(RolloutPhase, PauseReason):
        for verb in VERBS:
            is_accepted = not refusal(_state(phase, pause), EVENTS[verb.name])
            assert verb.fits(_view(phase, pause)) == is_accepted, (phase, pause, verb.name)


@pytest.mark.parametrize(("role", "phase", "names"), [
    (Role.VIEWER, "running", []),
    (Role.OPERATOR, "running", ["pause", "rollback", "abort"]),
    (Role.OPERATOR, "pending_approval", ["abort"]),
    (Role.APPROVER, "pending_approval", ["approve", "reject", "abort"]),
    (Role.ADMIN, "completed", []),
])  # fmt: skip
def test_a_role_is_offered_what_it_may_do(role, phase, names):
    assert [verb.name for verb in verbs_for(Principal("bob", role), _view(phase))] == names


def test_nobody_approves_their_own_twice_or_for_another_team():
    approve = find_verb("approve")
    assert approve is not None
    assert not approve.is_for(Principal("ada", Role.ADMIN), _view("pending_approval"))
    assert not approve.is_for(Principal("bob", Role.APPROVER), _view("pending_approval", approver="eve, bob"))
    assert not approve.is_for(Principal("bob", Role.APPROVER, ("sound",)), _view("pending_approval"))
    assert approve.is_for(Principal("bob", Role.APPROVER, ("vision",)), _view("pending_approval", approver="eve"))
    assert find_verb("launch") is None
