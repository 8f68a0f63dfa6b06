"""The devices' doors on both databases: enrolment, request proofs, desired, reports, blobs, metadata."""

from __future__ import annotations

import threading

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlmodel import select

from agent.identity import signing_request
from bundles.digest import sha256_hex
from bundles.wire import topics
from bundles.wire.codec import decode_ack, encode, encode_batch
from bundles.wire.messages import Event, UpEnvelope
from control_plane.db.tables import Desired, Device
from control_plane.identity.nonce import LIFE_MS

NOW = 1_800_000_000_000
TOKEN = "t" * 32


def test_enrolment_gives_a_certificate_for_the_key_and_the_name(server, key):
    server.add_token()
    answer = server.enroll(key).json()
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert answer["device"] == "cam-1"
    assert certificate.public_key() == key.public_key()
    assert answer["server_ca"] == "PIN"
    assert answer["mqtt"] == {"host": "127.0.0.1", "port": 8883}
    with server.db.read() as session:
        row = session.get(Device, "cam-1")
        assert (row.hardware, row.cohort) == ("cam-a", "north")
        assert session.get(Desired, "cam-1").gen == 1


def test_the_same_key_again_is_the_same_device_and_another_key_is_refused(server, key):
    server.add_token()
    first = server.enroll(key).json()
    assert server.enroll(key).json()["certificate"] == first["certificate"], "the answer was lost on the way"
    other = ec.generate_private_key(ec.SECP256R1())
    used_up = server.enroll(other, name="cam-2")
    assert (used_up.status_code, used_up.json()["code"]) == (401, "ENROL_TOKEN")
    server.add_token("u" * 32)
    taken = server.enroll(other, "u" * 32, name="cam-1")
    assert (taken.status_code, taken.json()["code"]) == (409, "ENROL_NAME_TAKEN")
    assert server.enroll(other, "u" * 32, name="cam-2").status_code == 200, "a refused try does not spend the token"


def test_tokens_that_are_unknown_or_expired_and_bad_requests_are_refused(server, key):
    assert server.enroll(key).json()["code"] == "ENROL_TOKEN"
    server.add_token(life_ms=0)
    assert server.enroll(key).json()["code"] == "ENROL_TOKEN"
    server.add_token("v" * 32, uses=5)
    assert server.enroll(key, "v" * 32, name="cp.ingest").json()["code"] == "DEVICE_ID"
    bad = server.http.post("/v1/enroll", json={"token": "v" * 32, "csr": "garbage"})
    assert (bad.status_code, bad.json()["code"]) == (422, "CSR_INVALID")
    assert server.http.post("/v1/enroll", content=b"{").json()["code"] == "BODY_INVALID"
    assert server.http.post("/v1/enroll", content=b"x" * 100_000).status_code == 413


def test_a_token_for_one_use_enrols_one_of_many_that_race(server):
    server.add_token()
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(6)]
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n, k=k: answers.append(server.enroll(k, name=f"cam-{n}").status_code))
        for n, k in enumerate(keys)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [401] * 5


