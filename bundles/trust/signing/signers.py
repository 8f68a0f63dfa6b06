"""Keys in files, and the way to every other kind of key.

A file key is PEM PKCS#8, ECDSA P-256 or Ed25519 (an Ed25519-only rule would shut out most hardware modules), mode
0600, encrypted where a passphrase is given; beside it stands ``<name>.pub``, the public half as TUF writes it. Keys
elsewhere (``hsm:``, ``awskms:``, ``gcpkms:``, ``azurekms:``, ``hv:``) are opened by ``remote_signers``. Where a
passphrase or a PIN comes from is the caller's business.
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
from bundles.trust.signing.remote_signers import NEEDS, Pin, import_key, is_remote, load_remote_signer, no_pin

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
        raise _key_exists(path) from error
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(pem)
        stream.flush()
        os.fsync(stream.fileno())
    signer = CryptoSigner(private)
    path.with_suffix(".pub").write_bytes(encode_public(signer.public_key))
    return signer


def check_no_key(path: Path) -> None:
    """Check that a key pair can be made at ``path``.

    Raises:
        AskPerson: ``KEY_EXISTS``: a file is there, or where its public half goes.
    """
    for place in (path, path.with_suffix(".pub")):
        if place.exists():
            raise _key_exists(place)


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
            remedy="Set WAVEGATE_KEY_PASSPHRASE or use --passphrase-file; on a terminal it is asked for.",
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


def open_signer(
    place: str | Path, *, public: Key | None = None, passphrase: Passphrase = no_passphrase, pin: Pin = no_pin
) -> Signer:
    """Return the signer at ``place``, wherever its private key is.

    Args:
        place: a key file (a path, ``file:PATH`` or ``file2:PATH``), or the URI of a key elsewhere.
        public: the public half of a key elsewhere; where it is not given, the hardware or service is asked for it.
        passphrase: answers for an encrypted file's.
        pin: answers for a token's.

    Raises:
        AskPerson: ``KEY_MISSING``, ``KEY_PASSPHRASE``, ``KEY_PIN``, ``KEY_UNSUPPORTED`` or ``KEY_UNUSABLE``; also
            where the file's key is not ``public``.
    """
    uri = str(place)
    if is_remote(uri):
        whole, key = (uri, public) if public is not None else import_key(uri, pin)
        return load_remote_signer(whole, key, pin)
    scheme, colon, rest = uri.partition(":")
    if colon and scheme not in ("file", "file2") and not Path(uri).exists():
        raise AskPerson(
            f"No key has a URI that begins with {scheme}:.",
            code="KEY_UNSUPPORTED",
            remedy=f"Give a key file, or a URI that begins with one of {', '.join(f'{name}:' for name in NEEDS)}.",
        )
    signer = load_signer(Path(rest if colon and scheme in ("file", "file2") else uri), passphrase)
    if public is not None and public.keyid != signer.public_key.keyid:
        raise AskPerson(
            f"The key {uri} is not the private half of the public key given.",
            code="KEY_UNSUPPORTED",
            remedy="Check which .pub file belongs to it.",
        )
    return signer


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


def _key_exists(path: Path) -> AskPerson:
    return AskPerson(
        f"There is a key at {path} already.",
        code="KEY_EXISTS",
        remedy="Choose another name, or move the old key away if nothing it signed is in use.",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AskPerson(
            f"The key file {path} cannot be read: {error.strerror}.",
            code="KEY_MISSING",
            remedy="Check the path and its permissions, or make a key with `wavegate trust key new`.",
        ) from error
