"""The server's two certificate authorities: the *server CA*, which devices pin, and the online *device CA*.

The device CA grants logins and nothing else: it has no power over bundles. Of a certificate request only the public
key is used; names and extensions come from here, so that nobody can ask for another device's name, a name of the
control plane (those hold a dot, which a device id cannot), or a CA certificate.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bundles.digest import sha256_hex
from bundles.errors import Refused
from bundles.wire.topics import is_device_id

CA_LIFE = dt.timedelta(days=3650)
SERVER_LIFE = dt.timedelta(days=397)
DEVICE_LIFE = dt.timedelta(days=365)
CRL_LIFE = dt.timedelta(days=30)
EVICTION_LIFE = dt.timedelta(minutes=5)
BACKDATE = dt.timedelta(hours=1)
"""Certificates begin an hour ago: devices' clocks are seldom exact."""

PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate and, where this side made it, its key; both PEM."""

    certificate_pem: bytes
    key_pem: bytes | None
    serial: str
    expires_ms: int

    @property
    def pair_pem(self) -> bytes:
        """Certificate and key in one piece, for what takes both from one file."""
        return self.certificate_pem + (self.key_pem or b"")


class Authority:
    """One certificate authority kept in two files, ``<name>.pem`` and ``<name>.key`` (0600)."""

    def __init__(self, certificate: x509.Certificate, key: PrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def open_or_create(cls, folder: Path, name: str, now_ms: int) -> Authority:
        """Load the authority ``name`` from ``folder``, or make one there the first time.

        Raises:
            OSError: the folder cannot be read or written.
        """
        certificate_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
        if not key_path.exists() or not certificate_path.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            certificate, key = self_signed(f"Wavegate {name}", now_ms)
            write_private(key_path, _key_pem(key))
            certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_object = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        if not isinstance(key_object, ec.EllipticCurvePrivateKey):
            raise Refused(f"{key_path.name} is not an elliptic-curve key.", code="CA_KEY", remedy="Restore it.")
        found = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        if found.public_key() != key_object.public_key():
            raise Refused(
                f"{key_path.name} is not the key of {certificate_path.name}.",
                code="CA_KEY",
                remedy="Restore the pair; where `wavegate server adopt-ca` was cut off, run it again.",
            )
        return cls(found, key_object)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue_server(self, name: str, hosts: Iterable[str], now_ms: int) -> Issued:
        """Issue a server certificate for ``hosts`` (DNS names and IP addresses), with a new key."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        certificate = self._sign(
            name, key.public_key(), now_ms, SERVER_LIFE, ExtendedKeyUsageOID.SERVER_AUTH, [alternatives]
        )
        return _issued(certificate, key)

    def issue_client(self, name: str, now_ms: int, life: dt.timedelta = SERVER_LIFE) -> Issued:
        """Issue a client certificate with a new key, for one of the control plane's own connections.

        ``name`` holds a dot (``cp.ingest``), which enrolment can never issue.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(name, key.public_key(), now_ms, life, ExtendedKeyUsageOID.CLIENT_AUTH, [])
        return _issued(certificate, key)

    def issue_device(
        self, device: str, public_key: ec.EllipticCurvePublicKey, now_ms: int, life: dt.timedelta | None = None
    ) -> Issued:
        """Issue a device certificate: CN = device id, clientAuth, no CA.

        Raises:
            Refused: ``DEVICE_ID`` where the id is not allowed.
        """
        if not is_device_id(device):
            raise Refused(
                f"{device!r} is not allowed as a device id.",
                code="DEVICE_ID",
                remedy="Use 1 to 64 of a-z, 0-9 and '-', starting and ending with a letter or digit.",
            )
        return _issued(
            self._sign(device, public_key, now_ms, life or DEVICE_LIFE, ExtendedKeyUsageOID.CLIENT_AUTH, []), None
        )

    def issue_eviction(self, device: str, now_ms: int) -> Issued:
        """Issue a certificate of a device's own name, with a key of ours, that ends its session and soon expires."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        return _issued(self._sign(device, key.public_key(), now_ms, EVICTION_LIFE, usage, []), key)

    def revocation_list(self, serials: Iterable[str], now_ms: int) -> bytes:
        """Return a certificate revocation list of ``serials`` (decimal), PEM, good for 30 days."""
        now = _utc(now_ms)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - BACKDATE)
            .next_update(now + CRL_LIFE)
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial)).revocation_date(now - BACKDATE)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _sign(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        now_ms: int,
        life: dt.timedelta,
        usage: x509.ObjectIdentifier,
        extensions: list[x509.ExtensionType],
    ) -> x509.Certificate:
        now = _utc(now_ms)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(_authority_key(self._certificate), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def read_request(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a certificate request after checking that its owner holds the private key.

    Raises:
        Refused: ``CSR_INVALID`` for anything but a P-256 request with a good signature of its own.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("the key is not P-256")
        if not request.is_signature_valid:
            raise ValueError("its signature does not verify")
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Refused(
            f"The certificate request is not acceptable: {error}.",
            code="CSR_INVALID",
            remedy="Make a P-256 key and a request signed with it.",
        ) from error
    return key


def public_key_pem(key: ec.EllipticCurvePublicKey) -> str:
    """Return ``key`` in its one textual form (SubjectPublicKeyInfo, PEM)."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the sha256 of ``key`` (SubjectPublicKeyInfo, DER), 64 hex digits: what people compare."""
    return sha256_hex(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def write_private(path: Path, data: bytes) -> None:
    """Write a secret so that it is never readable by others, not even for a moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)


def self_signed(name: str, now_ms: int) -> tuple[x509.Certificate, PrivateKey]:
    """Return a new certificate authority: its own certificate, good for ``CA_LIFE``, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = _utc(now_ms)
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _authority_key(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _issued(certificate: x509.Certificate, key: PrivateKey | None) -> Issued:
    return Issued(
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
        key_pem=_key_pem(key) if key else None,
        serial=str(certificate.serial_number),
        expires_ms=int(certificate.not_valid_after_utc.timestamp() * 1000),
    )


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _utc(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC)
