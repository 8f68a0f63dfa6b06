"""Proof that a request comes from a device: a compact JWS (ES256) over method, path, body and a server's nonce.

In the manner of DPoP (RFC 9449), with the key known beforehand instead of carried along. The token is
``base64url(header).base64url(claims).base64url(r || s)`` without padding (RFC 7515, RFC 7518 section 3.4). Reading is
strict: one algorithm, exact fields, bounded length, so nothing about a token is negotiable. Whether a ``jti`` was
used before is the server's database's part.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Callable

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from bundles.digest import sha256_hex
from bundles.errors import MessageRefused

TYPE = "wg-proof+jwt"
ALGORITHM = "ES256"
MAX_TOKEN_CHARS = 4096
_PART = re.compile(r"[A-Za-z0-9_-]+\Z")
_SCALAR_BYTES = 32


class ProofClaims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a proof says.

    Attributes:
        sub: device id.
        htm: HTTP method, upper case.
        htu: path with its query, as sent.
        ath: sha256 of the body in hex (of nothing, where there is no body).
        nonce: the server's nonce that the proof was made with.
        jti: unique among the proofs of one nonce: 128 random bits in hex.
    """

    sub: str
    htm: str
    htu: str
    ath: str
    nonce: str
    jti: str


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    typ: str


def make_proof(key: EllipticCurvePrivateKey, device: str, method: str, path: str, body: bytes, nonce: str) -> str:
    """Return a proof for one request; it is good for exactly that request, once.

    Args:
        key: the device's P-256 key.
        device: its id.
        method: HTTP method.
        path: path with its query, exactly as sent.
        body: the body, exactly as sent.
        nonce: the newest ``WG-Nonce`` of the server; empty before the first answer.
    """
    claims = ProofClaims(device, method.upper(), path, sha256_hex(body), nonce, secrets.token_hex(16))
    head = _encode(msgspec.json.encode(_Header(ALGORITHM, TYPE)))
    signing_input = f"{head}.{_encode(msgspec.json.encode(claims))}"
    r, s = decode_dss_signature(key.sign(signing_input.encode(), ECDSA(hashes.SHA256())))
    return f"{signing_input}.{_encode(r.to_bytes(_SCALAR_BYTES) + s.to_bytes(_SCALAR_BYTES))}"


def read_proof(token: str) -> ProofClaims:
    """Read what a proof claims, to find the key it should be checked with. Nothing is verified.

    Raises:
        MessageRefused: ``PROOF_INVALID``.
    """
    return _split(token)[0]


def verify_proof(
    token: str,
    key: EllipticCurvePublicKey,
    method: str,
    path: str,
    body: bytes,
    nonce_ok: Callable[[str], bool],
) -> ProofClaims:
    """Verify that ``token`` proves this very request under ``key``.

    Args:
        token: the proof.
        key: the public key of the device that it claims to be from.
        method: HTTP method received.
        path: path with its query, as received.
        body: body received.
        nonce_ok: whether the server gave this nonce out lately.

    Returns:
        The claims; the caller still has to refuse a ``jti`` that it has seen.

    Raises:
        MessageRefused: ``PROOF_INVALID`` (not readable), ``PROOF_SIGNATURE``, ``PROOF_MISMATCH`` (another request),
            or ``PROOF_NONCE`` (ask again with the nonce of this answer); in this order.
    """
    claims, signing_input, signature = _split(token)
    r = int.from_bytes(signature[:_SCALAR_BYTES])
    s = int.from_bytes(signature[_SCALAR_BYTES:])
    try:
        key.verify(encode_dss_signature(r, s), signing_input, ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise _refusal("PROOF_SIGNATURE", "The request's proof is not signed by the device's key.") from error
    if (claims.htm, claims.htu, claims.ath) != (method.upper(), path, sha256_hex(body)):
        raise _refusal("PROOF_MISMATCH", "The request's proof was made for another request.")
    if not nonce_ok(claims.nonce):
        raise _refusal("PROOF_NONCE", "The request's proof was made with an old nonce.")
    return claims


def _split(token: str) -> tuple[ProofClaims, bytes, bytes]:
    parts = token.split(".") if len(token) <= MAX_TOKEN_CHARS else []
    if len(parts) != 3:
        raise _refusal("PROOF_INVALID", "The request's proof is not a compact JWS.")
    try:
        head, claims, signature = (_decode(part) for part in parts)
        header = msgspec.json.decode(head, type=_Header)
        read = msgspec.json.decode(claims, type=ProofClaims)
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError) as error:
        raise _refusal("PROOF_INVALID", f"The request's proof cannot be read: {error}.") from error
    if header != _Header(ALGORITHM, TYPE) or len(signature) != 2 * _SCALAR_BYTES:
        raise _refusal("PROOF_INVALID", "The request's proof is of another kind.")
    return read, f"{parts[0]}.{parts[1]}".encode(), signature


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(part: str) -> bytes:
    # Only the one spelling of the bytes is taken: no padding, no white space, no stray bits at the end.
    if not _PART.match(part):
        raise ValueError("it holds characters that base64url does not have")
    data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if _encode(data) != part:
        raise ValueError("it is not spelled as base64url")
    return data


def _refusal(code: str, sentence: str) -> MessageRefused:
    return MessageRefused(sentence, code=code, remedy="Ask again with a fresh proof; check the device's key.")
