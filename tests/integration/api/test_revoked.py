"""Revoked bundles in the control plane: shown, never chosen again, and their rollouts stopped."""

from __future__ import annotations

import pytest
from sqlmodel import select

from bundles.trust.drafting.drafts import Keys
from bundles.trust.drafting.rotation import rotate_revocation
from bundles.trust.drafting.statements import revoke_bundle
from control_plane.db.tables import Decision, Desired, RevokedBundle
from control_plane.services import desired, rollouts

WAVES = [{"count": 1, "soak_s": 8}, {"rest": True, "soak_s": 8}]


def _revoke(api, sha256: str, *people: str, by_targets: bool = False):
    drafts = revoke_bundle(api.repository.state, sha256, "It labels cats as dogs", api.clock.now, by_targets=by_targets)
    answer = api.send(api.event(drafts, *people))
    assert answer.status_code == 200, answer.text


def _rollout(api, release: str, *, started: bool = True) -> str:
    body = {"release": release, "selector": {"all": True}, "waves": WAVES, "policy": {"holdout_pct": 0}}
    rollout = api.operator.post("/api/v1/rollouts", json=body).json()["id"]
    if started:
        assert api.approver.post(f"/api/v1/rollouts/{rollout}/approve", headers={"If-Match": "*"}).status_code == 200
    return rollout


def _phase(api, rollout: str) -> str:
    return api.viewer.get(f"/api/v1/rollouts/{rollout}").json()["rollout"]["phase"]


def _asked(api) -> dict[str, list[str]]:
    with api.db.read() as session:
        devices = session.exec(select(Desired.device)).all()
        return {
            device: sorted(model.sha256 for model in desired.current_models(session, device).values())
            for device in devices
        }


@pytest.fixture
def fleet(api):
    api.enrol("cam-1", "cam-2", "cam-3")
    return api


def test_a_revoked_release_says_so_and_can_neither_be_approved_nor_rolled_out(fleet):
    api, sha256 = fleet, fleet.publish(fleet.bundle("1.0.0", 1)).json()["sha256"]
    assert api.viewer.get(f"/api/v1/releases/{sha256}").json()["release"]["revoked"] is None
    _revoke(api, sha256, "on-call-1")
    said = {"reason": "It labels cats as dogs", "strength": 1, "at_ms": api.clock.now}
    assert api.viewer.get(f"/api/v1/releases/{sha256}").json()["release"]["revoked"] == said
    assert api.viewer.get("/api/v1/releases").json()["items"][0]["revoked"] == said
    assert api.viewer.get("/api/v1/trust").json()["revoked"] == {sha256: said}
    answer = api.approver.post(f"/api/v1/releases/{sha256}/approve")
    assert (answer.status_code, answer.json()["code"]) == (409, "TRUST_REVOKED")
    assert "new version" in answer.json()["remedy"]
    assert api.approver.post(f"/api/v1/releases/{sha256}/reject").status_code == 200


def test_a_rollout_of_a_revoked_release_is_not_made(fleet):
    api, sha256 = fleet, fleet.approved()
    _revoke(api, sha256, "on-call-1")
    body = {"release": sha256, "selector": {"all": True}, "waves": WAVES, "policy": {"holdout_pct": 0}}
    answer = api.operator.post("/api/v1/rollouts", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "TRUST_REVOKED")


