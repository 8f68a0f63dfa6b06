"""The rest of the operators' doors: tokens, devices, alerts, audit, health, events, and how errors look everywhere."""

from __future__ import annotations

import json

import anyio
import pytest
from fastapi.testclient import TestClient

from control_plane.api.deps import Check
from control_plane.auth import Role
from control_plane.db.tables import Alert, Device, DeviceEvent


def _problem(answer, status: int, code: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (told["code"], told["status"], told["type"]) == (code, status, f"/problems/{code}")
    assert told["detail"]
    assert told["remedy"]


def test_every_error_is_a_problem_with_a_code_and_a_remedy(api):
    _problem(api.viewer.get("/api/v1/nothing"), 404, "PATH_UNKNOWN")
    _problem(api.viewer.delete("/api/v1/rollouts"), 405, "METHOD_NOT_ALLOWED")
    _problem(api.viewer.get("/api/v1/devices", params={"limit": "many"}), 422, "REQUEST_INVALID")
    _problem(api.viewer.get("/api/v1/devices/ghost"), 404, "DEVICE_UNKNOWN")
    _problem(api.viewer.get("/api/v1/rollouts/ro-none"), 404, "ROLLOUT_UNKNOWN")
    _problem(api.viewer.get(f"/api/v1/releases/{'0' * 64}"), 404, "RELEASE_UNKNOWN")
    _problem(api.operator.post("/api/v1/alerts/7/ack"), 404, "ALERT_UNKNOWN")
    _problem(api.operator.post("/api/v1/rollouts", content=b"{"), 422, "REQUEST_INVALID")


def test_a_rejected_value_is_not_sent_back(api):
    answer = api.admin.post("/api/v1/tokens", json={"principal": "x", "role": "hunter2-secret"})
    assert answer.status_code == 422
    assert "hunter2" not in answer.text


def test_nobody_enters_without_a_token_that_holds(api):
    bare = TestClient(api.app)
    _problem(bare.get("/api/v1/devices"), 401, "TOKEN_MISSING")
    _problem(bare.get("/api/v1/devices", headers={"Authorization": "Basic eDp5"}), 401, "TOKEN_MISSING")
    _problem(bare.get("/api/v1/devices", headers={"Authorization": "Bearer wgo_no"}), 401, "TOKEN_UNKNOWN")
    assert bare.get("/api/v1/devices").headers["www-authenticate"] == "Bearer"
    short = api.client("tim", Role.VIEWER)
    assert short.get("/api/v1/me").json() == {"principal": "tim", "role": "viewer", "teams": ["*"]}
    api.clock.now += 3600 * 1000
    _problem(short.get("/api/v1/me"), 401, "TOKEN_EXPIRED")


def test_an_administrator_makes_and_revokes_tokens(api):
    made = api.admin.post("/api/v1/tokens", json={"principal": "eve", "role": "operator", "teams": ["vision"]})
    assert made.status_code == 201
    eve = TestClient(api.app, headers={"Authorization": f"Bearer {made.json()['token']}"})
    assert eve.get("/api/v1/me").json()["teams"] == ["vision"]
    _problem(eve.get("/api/v1/tokens"), 403, "ROLE_REQUIRED")
    listed = api.admin.get("/api/v1/tokens")
    assert made.json()["token"] not in listed.text
    assert made.json()["view"] in listed.json()["items"]
    assert api.admin.post(f"/api/v1/tokens/{made.json()['view']['id']}/revoke").status_code == 200
    _problem(eve.get("/api/v1/me"), 401, "TOKEN_REVOKED")


def test_devices_are_listed_shown_and_ended(api):
    api.enrol("cam-1", "cam-2", "cam-3")
    with api.db.write() as session:
        row = session.get(Device, "cam-1")
        row.last_seen_ms, row.reported_gen = api.clock.now, 1
        row.reported_json = '{"models":{"vision/digits":{"sha256":"aa","version":"1","phase":"idle"}},"beat":3}'
        session.add(row)
        for n in range(3):
            session.add(
                DeviceEvent(
                    device="cam-1", boot_epoch="0" * 16, seq=n, at_ms=1, received_ms=2, kind="phase", code=f"c{n}"
                )
            )
    page = api.viewer.get("/api/v1/devices", params={"limit": 2}).json()
    rest = api.viewer.get("/api/v1/devices", params={"limit": 2, "cursor": page["next"]}).json()
    assert [item["id"] for item in page["items"] + rest["items"]] == ["cam-1", "cam-2", "cam-3"]
    assert [item["online"] for item in page["items"]] == [True, False]
    assert page["items"][0]["models"]["vision/digits"]["sha256"] == "aa"
    assert [row["code"] for row in api.viewer.get("/api/v1/devices/cam-1/events").json()["items"]] == ["c2", "c1", "c0"]
    assert (
        api.operator.post("/api/v1/devices/cam-2/retire", json={"reason": "old"}).json()["device"]["state"] == "retired"
    )
    assert api.operator.post("/api/v1/devices/cam-2/revoke").json()["device"]["state"] == "revoked"
    _problem(api.operator.post("/api/v1/devices/cam-2/retire"), 409, "DEVICE_REVOKED")
    _problem(api.viewer.post("/api/v1/devices/cam-1/retire"), 403, "ROLE_REQUIRED")
    assert len(api.viewer.get("/api/v1/devices", params={"state": "enrolled"}).json()["items"]) == 2
    summary = api.viewer.get("/api/v1/fleet/summary").json()
    assert summary["devices"] == {"enrolled": 2, "revoked": 1}
    assert summary["live"] == [{"model": "vision/digits", "sha256": "aa", "version": "1", "devices": 1}]
    assert (summary["online"], summary["behind"]) == (1, 1)


def test_a_claim_token_is_shown_once(api):
    made = api.operator.post("/api/v1/devices/enroll-tokens", json={"uses": 3, "labels": {"site": "x"}})
    assert made.status_code == 201
    assert len(made.json()["token"]) == 68
    _problem(
        api.operator.post("/api/v1/devices/enroll-tokens", json={"uses": 2, "device": "cam-1"}), 422, "ENROL_TOKEN_USES"
    )
    _problem(api.viewer.post("/api/v1/devices/enroll-tokens", json={}), 403, "ROLE_REQUIRED")


def test_an_alert_is_acknowledged_once(api):
    with api.db.write() as session:
        for state in ("firing", "resolved"):
            session.add(
                Alert(
                    fingerprint=state,
                    name="drift",
                    severity="warning",
                    state=state,
                    summary="sharpness drifts",
                    labels_json='{"feature":"sharpness"}',
                    first_ms=1,
                    last_ms=2,
                )
            )
    items = api.viewer.get("/api/v1/alerts").json()["items"]
    by_state = {item["state"]: item["id"] for item in items}
    assert api.operator.post(f"/api/v1/alerts/{by_state['firing']}/ack").json()["state"] == "acknowledged"
    assert api.operator.post(f"/api/v1/alerts/{by_state['firing']}/ack").status_code == 200
    _problem(api.operator.post(f"/api/v1/alerts/{by_state['resolved']}/ack"), 409, "ALERT_RESOLVED")
    opened = api.viewer.get("/api/v1/alerts", params={"state": "open"}).json()["items"]
    assert [item["state"] for item in opened] == ["acknowledged"]


def test_the_audit_is_read_and_whole(api):
    api.approved()
    rows = api.viewer.get("/api/v1/audit", params={"actor": "bob"}).json()["items"]
    assert [row["action"] for row in rows] == ["release.approved"]
    report = api.viewer.get("/api/v1/audit/verify").json()
    assert report["is_whole"]
    assert report["rows"] >= 6


def test_health_and_readiness(api):
    bare = TestClient(api.app)
    assert bare.get("/healthz").json()["status"] == "ok"
    assert bare.get("/readyz").json() == {"ready": True, "checks": [{"name": "database", "ok": True, "detail": ""}]}
    object.__setattr__(api.deps, "readiness", [lambda: Check("broker", False, "not connected")])
    answer = bare.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"][1] == {"name": "broker", "ok": False, "detail": "not connected"}


@pytest.mark.parametrize("origin", ["first look", "later change"])
def test_changes_are_streamed(api, origin):
    api.enrol("cam-1", "cam-2")
    body = {
        "release": api.approved(), "selector": {"all": True}, "waves": [{"rest": True, "soak_s": 8}],
        "policy": {"holdout_pct": 0},
    }  # fmt: skip
    if origin == "first look":
        made = api.operator.post("/api/v1/rollouts", json=body).json()
    seen: list[tuple[str, dict]] = []

    async def watch() -> None:
        nonlocal made
        async for change in api.deps.fanout.listen():
            seen.append((change.name, change.data))
            if origin == "later change" and made is None and change.name == "fleet":
                made = await anyio.to_thread.run_sync(lambda: api.operator.post("/api/v1/rollouts", json=body).json())
            if made is not None and any(name == "rollout" for name, _ in seen):
                return

    made = made if origin == "first look" else None

    async def within() -> None:
        with anyio.fail_after(20):
            await watch()

    anyio.run(within)
    told = [data for name, data in seen if name == "rollout"]
    assert told[0]["id"] == made["id"]
    assert told[0]["phase"] == "pending_approval"
    assert json.dumps(seen)
