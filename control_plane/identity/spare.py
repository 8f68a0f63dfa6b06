"""The server CA's spare: made ahead, kept offline and encrypted, pinned by devices, adopted when the first is lost.

Devices trust every CA of the signed set (``x-server-cas`` in the targets role). So the way of a rotation is: sign a set
that names the spare; let devices refresh; adopt the spare here; sign a set without the old one, with a new spare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, Targets

from bundles.errors import AskPerson, Refused
from bundles.trust.durable import write_durably
from bundles.trust.roles import read_server_cas
from control_plane.identity.authority import self_signed

CURRENT, RETIRED = "server-ca", "server-ca-retired"


@dataclass(frozen=True)
class SpareCa:
    """Where a spare was written."""

    certificate: Path
    key: Path


def make_spare_ca(folder: Path, passphrase: bytes, now_ms: int, name: str = "server-ca-spare") -> SpareCa:
    """Make a CA whose key exists encrypted only; an existing one is never replaced.

    Args:
        folder: where ``<name>.pem`` and ``<name>.key`` go; offline, apart from the server.
        passphrase: protects the key; not empty.
        now_ms: start of its life of ten years.
        name: of the two files.

    Raises:
        AskPerson: ``CA_EXISTS``, or ``KEY_PASSPHRASE`` where it is empty.
    """
    made = SpareCa(folder / f"{name}.pem", folder / f"{name}.key")
    if not passphrase:
        raise AskPerson("A spare CA's key needs a passphrase.", code="KEY_PASSPHRASE", remedy="Give one.")
    if made.certificate.exists() or made.key.exists():
        raise AskPerson(
            f"There is a CA called {name!r} in {folder} already.", code="CA_EXISTS", remedy="Use it, or another folder."
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificate, key = self_signed(f"Wavegate server CA {now_ms}", now_ms)
    protection = serialization.BestAvailableEncryption(passphrase)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    write_durably(made.key, pem, mode=0o600)
    write_durably(made.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return made


def adopt_ca(
    keys: Path, certificate: Path, key: Path, passphrase: bytes | None, pinned: Sequence[bytes], now_ms: int
) -> None:
    """Make a CA the server's own; its certificates are issued anew at the next start. The old one is kept aside.

    A crash in the middle is mended by running it again; until then the server does not start with a pair that does
    not fit (``CA_KEY``).

    Args:
        keys: the server's key folder; the server must not be running.
        certificate: the CA's certificate, PEM.
        key: its key, PEM.
        passphrase: of the key, None where it has none.
        pinned: the signed set of server CAs (DER), as devices hold it.
        now_ms: server clock.

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
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    encoded = adopted.public_bytes(serialization.Encoding.PEM)
    current = keys / f"{CURRENT}.pem"
    if current.exists() and current.read_bytes() != encoded:
        for suffix, mode in ((".pem", 0o644), (".key", 0o600)):
            old = keys / f"{CURRENT}{suffix}"
            write_durably(keys / f"{RETIRED}{suffix}", old.read_bytes(), mode=mode)
    write_durably(keys / f"{CURRENT}.key", pem, mode=0o600)
    write_durably(current, encoded, mode=0o644)


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


def _read(
    certificate: Path, key: Path, passphrase: bytes | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=passphrase)
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
