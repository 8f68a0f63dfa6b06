from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from bundles.digest import sha256_hex
from bundles.errors import MessageRefused
from bundles.wire.proof import make_proof, read_proof, verify_proof

KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = ("POST", "/v1/device/reports?x=1", b"body")


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header, claims, key=KEY):
    head = f"{b64(header)}.{b64(claims)}"
    r, s = decode_dss_signature(key.sign(head.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{head}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def check(token, method="POST", path="/v1/device/reports?x=1", body=b"body", key=KEY, fresh=True):
    return verify_proof(token, key.public_key(), method, path, body, lambda nonce: fresh and nonce == "n1")


def refused(code, token, **options):
    with pytest.raises(MessageRefused) as caught:
        check(token, **options)
    assert caught.value.code == code


def test_proof_of_this_request_is_accepted():
    token = make_proof(KEY, "dev-1", *REQUEST, "n1")
    claims = check(token)
    assert (claims.sub, claims.htm, claims.htu) == ("dev-1", "POST", "/v1/device/reports?x=1")
    assert claims.ath == sha256_hex(b"body")
    assert claims == read_proof(token)


def test_it_is_a_compact_jws_of_es256():
    head, claims, signature = make_proof(KEY, "dev-1", *REQUEST, "n1").split(".")
    pad = lambda part: base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))  # noqa: E731
    assert json.loads(pad(head)) == {"alg": "ES256", "typ": "wg-proof+jwt"}
    assert set(json.loads(pad(claims))) == {"sub", "htm", "htu", "ath", "nonce", "jti"}
    assert len(pad(signature)) == 64


def test_two_proofs_of_one_request_differ():
    first, second = (make_proof(KEY, "dev-1", *REQUEST, "n1") for _ in range(2))
    assert read_proof(first).jti != read_proof(second).jti


@pytest.mark.parametrize(
    "change", [{"method": "GET"}, {"path": "/v1/device/reports?x=2"}, {"path": "/v1/renew"}, {"body": b"bodY"}]
)
def test_attack_28_proof_used_for_another_request(change):
    refused("PROOF_MISMATCH", make_proof(KEY, "dev-1", *REQUEST, "n1"), **change)


def test_attack_28_old_nonce():
    refused("PROOF_NONCE", make_proof(KEY, "dev-1", *REQUEST, "n0"))
    refused("PROOF_NONCE", make_proof(KEY, "dev-1", *REQUEST, ""))


def test_attack_28_signed_with_another_key():
    other = ec.generate_private_key(ec.SECP256R1())
    refused("PROOF_SIGNATURE", make_proof(other, "dev-1", *REQUEST, "n1"))


def test_signature_is_judged_before_the_request():
    """Who cannot sign learns nothing about what the server expects."""
    other = ec.generate_private_key(ec.SECP256R1())
    refused("PROOF_SIGNATURE", make_proof(other, "dev-1", "GET", "/", b"", "n0"))


CLAIMS = {"sub": "d", "htm": "POST", "htu": "/", "ath": "", "nonce": "n1", "jti": "1"}
HEADER = {"alg": "ES256", "typ": "wg-proof+jwt"}


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        ({**HEADER, "alg": "none"}, CLAIMS),
        ({**HEADER, "alg": "HS256"}, CLAIMS),
        ({"alg": "ES256"}, CLAIMS),
        ({**HEADER, "jwk": {}}, CLAIMS),
        ({**HEADER, "typ": "JWT"}, CLAIMS),
        (HEADER, {**CLAIMS, "extra": 1}),
        (HEADER, {**CLAIMS, "nonce": 1}),
        (HEADER, {"sub": "d"}),
        (HEADER, []),
    ],
)
def test_token_of_another_kind_is_refused_though_signed(header, claims):
    refused("PROOF_INVALID", signed(json.dumps(header).encode(), json.dumps(claims).encode()))


def test_one_spelling_only():
    token = make_proof(KEY, "dev-1", *REQUEST, "n1")
    for other in (token + "=", token + ".", f" {token}", token.replace(".", "..", 1), token[:-1], token + "A" * 5000):
        refused("PROOF_INVALID", other)


def test_zero_and_overlarge_scalars_are_refused():
    head, claims, _ = make_proof(KEY, "dev-1", *REQUEST, "n1").split(".")
    for signature in (bytes(64), b"\xff" * 64):
        refused("PROOF_SIGNATURE", f"{head}.{claims}.{b64(signature)}")


@given(st.text(max_size=200) | st.binary(max_size=100).map(b64))
def test_any_text_is_read_or_refused_in_the_family(text):
    with pytest.raises(MessageRefused):
        check(text)


@given(st.integers(0, 10_000), st.integers(1, 127))
def test_no_changed_character_is_accepted(place, change):
    token = make_proof(KEY, "dev-1", *REQUEST, "n1")
    place %= len(token)
    changed = token[:place] + chr((ord(token[place]) + change) % 128) + token[place + 1 :]
    with pytest.raises(MessageRefused):
        check(changed)
