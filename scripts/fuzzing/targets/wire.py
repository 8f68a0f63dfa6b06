"""What travels between a device and the control plane. The first byte of an input says as what the rest is read."""

from __future__ import annotations

import functools
import random
import zlib
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Targets

from bundles.digest import sha256_hex
from bundles.trust.director import sign_desired, verify_desired
from bundles.trust.roles import DIRECTOR, DIRECTOR_PATH
from bundles.wire import codec, topics
from bundles.wire.messages import Signature, SignedDocument
from bundles.wire.proof import read_proof, verify_proof
from fuzzing.mutation import INTERESTING, Literal, Pairs, mutate_bytes, mutate_json, mutate_tree
from fuzzing.target import RELEASED, Target, require, unless_refused

ACK, BATCH, DESIRED, FORGED, PROOF, TOPIC = range(len(topics.UP_KINDS), len(topics.UP_KINDS) + 6)
"""Kinds after the upward messages. ``DESIRED`` is an envelope as received; ``FORGED`` is what a thief of the director's
key might sign."""
_KINDS = TOPIC + 1
_PACKED = (topics.UP_KINDS.index(topics.UP_TELEMETRY), BATCH)
_VERSION = sorted(path.name for path in RELEASED.iterdir() if (path / "proof.txt").exists())[0]
_HONEST = RELEASED / _VERSION


def samples() -> dict[str, bytes]:
    """Return one honest message of each kind."""
    up = {leaf: (_HONEST / "messages" / leaf.replace("/", "-")).read_bytes() for leaf in topics.UP_KINDS}
    found = {leaf: bytes([number]) + up[leaf] for number, leaf in enumerate(topics.UP_KINDS)}
    desired = (_HONEST / "desired.json").read_bytes()
    return {
        **found,
        "ack": bytes([ACK]) + (_HONEST / "messages" / "down-ack").read_bytes(),
        "batch": bytes([BATCH]) + (_HONEST / "messages" / "batch").read_bytes(),
        "desired": bytes([DESIRED]) + desired,
        "forged": bytes([FORGED]) + bytes(codec.decode_signed(desired).signed),
        "proof": bytes([PROOF]) + (_HONEST / "proof.txt").read_bytes().strip(),
        "topic": bytes([TOPIC]) + topics.topic("cam-01", topics.UP_EVENT).encode(),
    }


def try_one(data: bytes) -> None:
    """Read ``data`` as the kind its first byte names."""
    kind, body = (data[0] % _KINDS, data[1:]) if data else (0, b"")
    if kind < len(topics.UP_KINDS):
        _try_up(topics.UP_KINDS[kind], body)
    elif kind == ACK:
        ack = unless_refused(lambda: codec.decode_ack(body))
        require(ack is None or codec.decode_ack(codec.encode(ack)) == ack, "an ack changes")
    elif kind == BATCH:
        batch = unless_refused(lambda: codec.decode_batch(body))
        require(batch is None or codec.decode_batch(codec.encode_batch(batch)) == batch, "a batch changes")
        for envelope in batch or []:
            _try_up(envelope.leaf, envelope.payload)
    elif kind == DESIRED:
        _try_desired(body)
    elif kind == FORGED:
        _try_forged(body)
    elif kind == PROOF:
        _try_proof(body.decode("latin-1"))
    else:
        name = body.decode("utf-8", "replace")
        parts = topics.split_up_topic(name)
        require(parts is None or topics.topic(*parts) == name, f"the topic {name!r}")


def _try_up(leaf: str, body: bytes) -> None:
    message = unless_refused(lambda: codec.decode_up(leaf, body))
    if message is None:
        return
    require(codec.leaf_of(message) == leaf, "a message of another leaf")
    written = codec.encode(message)
    # Compared as bytes: a number that is no number differs from itself.
    require(codec.encode(codec.decode_up(leaf, written)) == written, "a message changes when it is written and read")