def test_one_signature_aborts_a_running_rollout_and_two_halt_it_and_ask_everybody_back(fleet):
    api, first = fleet, fleet.approved()
    weak = _rollout(api, first)
    assert list(_asked(api).values()).count([first]) == 1
    _revoke(api, first, "on-call-1")
    assert _phase(api, weak) == "aborted"
    assert list(_asked(api).values()).count([first]) == 0, "an offer that nobody took is recalled"
    second = api.approved("1.1.0", 2)
    strong = _rollout(api, second)
    assert list(_asked(api).values()).count([second]) == 1
    _revoke(api, second, "on-call-1", "on-call-2")
    assert _phase(api, strong) in ("rolling_back", "rolled_back")
    assert list(_asked(api).values()).count([second]) == 0
    with api.db.read() as session:
        rows = session.exec(select(Decision).where(Decision.actor == "system:trust", Decision.kind == "audit")).all()
    assert [row.action for row in rows if "rollout" in row.action] == ["rollout.abort", "rollout.rollback"]
    assert "cats as dogs" in api.viewer.get(f"/api/v1/rollouts/{strong}").json()["rollout"]["reason"]


def test_a_rollout_waiting_for_approval_is_aborted(fleet):
    api, sha256 = fleet, fleet.approved()
    rollout = _rollout(api, sha256, started=False)
    _revoke(api, sha256, "targets", by_targets=True)
    assert _phase(api, rollout) == "aborted"
    assert api.viewer.get(f"/api/v1/releases/{sha256}").json()["release"]["revoked"]["strength"] == 2


def test_rolling_back_never_names_a_bundle_that_was_revoked_meanwhile(fleet):
    api, old = fleet, fleet.approved()
    with api.db.write() as session:
        for device in ("cam-1", "cam-2", "cam-3"):
            release = rollouts.find_release(session, old)
            models = {"vision/digits": rollouts.devices.desired_model(release)}
            row = session.get(Desired, device)
            profile = api.deps.settings.profile
            desired.set_desired(
                session, row.device, models, rollout="", canary=False, profile=profile, now_ms=api.clock.now
            )
    rollout = _rollout(api, api.approved("1.1.0", 2))
    _revoke(api, old, "on-call-1", "on-call-2")
    assert _phase(api, rollout) == "running", "it leads away from the revoked one"
    back = api.operator.post(
        f"/api/v1/rollouts/{rollout}/rollback", json={"reason": "worse still"}, headers={"If-Match": "*"}
    )
    assert back.status_code == 200, back.text
    asked = sorted(_asked(api).values())
    assert asked == [[], [old], [old]], "the exposed one is left to itself; nobody is newly asked to run it"


def test_what_a_crash_left_of_a_revocation_is_done_at_the_next_start(fleet):
    api, sha256 = fleet, fleet.approved()
    rollout = _rollout(api, sha256)
    drafts = revoke_bundle(api.repository.state, sha256, "bad", api.clock.now)
    api.repository.publish(api.event(drafts, "on-call-1", "on-call-2"))  # died here
    assert _phase(api, rollout) == "running"
    api.open_trust().settle()
    assert _phase(api, rollout) in ("rolling_back", "rolled_back")
    with api.db.read() as session:
        rows = len(session.exec(select(Decision)).all())
    api.open_trust().settle()
    with api.db.read() as session:
        assert len(session.exec(select(Decision)).all()) == rows, "doing it again changes nothing"


def test_a_second_signature_raises_the_strength_and_new_keys_end_what_stolen_ones_said(fleet):
    api, sha256 = fleet, fleet.approved()
    _revoke(api, sha256, "on-call-1")
    _revoke(api, sha256, "on-call-1", "on-call-2")
    with api.db.read() as session:
        assert session.get(RevokedBundle, sha256).strength == 2
    drafts = rotate_revocation(
        api.repository.state, Keys([api.keys["audio"].public_key, api.keys["vision"].public_key], 1), api.clock.now,
        keep=[],
    )  # fmt: skip
    assert api.send(api.event(drafts, "targets", "audio")).status_code == 200
    assert api.viewer.get(f"/api/v1/releases/{sha256}").json()["release"]["revoked"] is None
    with api.db.read() as session:
        actions = [row.action for row in session.exec(select(Decision).where(Decision.actor == "system:trust"))]
    assert [action for action in actions if action.startswith("release.")] == [
        "release.revoke", "release.revoke", "release.unrevoke",
    ]  # fmt: skip
