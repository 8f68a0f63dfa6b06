"""Rollouts over HTTP: planned, created once, approved by another, and changed only by who knows the version."""

from __future__ import annotations

import pytest

from bundles.wire import codec
from bundles.wire.messages import Reported
from control_plane.auth import Role
from control_plane.db.tables import Device

WAVES = [{"count": 2, "soak_s": 8}, {"rest": True, "soak_s": 8}]


@pytest.fixture
def body(api) -> dict:
    api.enrol(*(f"cam-{n}" for n in range(6)))
    return {
        "release": api.approved(),
        "selector": {"all": True},
        "waves": WAVES,
        "seed": "s",
        "policy": {"holdout_pct": 0},
    }


def _create(api, body, **headers):
    answer = api.operator.post("/api/v1/rollouts", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer


def test_a_dry_run_says_who_when_and_what_it_proves_and_stores_nothing(api, body):
    plan = api.viewer.post("/api/v1/rollouts/plan", json=body).json()
    assert [wave["size"] for wave in plan["waves"]] == [2, 4]
    assert plan["waves"][0]["not_applicable"] == {"output": "no_incumbent"}
    assert plan["waves"][0]["proves"]
    assert plan["notes"]
    assert api.viewer.get("/api/v1/rollouts").json()["items"] == []


def test_created_approved_and_running(api, body):
    made = _create(api, body)
    assert made.headers["location"] == f"/api/v1/rollouts/{made.json()['id']}"
    path = made.headers["location"]
    own = api.client("ada", Role.APPROVER).post(f"{path}/approve", headers={"If-Match": made.headers["etag"]})
    assert (own.status_code, own.json()["code"]) == (403, "FOUR_EYES")
    low = api.operator.post(f"{path}/approve", headers={"If-Match": "*"})
    assert (low.status_code, low.json()["code"]) == (403, "ROLE_REQUIRED")
    other = api.approver.post(f"{path}/approve", headers={"If-Match": made.headers["etag"]})
    assert (other.status_code, other.json()["phase"]) == (200, "running")
    shown = api.viewer.get(path)
    assert shown.headers["etag"] == other.headers["etag"]
    assert shown.json()["waves"][0]["states"] == {"offered": 2}
    rows = api.viewer.get(f"{path}/devices", params={"wave": 1}).json()["items"]
    assert [row["state"] for row in rows] == ["offered", "offered"]
    twin = api.viewer.get(f"/api/v1/devices/{rows[0]['device']}").json()
    assert twin["desired"]["vision/digits"]["sha256"] == body["release"]
    assert twin["device"]["desired_gen"] == 2
    story = api.viewer.get(f"{path}/explain").json()
    assert story["text"].startswith("It runs: wave 1 of 2 is offering.")
    assert story["story"]["required_gates"]


def test_a_verb_must_say_which_version_it_means(api, body):
    made = _create(api, body)
    path, tag = made.headers["location"], made.headers["etag"]
    missing = api.operator.post(f"{path}/abort")
    assert (missing.status_code, missing.json()["code"]) == (428, "IF_MATCH_MISSING")
    nonsense = api.operator.post(f"{path}/abort", headers={"If-Match": "yesterday"})
    assert (nonsense.status_code, nonsense.json()["code"]) == (412, "IF_MATCH_INVALID")
    assert api.approver.post(f"{path}/approve", headers={"If-Match": tag}).status_code == 200
    stale = api.operator.post(f"{path}/abort", headers={"If-Match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "VERSION_CHANGED")
    done = api.operator.post(f"{path}/abort", headers={"If-Match": "*"}, json={"reason": "enough"})
    assert (done.status_code, done.json()["phase"], done.json()["reason"]) == (200, "aborted", "enough")
    late = api.operator.post(f"{path}/pause", headers={"If-Match": "*"})
    assert (late.status_code, late.json()["code"]) == (409, "ROLLOUT_PHASE")


def test_a_repeated_request_creates_one_rollout(api, body):
    first = _create(api, body, **{"Idempotency-Key": "once"})
    again = _create(api, body, **{"Idempotency-Key": "once"})
    assert again.json() == first.json()
    other = api.operator.post("/api/v1/rollouts", json={**body, "seed": "t"}, headers={"Idempotency-Key": "once"})
    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert len(api.viewer.get("/api/v1/rollouts").json()["items"]) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"release": "0" * 64}, "RELEASE_UNKNOWN"),
        ({"selector": {}}, "PLAN_SELECTOR_EMPTY"),
        ({"waves": [{"percent": 40, "soak_s": 8}]}, "PLAN_WAVES_SUM"),
        ({"waves": []}, "REQUEST_INVALID"),
        ({"waves": [{"rest": True, "soak_s": 1e300}]}, "REQUEST_INVALID"),
        ({"waves": [{"rest": True, "soak_s": 1}]}, "POLICY_SOAK"),
        ({"policy": {"quorum": "most"}}, "POLICY_FIELD"),
        ({"policy": {"approval_expiry_s": 1e300}}, "POLICY_VALUE"),
        ({"profile": {"heartbeat_s": -1}}, "PROFILE_FIELD"),
        ({"unheard_of": 1}, "REQUEST_INVALID"),
        ({"seed": "nul\u0000"}, "REQUEST_INVALID"),
    ],
)
def test_what_cannot_work_is_refused_with_its_code(api, body, change, code):
    answer = api.operator.post("/api/v1/rollouts", json={**body, **change})
    assert answer.status_code in (404, 422), answer.text
    assert answer.json()["code"] == code
    assert answer.json()["remedy"]
    assert api.viewer.get("/api/v1/rollouts").json()["items"] == []


