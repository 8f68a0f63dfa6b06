"""Attack 28: what a device signed is sent again, altered, elsewhere, or late, over a real TLS connection.

The attacker reads and writes what passes between the victim and the server (a proxy that ends TLS), and does not have
the victim's key.
"""

import secrets
import types

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity import load_identity, signing_request
from bundles.wire import codec, topics
from bundles.wire.messages import Event, UpEnvelope
from bundles.wire.proof import read_proof, verify_proof
from control_plane.identity.nonce import LIFE_MS

VICTIM, THIEF = "dev-1", "dev-2"
DESIRED, REPORTS, RENEW = "/v1/device/desired", "/v1/device/reports", "/v1/renew"
VERIFY = "control_plane.api.device.verify_proof"


def victims(site):
    """The victim as a caller: what it signs is what the attacker has caught."""
    identity = load_identity(site.victim.folder / "identity")
    return type(site.thief)(site.http, VICTIM, identity.key)


def answer_of(answer):
    """Return the refusal's code, or ``accepted``."""
    return "accepted" if answer.status_code == 200 else answer.json().get("code", str(answer.status_code))


def send_again(site):
    """The same request a second time."""
    headers = victims(site).proof("GET", DESIRED)
    assert site.http.get(DESIRED, headers=headers).status_code == 200
    return answer_of(site.http.get(DESIRED, headers=headers))


def send_again_after_it_was_forgotten(site):
    """The same request when the server has cleared away the proof it once saw."""
    headers = victims(site).proof("GET", DESIRED)
    assert site.http.get(DESIRED, headers=headers).status_code == 200
    site.clock.shift_ms += 2 * LIFE_MS
    site.server._workers["upkeep"].wake()
    site.until(lambda: not site.used_proofs())
    return answer_of(site.http.get(DESIRED, headers=headers))


def put_our_key_into_a_renewal(site):
    """The victim renews; the attacker passes its proof on with a request for a key of his own."""
    headers = victims(site).proof("POST", RENEW, RENEWAL)
    ours = msgspec.json.encode({"csr": signing_request(ec.generate_private_key(ec.SECP256R1()), VICTIM)})
    answer = site.http.post(RENEW, content=ours, headers=headers)
    if answer.status_code == 200:
        made = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
        return made.subject.rfc4514_string()
    return answer_of(answer)


def alter_a_report(site):
    """The victim reports nothing; the attacker passes its proof on with an event of his own."""
    headers = victims(site).proof("POST", REPORTS, codec.encode_batch([]))
    event = Event(VICTIM, "f" * 16, 1, "1", site.clock.now_ms(), "phase", code="FORGED")
    forged = codec.encode_batch([UpEnvelope(topics.UP_EVENT, codec.encode(event))])
    answer = site.http.post(REPORTS, content=forged, headers=headers)
    return answer_of(answer), "FORGED" in site.events(VICTIM)


def send_to_another_path(site):
    """A caught poll, turned into a request for the model's bytes."""
    headers = victims(site).proof("GET", DESIRED)
    answer = site.http.get(f"/v1/blobs/sha256/{site.wanted['1.0.0'].sha256}", headers=headers)
    return answer_of(answer), len(answer.content) == site.wanted["1.0.0"].length


def send_with_another_query(site):
    headers = victims(site).proof("GET", DESIRED)
    return answer_of(site.http.get(f"{DESIRED}?model=another", headers=headers))


def send_with_another_method(site):
    """No signed path answers two methods: the proof is of a POST to a path that is read with GET."""
    headers = victims(site).proof("POST", DESIRED)
    return answer_of(site.http.get(DESIRED, headers=headers))


def send_late(site):
    """A request that the attacker held back, unused, until its nonce was old."""
    headers = victims(site).proof("GET", DESIRED)
    site.clock.shift_ms += LIFE_MS
    return answer_of(site.http.get(DESIRED, headers=headers))


def sign_with_our_own_key(site):
    """The attacker's own device speaks in the victim's name."""
    return answer_of(site.http.get(DESIRED, headers=site.thief.proof("GET", DESIRED, sub=VICTIM)))


def with_parts(**taken_away):
    """``verify_proof`` that takes the named parts from the proof itself, so that they cannot differ."""

    def verify(token, key, method, path, body, nonce_ok):
        claims = read_proof(token)
        given = {
            "key": key, "method": method, "path": path, "body": body, "nonce_ok": nonce_ok,
            **{name: value(claims) for name, value in taken_away.items()},
        }  # fmt: skip
        return verify_proof(token, **given)

    return {VERIFY: verify}


def never_seen_before(token):
    """``read_proof`` whose every proof is a new one to the table of used ones."""
    return msgspec.structs.replace(read_proof(token), jti=secrets.token_hex(16))


RENEWAL = msgspec.json.encode({"csr": signing_request(ec.generate_private_key(ec.SECP256R1()), VICTIM)})
FRESH = {"control_plane.identity.nonce.Nonces.is_fresh": lambda self, nonce, now_ms: True}
ANY_SIGNATURE = types.SimpleNamespace(verify=lambda *_: None)
ATTACKS = {
    "sent again": (
        send_again, "PROOF_REPLAYED", "accepted", {"control_plane.api.device.read_proof": never_seen_before},
    ),
    "sent again when forgotten": (send_again_after_it_was_forgotten, "NONCE_OLD", "accepted", FRESH),
    "a key put into a renewal": (
        put_our_key_into_a_renewal, "PROOF_INVALID", f"CN={VICTIM}", with_parts(body=lambda _: RENEWAL),
    ),
    "an altered report": (
        alter_a_report, ("PROOF_INVALID", False), ("accepted", True),
        with_parts(body=lambda _: codec.encode_batch([])),
    ),
    "another path": (
        send_to_another_path, ("PROOF_INVALID", False), ("accepted", True), with_parts(path=lambda claims: claims.htu),
    ),
    "another query": (
        send_with_another_query, "PROOF_INVALID", "accepted", with_parts(path=lambda claims: claims.htu),
    ),
    "another method": (
        send_with_another_method, "PROOF_INVALID", "accepted", with_parts(method=lambda claims: claims.htm),
    ),
    "an old nonce": (send_late, "NONCE_OLD", "accepted", FRESH),
    "another key": (sign_with_our_own_key, "PROOF_INVALID", "accepted", with_parts(key=lambda _: ANY_SIGNATURE)),
}  # fmt: skip


@pytest.mark.parametrize("words", ATTACKS)
def test_attack_28_signed_requests(attack, words):
    script, refused, *_ = ATTACKS[words]
    attack(script, refused, has_broker=False)


@pytest.mark.parametrize("words", ATTACKS)
def test_attack_28_has_teeth(with_teeth, words):
    script, _, succeeded, disabled = ATTACKS[words]
    with_teeth(script, succeeded, disabled, has_broker=False)