def test_a_signed_request_gets_the_desired_document_until_it_has_it(caller):
    first = caller.call("GET", "/v1/device/desired")
    assert first.status_code == 200
    assert first.json()["signed"]["device"] == "cam-1"
    again = caller.call("GET", "/v1/device/desired", **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_proof_works_once_for_one_request_of_one_device(server, caller):
    path = "/v1/device/desired"
    proof = caller.proof("GET", path)
    assert server.http.get(path, headers={"Authorization": proof}).status_code == 200
    replayed = server.http.get(path, headers={"Authorization": proof})
    assert (replayed.status_code, replayed.json()["code"]) == (401, "PROOF_REPLAYED")
    elsewhere = server.http.post("/v1/device/reports", headers={"Authorization": caller.proof("GET", path)})
    assert elsewhere.json()["code"] == "PROOF_INVALID"
    altered = server.http.post(
        "/v1/device/reports", content=b"more", headers={"Authorization": caller.proof("POST", "/v1/device/reports")}
    )
    assert altered.json()["code"] == "PROOF_INVALID"
    assert server.http.get(path).json()["code"] == "PROOF_MISSING"
    thief = server.caller("cam-1", ec.generate_private_key(ec.SECP256R1()))
    assert thief.call("GET", path).json()["code"] == "PROOF_INVALID"
    stranger = server.caller("cam-77", caller.key)
    assert (stranger.call("GET", path).status_code, stranger.call("GET", path).json()["code"]) == (
        403,
        "DEVICE_REVOKED",
    )


def test_an_old_nonce_is_answered_with_a_new_one(server, caller):
    server.now_ms += LIFE_MS
    old = caller.call("GET", "/v1/device/desired")
    assert (old.status_code, old.json()["code"]) == (401, "NONCE_OLD")
    caller.nonce = old.headers["WG-Nonce"]
    assert caller.call("GET", "/v1/device/desired").status_code == 200


def test_a_revoked_device_is_refused_at_once(server, caller):
    with server.db.write() as session:
        row = session.get(Device, "cam-1")
        row.state = "revoked"
        session.add(row)
    refused = caller.call("GET", "/v1/device/desired")
    assert (refused.status_code, refused.json()["code"]) == (403, "DEVICE_REVOKED")
    assert server.enroll(caller.key).json()["code"] == "DEVICE_REVOKED"


def test_renewal_keeps_the_old_key_until_the_new_one_is_used(server, caller):
    new_key = ec.generate_private_key(ec.SECP256R1())
    body = msgspec.json.encode({"csr": signing_request(new_key, "ignored")})
    answer = caller.call("POST", "/v1/renew", body)
    certificate = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
    assert certificate.public_key() == new_key.public_key()
    assert caller.call("GET", "/v1/device/desired").status_code == 200, "the answer may have been lost"
    renewed = server.caller("cam-1", new_key)
    assert renewed.call("GET", "/v1/device/desired").status_code == 200
    assert caller.call("GET", "/v1/device/desired").json()["code"] == "PROOF_INVALID", "the old key is done"
    assert renewed.call("GET", "/v1/device/desired").status_code == 200


def test_reports_are_taken_in_once_and_acknowledged(server, caller):
    message = Event(device="cam-1", boot_epoch="e" * 16, seq=1, event_id="1", at_ms=NOW, kind="phase")
    body = encode_batch([UpEnvelope(topics.UP_EVENT, encode(message))])
    for _ in range(2):
        ack = decode_ack(caller.call("POST", "/v1/device/reports", body).content)
        assert (ack.boot_epoch, ack.upto_seq) == ("e" * 16, 1)
    assert [outcome.fresh for outcome in server.outcomes] == [1, 0]
    assert caller.call("POST", "/v1/device/reports", b"garbage").json()["code"] == "MESSAGE_INVALID"


def test_a_blob_comes_whole_in_parts_and_not_past_its_end(server, caller):
    content = bytes(range(256)) * 8
    digest = sha256_hex(content)
    server.blobs.put(digest, content)
    path = f"/v1/blobs/sha256/{digest}"
    assert caller.call("GET", path).content == content
    rest = caller.call("GET", path, Range="bytes=2000-")
    assert (rest.status_code, rest.content) == (206, content[2000:])
    assert rest.headers["Content-Range"] == "bytes 2000-2047/2048"
    assert caller.call("GET", path, Range="bytes=10-19").content == content[10:20]
    assert caller.call("GET", path, Range="bytes=2048-").status_code == 416
    assert caller.call("GET", f"/v1/blobs/sha256/{'0' * 64}").json()["code"] == "BLOB_NOT_FOUND"
    assert server.http.get(path).status_code == 401, "blobs are for enrolled devices"


@pytest.mark.parametrize("name", ["2.root.json", "..%2Fsecret.json", "secret.json", "%2e%2e/secret.json", "x"])
def test_only_metadata_by_its_own_names_is_public(server, name):
    assert server.http.get("/metadata/timestamp.json").json() == {"signed": {}}
    assert server.http.get(f"/metadata/{name}").status_code == 404


def test_every_device_row_has_one_desired_document(server, caller):
    with server.db.read() as session:
        assert list(session.exec(select(Desired.device))) == list(session.exec(select(Device.id)))
