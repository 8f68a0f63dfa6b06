"""Attack 23: getting a certificate that nobody meant to give, at the real door over TLS."""

import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlmodel import select

from agent.identity import signing_request
from control_plane.db.tables import Device
from control_plane.identity.authority import Authority, public_key_pem
from control_plane.services import enrolment

VICTIM, THIEF = "dev-1", "dev-2"
PEM = serialization.Encoding.PEM
RACERS = 6


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def outcome(answer):
    """Return the refusal's code, or whose name the certificate bears."""
    if answer.status_code != 200:
        return answer.json()["code"]
    return name_of(answer)


def name_of(answer):
    certificate = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
    return certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def use_a_token_again(site):
    """A token for one device was used by it; somebody finds it later, and comes with a key of his own."""
    token = site.token()
    assert outcome(site.enrol(new_key(), "dev-3", token)) == "dev-3"
    return outcome(site.enrol(new_key(), "dev-4", token))


def ask_for_a_taken_name(site):
    """A good token, and the victim's name for another key."""
    return outcome(site.enrol(new_key(), VICTIM, site.token()))


def ask_for_a_key_that_is_not_ours(site):
    """A request with somebody else's public key; its signature is by a key of ours."""
    theirs, ours = new_key(), new_key()
    good = x509.load_pem_x509_csr(signing_request(ours, "dev-3").encode()).public_bytes(serialization.Encoding.DER)
    kind = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    bad = good.replace(ours.public_key().public_bytes(*kind), theirs.public_key().public_bytes(*kind))
    assert bad != good
    csr = x509.load_der_x509_csr(bad).public_bytes(PEM).decode()
    return outcome(site.enrol(None, "dev-3", site.token(), csr))


def race_for_one_token(site):
    """Many keys at once, each over a connection of its own; return how many got a certificate."""
    token, answers, ready = site.token(), [], threading.Barrier(RACERS)

    def run(number):
        with site.new_client() as http:
            http.get("/v1/time")  # the connection stands before the race begins
            body = {"token": token, "csr": signing_request(new_key(), ""), "name": f"racer-{number}"}
            ready.wait(20)
            answers.append(http.post("/v1/enroll", json=body))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == RACERS
    assert {answer.json().get("code", "") for answer in answers} <= {"", "ENROL_TOKEN"}
    with site.db.read() as session:
        made = [name for name in session.exec(select(Device.id)) if name.startswith("racer-")]
    assert len(made) == sum(answer.status_code == 200 for answer in answers)
    return len(made)


def spoofing_request(key):
    """A request that asks for the victim's name, to be a CA, and for a server's names."""
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, VICTIM)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(names)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return builder.sign(key, hashes.SHA256())


def spoof_the_certificate(site):
    """Return what of the request's wishes the certificate grants: the name, being a CA, alternative names."""
    key = new_key()
    csr = spoofing_request(key).public_bytes(PEM).decode()
    answer = site.enrol(key, "dev-3", site.token(), csr)
    assert answer.status_code == 200, answer.text
    made = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
    granted = {"name"} if name_of(answer) == VICTIM else set()
    if made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        granted.add("ca")
    if any(one.oid == x509.SubjectAlternativeName.oid for one in made.extensions):
        granted.add("names")
    return granted


def spoof_and_listen(site):
    """Come to the broker with the certificate; return whether what is told to the victim comes to us."""
    key = new_key()
    csr = spoofing_request(key).public_bytes(PEM).decode()
    answer = site.enrol(key, "dev-3", site.token(), csr)
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    thing = site.thing(answer.json()["certificate"].encode() + private, client_id=VICTIM)
    assert thing.connect(f"wg/1/d/{VICTIM}/down/#")
    site.tell(VICTIM, "down/ack", b'{"boot_epoch":"eeeeeeeeeeeeeeee","upto_seq":1}')
    site.tell("dev-3", "down/ack", b"an end")
    own = site.thing()
    assert own.connect(f"wg/1/d/{THIEF}/down/#")
    site.drained(own)
    site.until(lambda: name_of(answer) != VICTIM or not thing.arrived.empty())
    return thing.arrived.empty()


ATTACKS = {
    "a token again with another key": (use_a_token_again, "ENROL_TOKEN", "dev-4"),
    "a taken name with another key": (ask_for_a_taken_name, "ENROL_NAME_TAKEN", VICTIM),
    "a request signed by another key": (ask_for_a_key_that_is_not_ours, "CSR_INVALID", "dev-3"),
    "a parallel race": (race_for_one_token, 1, RACERS),
    "name, CA and alternative names in the request": (spoof_the_certificate, set(), {"name", "ca", "names"}),
}


def last_one_wins(session, *, key_pem, device, **more):
    """What ``make_device`` would do without its look at who has the name."""
    row = session.get(Device, device)
    if row is None:
        return MAKE_DEVICE(session, key_pem=key_pem, device=device, **more)
    row.public_key_pem = key_pem
    return row


def any_request(pem):
    return x509.load_pem_x509_csr(pem).public_key()


def as_asked(self, device, public_key, now_ms):
    """Issue what the request asks for, as a naive CA does."""
    issued = ISSUE_DEVICE(self, device, public_key, now_ms)
    request = REQUESTS.get(public_key_pem(public_key))
    if request is None:
        return issued
    made = x509.load_pem_x509_certificate(issued.certificate_pem)
    builder = x509.CertificateBuilder(
        made.issuer, request.subject, made.public_key(), made.serial_number,
        made.not_valid_before_utc, made.not_valid_after_utc,
    )  # fmt: skip
    for extension in request.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    pem = builder.sign(self._key, hashes.SHA256()).public_bytes(PEM)
    return type(issued)(pem, None, issued.serial, issued.expires_ms)


def remembers_the_request(pem):
    key = READ_REQUEST(pem)
    REQUESTS[public_key_pem(key)] = x509.load_pem_x509_csr(pem)
    return key


MAKE_DEVICE, READ_REQUEST, ISSUE_DEVICE = enrolment.make_device, enrolment.read_request, Authority.issue_device
REQUESTS: dict[str, x509.CertificateSigningRequest] = {}
AS_ASKED = {
    "control_plane.services.enrolment.read_request": remembers_the_request,
    "control_plane.identity.authority.Authority.issue_device": as_asked,
}
UNCOUNTED = {"control_plane.services.enrolment._is_used_up": lambda row: False}
DISABLED = {
    "a token again with another key": UNCOUNTED,
    "a taken name with another key": {"control_plane.services.enrolment.make_device": last_one_wins},
    "a request signed by another key": {"control_plane.services.enrolment.read_request": any_request},
    "a parallel race": UNCOUNTED,
    "name, CA and alternative names in the request": AS_ASKED,
}


@pytest.mark.parametrize("words", ATTACKS)
def test_attack_23_enrolment(attack, words):
    script, refused, _ = ATTACKS[words]
    attack(script, refused, has_broker=False)


@pytest.mark.parametrize("words", ATTACKS)
def test_attack_23_has_teeth(with_teeth, words):
    script, _, succeeded = ATTACKS[words]
    with_teeth(script, succeeded, DISABLED[words], has_broker=False)


def test_attack_23_spoofed_name_at_the_broker(attack):
    attack(spoof_and_listen, True)


def test_attack_23_spoofed_name_at_the_broker_has_teeth(with_teeth):
    with_teeth(spoof_and_listen, False, AS_ASKED)
