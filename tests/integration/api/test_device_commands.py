"""Who may ask devices what, over the API, and what the audit and the pages tell of it, on both databases."""

from __future__ import annotations

import hashlib

import pytest

from bundles.wire import commands as wire
from bundles.wire.codec import encode
from bundles.wire.commands import CommandResult
from bundles.wire.messages import ModelReported, Reported
from bundles.wire.topics import UP_REPORTED
from control_plane.auth import Role
from control_plane.services import answers, intake
from control_plane.services.reports import Inbound

URL = "/api/v1/devices/cam-1"


@pytest.fixture
def asked(api):
    api.enrol("cam-1", "cam-2")
    said = Reported(
        device="cam-1", boot_epoch="0" * 16, session=1, beat=1, at_ms=api.clock.now, gen=0, uptime_ms=1,
        models={"vision/digits": ModelReported(sha256="a" * 64)},
    )  # fmt: skip
    with api.db.write() as session:
        batch = [Inbound("cam-1", UP_REPORTED, encode(said))]
        intake.take_in(session, batch, bucket_ms=1000, now_ms=api.clock.now)
    return api


def answer(api, command: str, content: bytes) -> None:
    with api.db.write() as session:
        answers.take_bundle(session, "cam-1", command, content, api.clock.now)
        data = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        payload = wire.encode(CommandResult(command, True, data=data))
        answers.take_in(session, "cam-1", wire.result_leaf(command), payload, api.clock.now)


def test_viewers_look_and_operators_ask(asked):
    for do in wire.DOINGS:
        refused = asked.viewer.post(f"{URL}/commands", json={"do": do})
        assert (refused.status_code, refused.json()["code"]) == (403, "ROLE_REQUIRED")
    assert asked.viewer.get(f"{URL}/commands").json() == {"items": [], "next": ""}
    made = asked.operator.post(f"{URL}/commands", json={"do": "diagnose", "reason": "it is odd"})
    assert (made.status_code, made.json()["why"]) == (202, "it is odd")
    command = made.json()["id"]
    assert asked.viewer.get(f"{URL}/commands/{command}").json()["actor"] == "ada"
    assert asked.viewer.get(f"/api/v1/devices/cam-2/commands/{command}").status_code == 404

    answer(asked, command, b"bundle")
    assert asked.viewer.get(f"{URL}/diagnoses").json()["items"][0]["bundle_bytes"] == 6
    assert asked.viewer.get(f"{URL}/diagnoses/{command}").status_code == 403
    fetched = asked.operator.get(f"{URL}/diagnoses/{command}")
    assert (fetched.status_code, fetched.content) == (200, b"bundle")
    assert fetched.headers["Content-Disposition"] == f'attachment; filename="diagnosis-cam-1-{command}.tar.gz"'

    log = asked.viewer.get("/api/v1/audit", params={"subject": "device:cam-1"}).json()["items"]
    told = [(one["actor"], one["action"], one["body"].get("why")) for one in log]
    assert {
        ("ada", "device.diagnose", "it is odd"),
        ("device:cam-1", "device.answer", None),
        ("ada", "device.diagnosis.download", None),
    } <= set(told)


def test_a_model_is_rolled_back_by_its_own_team(asked):
    stranger = asked.client("eve", Role.OPERATOR, teams=("audio",))
    refused = stranger.post(f"{URL}/commands", json={"do": "rollback"})
    assert refused.status_code == 403, refused.text
    friend = asked.client("fay", Role.OPERATOR, teams=("vision",))
    assert friend.post(f"{URL}/commands", json={"do": "rollback"}).status_code == 202


@pytest.mark.parametrize(
    "body",
    [
        {"do": "shell"},
        {"do": "diagnose", "args": {"path": "/etc/shadow"}},
        {"do": "diagnose", "life_s": -1},
        {"do": "diagnose", "reason": "x" * 2001},
        {},
    ],
)
def test_nothing_else_can_be_asked(asked, body):
    assert asked.admin.post(f"{URL}/commands", json=body).status_code == 422


def test_the_same_question_waits(asked):
    asked.operator.post(f"{URL}/commands", json={"do": "status"})
    again = asked.operator.post(f"{URL}/commands", json={"do": "status"})
    assert (again.status_code, again.json()["code"]) == (409, "COMMAND_UNDER_WAY")
    assert asked.operator.post(f"{URL}/commands", json={"do": "status", "force": True}).status_code == 202
    assert len(asked.viewer.get(f"{URL}/commands", params={"limit": 1}).json()["items"]) == 1