def test_a_release_nobody_approved_is_not_rolled_out(api, body):
    sha256 = api.publish(api.bundle("2.0.0", 2)).json()["sha256"]
    answer = api.operator.post("/api/v1/rollouts", json={**body, "release": sha256})
    assert (answer.status_code, answer.json()["code"]) == (409, "RELEASE_NOT_APPROVED")


def test_a_viewer_changes_nothing(api, body):
    made = _create(api, body)
    for verb in ("approve", "reject", "promote", "pause", "resume", "rollback", "abort"):
        answer = api.viewer.post(f"{made.headers['location']}/{verb}", headers={"If-Match": "*"})
        assert (answer.status_code, answer.json()["code"]) == (403, "ROLE_REQUIRED")
    assert api.viewer.post("/api/v1/rollouts", json=body).status_code == 403


def test_another_team_neither_sees_nor_stops_it(api, body):
    made = _create(api, body)
    stranger = api.client("sam", Role.ADMIN, teams=("audio",))
    path = made.headers["location"]
    assert stranger.get("/api/v1/rollouts").json()["items"] == []
    for answer in (
        stranger.get(path),
        stranger.get(f"{path}/explain"),
        stranger.get(f"{path}/devices"),
        stranger.post(f"{path}/abort", headers={"If-Match": "*"}),
        stranger.post("/api/v1/rollouts", json=body),
        stranger.post("/api/v1/rollouts/plan", json=body),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "TEAM_REQUIRED")


def test_a_dry_run_says_which_devices_cannot_hold_two_copies_and_whose_room_is_unknown(api, body):
    def beat(device: str, **room: int) -> None:
        message = Reported(
            device, "ab" * 8, 1, 1, api.clock.now, 1, 0, {}, hardware="cam-a", runtimes=["onnxruntime"], **room
        )
        with api.db.write() as session:
            session.get(Device, device).reported_json = codec.encode(message).decode()

    kib = 1024
    beat("cam-0", disk_free_bytes=10**9, disk_reserve_bytes=64 * kib, memory_available_bytes=10**9)
    beat("cam-1", disk_free_bytes=65 * kib, disk_reserve_bytes=65 * kib, memory_available_bytes=10**9)
    beat("cam-2", disk_free_bytes=10**9, disk_reserve_bytes=64 * kib, memory_available_bytes=1)
    plan = api.viewer.post("/api/v1/rollouts/plan", json=body).json()
    assert [(one["device"], one["resource"]) for one in plan["short"]] == [("cam-1", "disk"), ("cam-2", "memory")]
    assert all(one["needed_bytes"] > one["left_bytes"] and one["sentence"] for one in plan["short"])
    assert plan["room_unknown"] == ["cam-3", "cam-4", "cam-5"]
    assert plan["swap"] == "hot"
    assert sum(wave["size"] for wave in plan["waves"]) == 6, "nobody is kept out"
    assert any(note.startswith("2 devices (cam-1, cam-2) cannot hold two copies") for note in plan["notes"])
