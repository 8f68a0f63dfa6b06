"""Enrolment and renewal on disk, with a throwaway CA in place of the server."""

import datetime
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.identity import enroll, load_identity, pinned_context, renew
from agent.runner.credentials import Credentials
from agent.tls import read_pins
from bundles.errors import AskPerson, Refused, TryAgain


class DeviceCa:
    """Answers as the server does; remembers what it was asked."""

    def __init__(self, device="cam-1", life=datetime.timedelta(days=300)):
        self.device, self.life, self.key = device, life, ec.generate_private_key(ec.SECP256R1())
        self.asked, self.lost_answers = [], 0
        self.start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def pem(self, public_key, name):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(public_key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(self.start).not_valid_after(self.start + self.life)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def post(self, path, body):
        request = json.loads(body)
        self.asked.append((path, request))
        if self.lost_answers:
            self.lost_answers -= 1
            raise TryAgain("lost", code="SERVER_UNREACHABLE")
        csr = x509.load_pem_x509_csr(request["csr"].encode())
        assert csr.is_signature_valid
        mqtt = {"host": "127.0.0.1", "port": 8883, "later": 1}
        answer = {"device": self.device, "certificate": self.pem(csr.public_key(), self.device), "mqtt": mqtt}
        return json.dumps({**answer, "poll_s": 5, "director": {}}).encode()

    @property
    def ca_pem(self):
        return self.pem(self.key.public_key(), "ca")


def do_enroll(ca, folder, **changes):
    options = {"url": "https://h:1", "token": "t", "server_ca_pem": ca.ca_pem, "name": "wish"}
    return enroll(folder, ca.post, **{**options, **changes})


def public(identity):
    return identity.key.public_key().public_numbers()


def test_the_servers_name_counts_and_the_key_is_private(tmp_path):
    ca = DeviceCa("cam-7")
    identity = do_enroll(ca, tmp_path / "identity", hardware="cam-a", labels={"site": "x"})
    assert identity.device == "cam-7"
    assert identity.enrolment.mqtt.port == 8883
    assert identity.enrolment.poll_s == 5
    path, request = ca.asked[0]
    assert (path, request["token"], request["hardware"], request["labels"]) == (
        "/v1/enroll",
        "t",
        "cam-a",
        {"site": "x"},
    )
    assert (tmp_path / "identity" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert load_identity(tmp_path / "identity").device == "cam-7"


def test_an_enrolled_folder_is_not_enrolled_again(tmp_path):
    ca = DeviceCa()
    first = do_enroll(ca, tmp_path)
    second = do_enroll(ca, tmp_path, token="another")
    assert public(first) == public(second)
    assert len(ca.asked) == 1


def test_a_lost_answer_is_asked_for_again_with_the_same_key(tmp_path):
    ca = DeviceCa()
    ca.lost_answers = 1
    with pytest.raises(TryAgain):
        do_enroll(ca, tmp_path)
    do_enroll(ca, tmp_path)
    keys = [x509.load_pem_x509_csr(r["csr"].encode()).public_key().public_numbers() for _, r in ca.asked]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("spoil", ["other_key", "other_name", "not_json", "bad_name", "no_certificate"])
def test_an_answer_that_makes_no_sense_leaves_the_device_unenrolled(tmp_path, spoil):
    ca = DeviceCa()

    def post(path, body):
        answer = json.loads(ca.post(path, body))
        if spoil == "other_key":
            answer["certificate"] = ca.pem(ec.generate_private_key(ec.SECP256R1()).public_key(), ca.device)
        elif spoil == "other_name":
            answer["device"] = "cam-9"
        elif spoil == "bad_name":
            csr = x509.load_pem_x509_csr(json.loads(body)["csr"].encode())
            answer = {**answer, "device": "+", "certificate": ca.pem(csr.public_key(), "+")}
        elif spoil == "no_certificate":
            answer["certificate"] = "none"
        return b"<html>" if spoil == "not_json" else json.dumps(answer).encode()

    with pytest.raises(Refused) as caught:
        enroll(tmp_path, post, url="u", token="t", server_ca_pem=ca.ca_pem)
    assert caught.value.code == "ENROL_ANSWER"
    with pytest.raises(AskPerson) as caught:
        load_identity(tmp_path)
    assert caught.value.code == "NOT_ENROLLED"


def test_renewal_is_due_at_two_thirds_and_brings_a_new_key(tmp_path):
    ca = DeviceCa(life=datetime.timedelta(days=300))
    old = do_enroll(ca, tmp_path)
    assert old.renewal_due_ms == int((ca.start + datetime.timedelta(days=200)).timestamp() * 1000)
    ca.start += datetime.timedelta(days=200)
    new = renew(old, ca.post)
    assert public(new) != public(old)
    assert new.renewal_due_ms > old.renewal_due_ms
    assert public(load_identity(tmp_path)) == public(new)
    assert not (tmp_path / "key.next.pem").exists()


def test_a_renewal_whose_answer_was_lost_uses_the_same_new_key_again(tmp_path):
    ca = DeviceCa()
    old = do_enroll(ca, tmp_path)
    ca.lost_answers = 1
    with pytest.raises(TryAgain):
        renew(old, ca.post)
    assert public(load_identity(tmp_path)) == public(old)
    renew(old, ca.post)
    assert ca.asked[-1][1]["csr"]
    assert len({_csr_key(r) for p, r in ca.asked if p == "/v1/renew"}) == 1


def _csr_key(request):
    return x509.load_pem_x509_csr(request["csr"].encode()).public_key().public_numbers()


def test_a_crash_between_the_renames_of_a_renewal_is_finished_at_the_next_start(tmp_path):
    ca = DeviceCa()
    old = do_enroll(ca, tmp_path)
    old_key = (tmp_path / "key.pem").read_bytes()
    new = renew(old, ca.post)
    # As it was before the last rename: the new certificate in place, the new key still waiting.
    (tmp_path / "key.pem").rename(tmp_path / "key.next.pem")
    (tmp_path / "key.pem").write_bytes(old_key)
    assert public(load_identity(tmp_path)) == public(new)
    assert not (tmp_path / "key.next.pem").exists()


def test_files_that_disagree_are_told_to_a_person(tmp_path):
    do_enroll(DeviceCa(), tmp_path / "a")
    do_enroll(DeviceCa(), tmp_path / "b")
    (tmp_path / "a" / "cert.pem").write_bytes((tmp_path / "b" / "cert.pem").read_bytes())
    with pytest.raises(AskPerson):
        load_identity(tmp_path / "a")
    (tmp_path / "a" / "key.pem").write_text("garbage")
    with pytest.raises(AskPerson) as caught:
        load_identity(tmp_path / "a")
    assert caught.value.code == "IDENTITY_DAMAGED"


def test_a_server_ca_that_is_no_certificate_is_refused(tmp_path):
    with pytest.raises(AskPerson) as caught:
        pinned_context("hello")
    assert caught.value.code == "SERVER_CA"


def test_a_device_that_waits_for_approval_says_so_and_asks_again_with_the_same_key(tmp_path):
    ca = DeviceCa()

    def undecided(path, body):
        ca.asked.append((path, json.loads(body)))
        return b'{"state":"pending","fingerprint":"0123456789abcdef0123"}'

    with pytest.raises(TryAgain) as caught:
        enroll(tmp_path, undecided, url="https://h:1", token="", server_ca_pem=ca.ca_pem, serial="SN-1")
    assert caught.value.code == "ENROL_PENDING"
    assert "0123456789abcdef" in caught.value.remedy
    do_enroll(ca, tmp_path, token="")
    assert ca.asked[0][1]["serial"] == "SN-1"
    assert _csr_key(ca.asked[0][1]) == _csr_key(ca.asked[1][1])


def test_signed_pins_replace_those_of_enrolment_on_disk_and_none_keep_them(tmp_path):
    ca, first, spare = DeviceCa(), DeviceCa(), DeviceCa()
    identity = do_enroll(ca, tmp_path)
    signed = []
    credentials = Credentials(identity, lambda: signed)
    assert credentials.pins() == identity.pins()
    signed = [*read_pins(first.ca_pem), *read_pins(spare.ca_pem)]
    assert credentials.pins() == signed
    assert load_identity(tmp_path).pins() == signed, "they outlive a restart"
    assert Credentials(load_identity(tmp_path)).pins() == signed
