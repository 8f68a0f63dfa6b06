"""Tokens for a list of hardware, and approvals: by the API and by the command line."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlmodel import select

from bundles.digest import sha256_hex
from control_plane.db.tables import Device, EnrolToken
from control_plane.identity.authority import key_fingerprint
from control_plane.services import approvals


def ask(api, name):
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with api.db.write() as session:
        approvals.ask(session, key, name=name, hardware="cam-a", serial="SN", labels={}, now_ms=api.clock.now)
    return key_fingerprint(key)


def make(api, rows, **more):
    return api.operator.post("/api/v1/enrolments/tokens", json={"rows": rows, **more})


def test_each_row_gets_one_token_for_its_serial_number_once(api):
    rows = [{"serial": "SN-1", "device": "cam-1", "labels": {"site": "north"}}, {"serial": "SN-2"}]
    made = make(api, rows)
    assert made.status_code == 201
    assert [row["state"] for row in made.json()] == ["made", "made"]
    again = make(api, [*rows, {"serial": "SN-3"}]).json()
    assert [(row["state"], bool(row["token"])) for row in again] == [
        ("exists", False), ("exists", False), ("made", True),
    ]  # fmt: skip
    with api.db.read() as session:
        digest = sha256_hex(made.json()[0]["token"].encode())
        row = session.exec(select(EnrolToken).where(EnrolToken.token_sha256 == digest)).one()
        assert (row.serial, row.device, row.uses_left, row.labels_json) == ("SN-1", "cam-1", 1, '{"site":"north"}')
    replaced = make(api, rows[:1], replace=True).json()[0]
    assert replaced["state"] == "made"
    with api.db.read() as session:
        assert session.get(EnrolToken, row.id).uses_left == 0
    with api.db.write() as session:
        session.add(Device(id="cam-2", public_key_pem="k", enrolled_ms=1, serial="SN-2"))
    assert make(api, rows).json()[1] | {"expires_ms": 0} == {
        "serial": "SN-2", "state": "enrolled", "token": "", "device": "cam-2", "expires_ms": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "word"),
    [({"serial": ""}, "serial"), ({"serial": "SN-1"}, "row 1"), ({"serial": "SN-9", "device": "-x"}, "name a device"),
     ({"serial": "SN-9", "device": "cam-1"}, "row 1"), ({"serial": " SN-9"}, "space")],
)  # fmt: skip
def test_a_bad_row_is_named_and_makes_nothing(api, bad, word):
    answer = make(api, [{"serial": "SN-1", "device": "cam-1"}, bad])
    assert (answer.status_code, answer.json()["code"]) == (422, "ENROL_ROW")
    assert answer.json()["details"]["row"] == 2
    assert word in answer.json()["detail"]
    with api.db.read() as session:
        assert session.exec(select(EnrolToken)).all() == []


def test_who_may_approve(api):
    fingerprint = ask(api, "cam-1")
    assert [row["fingerprint"] for row in api.viewer.get("/api/v1/enrolments").json()] == [fingerprint]
    assert api.viewer.post(f"/api/v1/enrolments/{fingerprint}/approve").status_code == 403
    done = api.operator.post(f"/api/v1/enrolments/{fingerprint[:16]}/approve").json()
    assert (done["state"], done["device"]) == ("approved", "cam-1")
    second = ask(api, "cam-1")
    taken = api.operator.post(f"/api/v1/enrolments/{second}/approve")
    assert (taken.status_code, taken.json()["code"]) == (409, "ENROL_NAME_TAKEN")
    assert api.operator.post(f"/api/v1/enrolments/{second}/deny").json()["state"] == "denied"
    assert api.viewer.get("/api/v1/enrolments").json() == []
