"""Who this device is: its P-256 key, the certificate the device CA gave it, and the pinned server CA.

The key is made on the device and never leaves it (``key.pem``, mode 0600). Names in the signing request are a wish;
the server decides the id, and what counts is the CN of the certificate that comes back. Files are written with fsync
and rename, in an order that a crash cannot spoil: a renewal's new key waits in ``key.next.pem`` until a certificate
for it is on disk.

Leaves HTTP to whoever hands in ``post``, signatures of requests to ``bundles.wire.proof`` and the clock to the caller.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.tls import Clock, Pins, read_pins, trust_context
from bundles.errors import AskPerson, Refused, TryAgain
from bundles.trust import durable
from bundles.wire.topics import is_device_id

Post = Callable[[str, bytes], bytes]
"""(path, JSON body) -> body of the answer; raises ``Refused`` or ``TryAgain``."""

KEY, NEXT_KEY, CERTIFICATE, SERVER_CA, ENROLMENT = (
    "key.pem",
    "key.next.pem",
    "cert.pem",
    "server-ca.pem",
    "enrolment.json",
)


class BrokerAddress(msgspec.Struct, frozen=True):
    """Where the broker listens for devices.

    Attributes:
        host: name or address, also of its certificate.
        port: for MQTT over TCP.
        websocket_port: for MQTT over WebSocket; 0 = none.
    """

    host: str
    port: int
    websocket_port: int = 0


class Enrolment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the server said at enrolment, beside the certificate; kept in ``enrolment.json``.

    Attributes:
        device: the id the server gave.
        url: where the server was reached.
        mqtt: the broker, None where devices poll over HTTPS.
        poll_s: how often to poll before a desired document brings its own profile.
    """

    device: str
    url: str
    mqtt: BrokerAddress | None = None
    poll_s: float = 1800.0


class _EnrolAnswer(msgspec.Struct):
    device: str
    certificate: str
    mqtt: BrokerAddress | None = None
    poll_s: float = 1800.0


class _Waiting(msgspec.Struct):
    state: str
    fingerprint: str


class _RenewAnswer(msgspec.Struct):
    certificate: str
    mqtt: BrokerAddress | None = None


@dataclass(frozen=True)
class Identity:
    """An enrolled device.

    Attributes:
        folder: where the PEM files are.
        device: CN of the certificate.
        key: the private key of both doors: mutual TLS, and signed requests.
        not_before: start of the certificate's life, UTC.
        not_after: its end.
        enrolment: what the server said.
    """

    folder: Path
    device: str
    key: ec.EllipticCurvePrivateKey
    not_before: datetime
    not_after: datetime
    enrolment: Enrolment

    @property
    def renewal_due_ms(self) -> int:
        """When to renew: at 2/3 of the certificate's life, so that a third is left for failures."""
        life = self.not_after - self.not_before
        return int((self.not_before + life * 2 / 3).timestamp() * 1000)

    def pins(self) -> list[bytes]:
        """Return the pinned server CAs, DER: those of enrolment, or the signed set that replaced them."""
        return read_pins((self.folder / SERVER_CA).read_text("ascii"))

    def broker_context(self, pins: Pins | None = None, clock_ms: Clock | None = None) -> ssl.SSLContext:
        """Return a TLS context for the broker: our certificate, and the pinned server CAs alone.

        Args:
            pins: returns the pins of now; those on disk where None.
            clock_ms: the trust clock; the system's where None.
        """
        context = self.server_context(pins, clock_ms)
        context.load_cert_chain(self.folder / CERTIFICATE, self.folder / KEY)
        return context

    def server_context(self, pins: Pins | None = None, clock_ms: Clock | None = None) -> ssl.SSLContext:
        """Return a TLS context for HTTPS, where requests are signed and no client certificate is shown."""
        fixed = self.pins()
        return trust_context(pins or (lambda: fixed), clock_ms or system_ms)


def pinned_context(server_ca_pem: str, clock_ms: Clock | None = None) -> ssl.SSLContext:
    """Return a TLS client context that trusts ``server_ca_pem`` and nothing the system trusts.

    Args:
        server_ca_pem: one certificate or several.
        clock_ms: by what the server's certificate is judged; the system's clock where None.

    Raises:
        AskPerson: ``SERVER_CA`` where the text holds no certificate.
    """
    fixed = read_pins(server_ca_pem)
    return trust_context(lambda: fixed, clock_ms or system_ms)


def system_ms() -> int:
    """Return the system's clock, UTC epoch ms."""
    return time.time_ns() // 1_000_000


def load_identity(folder: Path) -> Identity:
    """Read the identity in ``folder``, finishing a renewal that a crash interrupted.

    Raises:
        AskPerson: ``NOT_ENROLLED`` where there is none, ``IDENTITY_DAMAGED`` where its files disagree.
    """
    try:
        enrolment = msgspec.json.decode((folder / ENROLMENT).read_bytes(), type=Enrolment)
        certificate = x509.load_pem_x509_certificates((folder / CERTIFICATE).read_bytes())[0]
        key = _load_key(folder / KEY)
        if _public(key.public_key()) != _public(certificate.public_key()):
            key = _load_key(folder / NEXT_KEY)
            if _public(key.public_key()) != _public(certificate.public_key()):
                raise ValueError("the certificate is for another key")
            _rename(folder / NEXT_KEY, folder / KEY)
        device = _common_name(certificate)
    except FileNotFoundError as error:
        raise AskPerson(
            f"This device is not enrolled: {Path(str(error.filename)).name} is missing.",
            code="NOT_ENROLLED",
            remedy="Run: wavegate-agent enroll --dir DIR --url URL --token TOKEN --ca FILE --root FILE.",
        ) from error
    except (ValueError, TypeError, msgspec.DecodeError) as error:
        raise AskPerson(
            f"The identity of this device is damaged: {error}.",
            code="IDENTITY_DAMAGED",
            remedy="Restore the identity folder, or remove it and enrol again with a new token.",
        ) from error
    return Identity(folder, device, key, certificate.not_valid_before_utc, certificate.not_valid_after_utc, enrolment)


