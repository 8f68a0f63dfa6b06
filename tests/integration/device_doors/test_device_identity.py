"""Who may become a device, how it stays one, and how it stops: on both databases, with real certificates."""

from __future__ import annotations

import ssl

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.identity import signing_request
from bundles.wire.messages import Profile
from control_plane.db.tables import Device
from control_plane.errors import Conflict, NotFound
from control_plane.identity.authority import key_fingerprint
from control_plane.services import approvals, certificates, devices

NOW = 1_800_000_000_000
TOKEN = "t" * 32


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def revoke(server, device="cam-1"):
    with server.db.write() as session:
        devices.end(session, device, "revoked", reason="", actor="ada", now_ms=server.now_ms)


def renewal(key, name="cam-1"):
    return msgspec.json.encode({"csr": signing_request(key, name)})


def test_a_token_bound_to_a_serial_number_or_a_key_enrols_nothing_else(server, key):
    server.add_token("s" * 32, serial="SN-1")
    for other in ("", "SN-2", "sn-1"):
        assert server.enroll(key, "s" * 32, serial=other).json()["code"] == "ENROL_TOKEN"
    assert server.enroll(key, "s" * 32, serial="SN-1").status_code == 200
    with server.db.read() as session:
        assert session.get(Device, "cam-1").serial == "SN-1"
    chosen = new_key()
    server.add_token("k" * 32, key_sha256=key_fingerprint(chosen.public_key()))
    assert server.enroll(new_key(), "k" * 32, name="cam-2").json()["code"] == "ENROL_TOKEN"
    assert server.enroll(chosen, "k" * 32, name="cam-2").status_code == 200


