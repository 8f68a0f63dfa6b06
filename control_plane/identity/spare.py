"""The server CA's spare: made ahead, kept offline and encrypted, pinned by devices, adopted when the first is lost.

Devices trust every CA of the signed set (``x-server-cas`` in the targets role). So the way of a rotation is: sign a set
that names the spare (the key ceremony does); let devices refresh; adopt the spare here; sign a set without the old one,
with a new spare.

The retired CA's key does not stay readable on the server: it was retired because somebody else may have it, or because
nobody should. It is not thrown away either, because a device that slept since before the spare was signed pins the old
CA alone, and adopting that again is the only way to reach it. So it is kept under the passphrase of the adopted key,
for a person to carry off the server and to destroy once no device pins it; where no passphrase was given it is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, Targets

from bundles.errors import AskPerson, Refused
from bundles.trust.durable import write_durably
from bundles.trust.roles import read_server_cas
from control_plane.identity.authority import self_signed

CURRENT, RETIRED, SPARE = "server-ca", "server-ca-retired", "server-ca-spare"
Retirement = Literal["none", "kept", "removed"]
"""What became of the key before: there was none, it is kept encrypted, it was removed."""


@dataclass(frozen=True)
class SpareCa:
    """Where a spare was written."""

    certificate: Path
    key: Path


def make_spare_ca(folder: Path, passphrase: bytes | None, now_ms: int, name: str = SPARE) -> SpareCa:
    """Make a CA, its key encrypted; an existing one is never replaced.

    Args:
        folder: where ``<name>.pem`` and ``<name>.key`` go; offline, apart from the server.
        passphrase: protects the key; not empty. None leaves it plain (a demo's).
        now_ms: start of its life of ten years.
        name: of the two files.

    Raises:
        AskPerson: ``CA_EXISTS``, or ``KEY_PASSPHRASE`` where it is empty.
    """
    made = SpareCa(folder / f"{name}.pem", folder / f"{name}.key")
    if passphrase == b"":
        raise AskPerson("A spare CA's key needs a passphrase.", code="KEY_PASSPHRASE", remedy="Give one.")
    if made.certificate.exists() or made.key.exists():
        raise AskPerson(
            f"There is a CA called {name!r} in {folder} already.", code="CA_EXISTS", remedy="Use it, or another folder."
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificate, key = self_signed(f"Wavegate server CA {now_ms}", now_ms)
    write_durably(made.key, _key_pem(key, passphrase), mode=0o600)
    write_durably(made.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return made


def adopt_ca(
    keys: Path, certificate: Path, key: Path, passphrase: bytes | None, pinned: Sequence[bytes], now_ms: int
) -> Retirement:
    """Make a CA the server's own; its certificates are issued anew at the next start. The old one is retired.

    A crash in the middle is mended by running it again; until then the server does not start with a pair that does
    not fit (``CA_KEY``).

    Args:
        keys: the server's key folder; the server must not be running.
        certificate: the CA's certificate, PEM.
        key: its key, PEM.
        passphrase: of the key, where it has one; the retired key is kept under it. None or empty = none is known.
        pinned: the signed set of server CAs (DER), as devices hold it.
        now_ms: server clock.

    Returns:
        What became of the key before. Adopting the CA in use again changes nothing.

    Raises:
        Refused: ``CA_NOT_PINNED``: devices would refuse every certificate of it; ``CA_EXPIRED``; ``CA_KEY``.
        AskPerson: ``CA_FILE``: a file cannot be read, or the passphrase is wrong.
    """
    adopted, private = _read(certificate, key, passphrase)
    if adopted.public_key() != private.public_key():
        raise Refused("The key is not that of the certificate.", code="CA_KEY", remedy="Give the pair that was made.")
    begins, ends = adopted.not_valid_before_utc.timestamp(), adopted.not_valid_after_utc.timestamp()
    if not begins <= now_ms / 1000 <= ends:
        raise Refused("The CA is not valid now.", code="CA_EXPIRED", remedy="Make another and sign it into the set.")
    if adopted.public_bytes(serialization.Encoding.DER) not in pinned:
        raise Refused(
            "No signed set names this CA, so every device would refuse this server.",
            code="CA_NOT_PINNED",
            remedy="Sign a set with it first (wavegate trust rotate server-ca), and let devices refresh.",
        )
    encoded = adopted.public_bytes(serialization.Encoding.PEM)
    retired = _retire(keys, encoded, passphrase or None)
    write_durably(keys / f"{CURRENT}.key", _key_pem(private, None), mode=0o600)
    write_durably(keys / f"{CURRENT}.pem", encoded, mode=0o644)
    return retired


def signed_pins(metadata: Path) -> list[bytes]:
    """Return the server CAs (DER) that the newest targets role in a metadata folder signs; empty = none.

    Raises:
        AskPerson: ``TRUST_NOT_INITIALISED``.
    """
    files = sorted(metadata.glob("*.targets.json"), key=lambda path: int(path.name.partition(".")[0]))
    if not files:
        raise AskPerson(
            f"There is no trust metadata in {metadata}.",
            code="TRUST_NOT_INITIALISED",
            remedy="Run the key ceremony first: wavegate trust init --help.",
        )
    return read_server_cas(Metadata[Targets].from_bytes(files[-1].read_bytes()).signed)


def _retire(keys: Path, adopted_pem: bytes, passphrase: bytes | None) -> Retirement:
    """Keep the CA in use aside before it is replaced; see the module for its key."""
    certificate, key = keys / f"{CURRENT}.pem", keys / f"{CURRENT}.key"
    if not certificate.exists() or certificate.read_bytes() == adopted_pem:
        return "none"
    aside = keys / f"{RETIRED}.key"
    found, private = _read(certificate, key, None)
    if found.public_key() == private.public_key():  # else the key was replaced already, before a crash
        write_durably(keys / f"{RETIRED}.pem", certificate.read_bytes(), mode=0o644)
        if passphrase is None:
            aside.unlink(missing_ok=True)
        else:
            write_durably(aside, _key_pem(private, passphrase), mode=0o600)
    return "kept" if aside.exists() else "removed"


def _key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None) -> bytes:
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        protection = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def _read(
    certificate: Path, key: Path, passphrase: bytes | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        data = key.read_bytes()
        # A passphrase for a key that needs none is no mistake: it may be there for what is kept under it.
        private = serialization.load_pem_private_key(data, password=passphrase if b"ENCRYPTED" in data else None)
    except (OSError, ValueError, TypeError) as error:
        raise AskPerson(
            f"The CA cannot be read: {error}.",
            code="CA_FILE",
            remedy="Check the two files and the passphrase.",
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise Refused("The CA's key is no elliptic-curve key.", code="CA_KEY", remedy="Use the spare that was made.")
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    if not constraints.ca:
        raise Refused("The certificate is not a CA's.", code="CA_KEY", remedy="Use the spare that was made.")
    return found, private