def enroll(
    folder: Path,
    post: Post,
    *,
    url: str,
    token: str,
    server_ca_pem: str,
    name: str = "",
    hardware: str = "",
    labels: Mapping[str, str] | None = None,
    serial: str = "",
) -> Identity:
    """Give this device an identity. Being called twice is normal: an enrolled folder is returned as it is.

    A key that is already there is used again, so that a token spent on an answer that got lost still works
    (same token and same key are one enrolment to the server).

    Args:
        folder: the identity folder; made with mode 0700.
        post: posts to the server over TLS pinned to ``server_ca_pem``.
        url: where the server is, kept for later starts.
        token: the claim token; empty asks for a person's approval, where the server allows that.
        server_ca_pem: the pin.
        name: id to ask for; empty leaves it to the server.
        hardware: hardware class, for variants and strata.
        labels: traits of the device.
        serial: the hardware's serial number, for tokens bound to one.

    Returns:
        The identity, as ``load_identity`` reads it back.

    Raises:
        Refused: the server refused the token or the key; or ``ENROL_ANSWER`` where its answer makes no sense.
        TryAgain: the server could not be reached; or ``ENROL_PENDING``: nobody has approved this key yet. Asking again
            later, with the same folder and so the same key, is how the answer is learnt.
        AskPerson: the folder holds a damaged identity.
    """
    if (folder / CERTIFICATE).exists():
        return load_identity(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = _existing_or_new_key(folder / KEY)
    body = {
        "token": token,
        "name": name,
        "csr": signing_request(key, name),
        "hardware": hardware,
        "labels": dict(labels or {}),
        "serial": serial,
    }
    raw = post("/v1/enroll", msgspec.json.encode(body))
    _check_waiting(raw)
    try:
        answer = msgspec.json.decode(raw, type=_EnrolAnswer)
        _check_certificate(answer.certificate, key, answer.device)
    except (msgspec.DecodeError, ValueError) as error:
        raise _nonsense(error) from error
    enrolment = Enrolment(answer.device, url, answer.mqtt, answer.poll_s)
    write_durably(folder / SERVER_CA, server_ca_pem.encode("ascii"))
    write_durably(folder / ENROLMENT, msgspec.json.encode(enrolment))
    write_durably(folder / CERTIFICATE, answer.certificate.encode("ascii"))  # last: its presence means enrolled
    return load_identity(folder)


def renew(identity: Identity, post: Post) -> Identity:
    """Exchange the certificate for one of a new key; the old pair works until the last rename.

    Args:
        identity: the identity to renew; an expired one may renew as well.
        post: posts requests signed with the *present* key.

    Raises:
        Refused: the server refused (revoked or retired), or answered nonsense.
        TryAgain: the server could not be reached; the same new key is used at the next try.
    """
    key = _existing_or_new_key(identity.folder / NEXT_KEY)
    raw = post("/v1/renew", msgspec.json.encode({"csr": signing_request(key, identity.device)}))
    try:
        answer = msgspec.json.decode(raw, type=_RenewAnswer)
        _check_certificate(answer.certificate, key, identity.device)
    except (msgspec.DecodeError, ValueError) as error:
        raise _nonsense(error) from error
    write_durably(identity.folder / CERTIFICATE, answer.certificate.encode("ascii"))
    if answer.mqtt is not None and answer.mqtt != identity.enrolment.mqtt:  # older servers say nothing of it here
        enrolment = msgspec.structs.replace(identity.enrolment, mqtt=answer.mqtt)
        write_durably(identity.folder / ENROLMENT, msgspec.json.encode(enrolment))
    return load_identity(identity.folder)


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """Return a PEM certificate signing request for ``key``; ``name`` is the id asked for, and may be empty."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes)).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data`` as ``bundles.trust.durable`` does, readable by the owner alone unless said."""
    durable.write_durably(path, data, mode=mode)


def _rename(source: Path, target: Path) -> None:
    source.replace(target)
    durable.flush_folder(target.parent)


def _existing_or_new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if path.exists():
        return _load_key(path)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_durably(path, pem)
    return key


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError(f"{path.name} holds no P-256 key")
    return key


def _check_waiting(raw: bytes) -> None:
    try:
        answer = msgspec.json.decode(raw, type=_Waiting)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # an answer of another kind
    if answer.state == "pending":
        raise TryAgain(
            f"This device waits for approval; the fingerprint of its key begins with {answer.fingerprint[:16]}.",
            code="ENROL_PENDING",
            remedy=f"On the server: wavegate device approve {answer.fingerprint[:16]}; then run this command again.",
            details={"fingerprint": answer.fingerprint},
        )


def _check_certificate(pem: str, key: ec.EllipticCurvePrivateKey, device: str) -> None:
    certificate = x509.load_pem_x509_certificates(pem.encode("ascii"))[0]
    if _public(certificate.public_key()) != _public(key.public_key()):
        raise ValueError("the certificate is for another key")
    if _common_name(certificate) != device:
        raise ValueError("the certificate names another device")


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    device = str(names[0].value) if names else ""
    if not is_device_id(device):
        raise ValueError(f"the certificate's name {device!r} is no device id")
    return device


def _public(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the certificate holds no P-256 key")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _nonsense(error: Exception) -> Refused:
    return Refused(
        f"The server's answer cannot be used: {error}.",
        code="ENROL_ANSWER",
        remedy="Check that the URL is a Wavegate server's device port, and that its release is not newer by far.",
    )