def test_of_a_certificate_request_only_the_key_counts(server, key):
    server.add_token()
    names = [x509.NameAttribute(NameOID.COMMON_NAME, "cp.ingest"), x509.NameAttribute(NameOID.COMMON_NAME, "+")]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name(names))
        .add_extension(x509.BasicConstraints(ca=True, path_length=9), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("cp.publish"), x509.DNSName("#")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    body = {"token": TOKEN, "csr": csr, "name": "cam-1"}
    made = x509.load_pem_x509_certificate(server.http.post("/v1/enroll", json=body).json()["certificate"].encode())
    assert made.subject.rfc4514_string() == "CN=cam-1"
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        made.extensions.get_extension_for_class(x509.SubjectAlternativeName)


@pytest.mark.parametrize("name", ["+", "#", "cp.ingest", "cp.publish", "a/b", "CAM", "-a", "a" * 65, "a\u0000", "*"])
def test_no_name_that_the_broker_could_take_for_another_is_given(server, key, name):
    server.add_token()
    answer = server.http.post("/v1/enroll", json={"token": TOKEN, "csr": signing_request(key, ""), "name": name})
    assert answer.json()["code"] == "DEVICE_ID"


def test_a_request_whose_own_signature_is_bad_is_refused_and_spends_nothing(server, key):
    server.add_token()
    pem = signing_request(key, "cam-1")
    der = bytearray(x509.load_pem_x509_csr(pem.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    spoilt = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    answer = server.http.post("/v1/enroll", json={"token": TOKEN, "csr": spoilt, "name": "cam-1"})
    assert answer.json()["code"] == "CSR_INVALID"
    assert server.enroll(key).status_code == 200


def test_without_a_token_a_device_waits_for_approval_where_that_is_allowed(server, key):
    assert server.enroll(key, "").json()["code"] == "ENROL_TOKEN"
    server.http = server.app_with(allows_approval=True)
    asked = [server.enroll(key, "", serial="SN-1") for _ in range(2)]
    fingerprint = key_fingerprint(key.public_key())
    assert [one.status_code for one in asked] == [202, 202]
    assert asked[0].json() == {"state": "pending", "fingerprint": fingerprint}
    assert server.enroll(new_key(), "wrong").json()["code"] == "ENROL_TOKEN", "a wrong token waits for nobody"
    with server.db.read() as session:
        (waiting,) = approvals.list_pending(session)
        assert (waiting.name, waiting.serial, waiting.state) == ("cam-1", "SN-1", "pending")
        assert session.get(Device, "cam-1") is None
    told = {"profile": Profile(), "actor": "ada", "now_ms": NOW}
    with server.db.write() as session:
        approvals.decide(session, fingerprint[:12], "approved", device="gate-7", **told)
    with server.db.write() as session:
        assert approvals.decide(session, fingerprint, "approved", **told).device == "gate-7"
        with pytest.raises(Conflict):
            approvals.decide(session, fingerprint, "denied", **told)
        with pytest.raises(NotFound):
            approvals.decide(session, "f" * 7, "denied", **told)
    first = server.enroll(key, "")
    assert (first.status_code, first.json()["device"]) == (200, "gate-7")
    assert server.enroll(key, "").json()["certificate"] == first.json()["certificate"]
    assert server.caller("gate-7", key).call("GET", "/v1/device/desired").status_code == 200
    revoke(server, "gate-7")
    assert server.enroll(key, "").json()["code"] == "DEVICE_REVOKED"


def test_a_denied_key_is_told_so_and_waiting_is_bounded(server, key, monkeypatch):
    server.http = server.app_with(allows_approval=True)
    server.enroll(key, "")
    with server.db.write() as session:
        approvals.decide(
            session, key_fingerprint(key.public_key()), "denied", profile=Profile(), actor="ada", now_ms=NOW
        )
    denied = server.enroll(key, "")
    assert (denied.status_code, denied.json()["code"]) == (403, "ENROL_DENIED")
    monkeypatch.setattr(approvals, "MAX_PENDING", 1)
    assert server.enroll(new_key(), "").status_code == 202
    assert server.enroll(new_key(), "").json()["code"] == "ENROL_CROWDED"
    server.now_ms += approvals.FORGOTTEN_AFTER_MS + 1
    assert server.enroll(new_key(), "").status_code == 202


def test_an_expired_certificate_renews_unless_the_device_is_revoked(server, caller):
    server.now_ms += 400 * 24 * 3_600_000
    late = server.caller("cam-1", caller.key)
    answer = late.call("POST", "/v1/renew", renewal(new_key()))
    made = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
    assert made.not_valid_after_utc.timestamp() * 1000 > server.now_ms
    revoke(server)
    assert late.call("POST", "/v1/renew", renewal(new_key())).json()["code"] == "DEVICE_REVOKED"


def test_renewals_are_idempotent_and_limited(server, caller):
    key = new_key()
    first = caller.call("POST", "/v1/renew", renewal(key)).json()["certificate"]
    assert caller.call("POST", "/v1/renew", renewal(key)).json()["certificate"] == first, "the answer was lost"
    codes = [caller.call("POST", "/v1/renew", renewal(new_key())) for _ in range(certificates.MAX_AN_HOUR)]
    assert codes[-1].status_code == 503
    assert codes[-1].json()["code"] == "CERTIFICATES_TOO_OFTEN"
    server.now_ms += certificates.HOUR_MS
    late = server.caller("cam-1", caller.key)
    assert late.call("POST", "/v1/renew", renewal(new_key())).status_code == 200


def test_revoking_a_device_forbids_every_certificate_it_ever_had(server, caller):
    for _ in range(3):
        assert caller.call("POST", "/v1/renew", renewal(new_key())).status_code == 200
    with server.db.read() as session:
        assert certificates.revoked_serials(session, server.now_ms) == []
    revoke(server)
    with server.db.read() as session:
        serials = certificates.revoked_serials(session, server.now_ms)
        (one,) = certificates.unlisted(session)
    assert len(set(serials)) == 4
    assert (one.device, sorted(one.serials)) == ("cam-1", serials)


def test_a_proof_for_another_method_or_query_is_refused(server, caller):
    proof = caller.proof("GET", "/v1/device/desired")
    assert server.http.post("/v1/device/desired", headers={"Authorization": proof}).status_code == 405
    for method, path in (("POST", "/v1/renew"), ("GET", "/v1/device/desired?x=1")):
        told = server.http.request(method, path, headers={"Authorization": caller.proof("GET", "/v1/renew")})
        assert told.json()["code"] == "PROOF_INVALID", path
    assert server.http.get("/v1/device/desired", headers={"Authorization": proof}).status_code == 200, "still unused"
