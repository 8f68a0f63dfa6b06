"""Keys in files, and the way to every other kind of key.

A file key is PEM PKCS#8, ECDSA P-256 or Ed25519 (an Ed25519-only rule would shut out most hardware modules), mode
0600, encrypted where a passphrase is given; beside it stands ``<name>.pub``, the public half as TUF writes it. Keys
elsewhere (``hsm:``, ``awskms:``, ``gcpkms:``, ``azurekms:``, ``hv:``) are loaded by ``securesystemslib`` from a URI.
Where a passphrase comes from is the caller's business.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from bundles.digest import canonical_json
from bundles.errors import AskPerson

Scheme = Literal["ed25519", "ecdsa"]
Passphrase = Callable[[Path], bytes | None]
"""Asked for the passphrase of an encrypted key file; None = there is none to be had."""


def no_passphrase(_: Path) -> bytes | None:
    """Answer as somebody who knows no passphrase."""
    return None


def new_key(path: Path, *, scheme: Scheme = "ed25519", passphrase: bytes | None = None) -> CryptoSigner:
    """Make a key pair: ``path`` (private, 0600) and ``path`` with the suffix ``.pub`` (public).

    Args:
        path: where; its folder must exist.
        scheme: ``ed25519`` or ``ecdsa`` (P-256).
        passphrase: encrypts the file; None leaves it plain, which only keys of a running server should be.

    Raises:
        AskPerson: ``KEY_EXISTS``: a key is never overwritten.
        OSError: the file cannot be written.
    """
    private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
    private = ec.generate_private_key(ec.SECP256R1()) if scheme == "ecdsa" else ed25519.Ed25519PrivateKey.generate()
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        protection = serialization.BestAvailableEncryption(passphrase)
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise AskPerson(
            f"There is a key at {path} already.",
            code="KEY_EXISTS",
            remedy="Choose another name, or move the old key away if nothing it signed is in use.",
        ) from error
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(pem)
        stream.flush()
        os.fsync(stream.fileno())
    signer = CryptoSigner(private)
    path.with_suffix(".pub").write_bytes(encode_public(signer.public_key))
    return signer


def load_signer(path: Path, passphrase: Passphrase = no_passphrase) -> CryptoSigner:
    """Load a private key file.

    Raises:
        AskPerson: ``KEY_MISSING``, ``KEY_PASSPHRASE`` or ``KEY_UNSUPPORTED``.
    """
    pem = _read(path)
    secret = passphrase(path) if b"ENCRYPTED" in pem else None
    if b"ENCRYPTED" in pem and secret is None:
        raise AskPerson(
            f"The key {path} is protected by a passphrase, and none was given.",
            code="KEY_PASSPHRASE",
            remedy="Set WAVEGATE_KEY_PASSPHRASE or use --passphrase-file.",
        )
    try:
        private = serialization.load_pem_private_key(pem, secret)
    except (ValueError, TypeError) as error:
        raise AskPerson(
            f"The key {path} cannot be opened: {error}.",
            code="KEY_PASSPHRASE" if secret is not None else "KEY_UNSUPPORTED",
            remedy="Check the passphrase and that the file is a PEM PKCS#8 private key.",
        ) from error
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1):
        return CryptoSigner(private)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return CryptoSigner(private)
    raise AskPerson(
        f"The key {path} is neither ECDSA P-256 nor Ed25519.",
        code="KEY_UNSUPPORTED",
        remedy="Make one with `wavegate trust key new`.",
    )


def load_remote_signer(uri: str, public: Key) -> Signer:
    """Load a signer for a key that is not in a file of ours, by its ``securesystemslib`` URI.

    Args:
        uri: such as ``hsm:2?...`` or ``awskms:alias/team``.
        public: the public half, from a ``.pub`` file or the delegating role.

    Raises:
        AskPerson: ``KEY_UNSUPPORTED``.
    """
    try:
        return Signer.from_priv_key_uri(uri, public)
    except Exception as error:  # every signer behind a URI has its own family of errors
        raise AskPerson(
            f"The signer {uri.partition(':')[0]!r} cannot be used: {error}.",
            code="KEY_UNSUPPORTED",
            remedy="Install what this kind of key needs and check the URI.",
        ) from error


def encode_public(key: Key) -> bytes:
    """Return the content of a ``.pub`` file."""
    return canonical_json({"keyid": key.keyid, **key.to_dict()}) + b"\n"


def load_public(path: Path) -> Key:
    """Load a ``.pub`` file. A private key's path is answered with the ``.pub`` file beside it.

    Raises:
        AskPerson: ``KEY_MISSING`` or ``KEY_UNSUPPORTED``.
    """
    source = path.with_suffix(".pub")
    try:
        fields = msgspec.json.decode(_read(source), type=dict[str, object])
        return SSlibKey.from_dict(str(fields.pop("keyid")), fields)
    except (msgspec.DecodeError, KeyError, ValueError, TypeError) as error:
        raise AskPerson(
            f"The file {source} is not a public key: {error}.",
            code="KEY_UNSUPPORTED",
            remedy="Give the .pub file that `wavegate trust key new` wrote.",
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AskPerson(
            f"The key file {path} cannot be read: {error.strerror}.",
            code="KEY_MISSING",
            remedy="Check the path and its permissions, or make a key with `wavegate trust key new`.",
        ) from error