def _try_desired(body: bytes) -> None:
    verified = unless_refused(lambda: verify_desired(body, _released_targets()))
    if verified is not None:
        honest = codec.decode_signed((_HONEST / "desired.json").read_bytes())
        require(codec.decode_signed(body).signed == honest.signed, "a document that the director never signed")


def _try_forged(body: bytes) -> None:
    signature = _director().sign(body)
    pair = Signature(signature.keyid, signature.signature)
    document = msgspec.json.encode(SignedDocument(msgspec.Raw(body or b"null"), [pair]))
    verified = unless_refused(lambda: verify_desired(document, _own_targets()))
    if verified is None:
        return
    again = sign_desired(verified[0], _director())
    require(verify_desired(again, _own_targets())[0] == verified[0], "a desired document changes")


def _try_proof(token: str) -> None:
    claims = unless_refused(lambda: read_proof(token))
    request = ("POST", "/v1/device/reports", b"batch")
    good = unless_refused(lambda: verify_proof(token, _device_key(), *request, lambda _: True))
    if good is not None:
        require(token == (_HONEST / "proof.txt").read_text().strip(), "a proof that the device never made")
        require(claims == good, "a proof is read in two ways")


@functools.cache
def _released_targets() -> Targets:
    newest = max((_HONEST / "metadata").glob("*.targets.json"), key=lambda path: int(path.name.partition(".")[0]))
    return Metadata[Targets].from_file(str(newest)).signed


@functools.cache
def _director() -> CryptoSigner:
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(sha256_hex(b"director"))))


@functools.cache
def _own_targets() -> Targets:
    key = _director().public_key
    role = DelegatedRole(DIRECTOR, [key.keyid], 1, terminating=True, paths=[DIRECTOR_PATH])
    return Targets(delegations=Delegations({key.keyid: key}, {DIRECTOR: role}))


@functools.cache
def _device_key() -> ec.EllipticCurvePublicKey:
    key = serialization.load_pem_public_key((_HONEST / "device.pub.pem").read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage the message in the form its kind has; now and then read it as another kind."""
    kind, body = (data[0] % _KINDS, data[1:]) if data else (0, b"")
    if rng.random() < 0.03:
        return bytes([rng.randrange(_KINDS)]) + body
    if kind in _PACKED:
        body = _mutate_packed(body, rng, is_deflated=kind != BATCH)
    elif kind in (PROOF, TOPIC):
        body = mutate_bytes(body, rng)
    else:
        body = mutate_json(body, rng)
    return bytes([kind]) + body


def _mutate_packed(body: bytes, rng: random.Random, *, is_deflated: bool) -> bytes:
    if rng.random() < 0.2:
        return mutate_bytes(body, rng)
    try:
        packed = zlib.decompress(body) if is_deflated else body
        if rng.random() < 0.3:
            packed = mutate_bytes(packed, rng)
        else:
            packed = msgspec.msgpack.encode(_plain(mutate_tree(_tree(msgspec.msgpack.decode(packed)), rng)))
    except (zlib.error, ValueError, OverflowError, TypeError, RecursionError):  # it was damaged before
        return mutate_bytes(body, rng)
    return zlib.compress(packed) if is_deflated else packed


def _tree(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs((key, _tree(part)) for key, part in value.items())
    return [_tree(part) for part in value] if isinstance(value, list) else value


def _plain(tree: Any) -> Any:
    if isinstance(tree, Pairs):
        return {key: _plain(value) for key, value in tree}
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    return _number(tree) if isinstance(tree, Literal) else tree


def _number(text: str) -> Any:
    try:
        return int(text) if text.removeprefix("-").isdigit() and len(text) < 20 else float(text)
    except ValueError:
        return INTERESTING[len(text) % len(INTERESTING)]


TARGET = Target(
    "wire",
    ("bundles.wire.codec", "bundles.wire.proof", "bundles.wire.topics", "bundles.trust.director"),
    samples,
    try_one,
    mutate,
)
