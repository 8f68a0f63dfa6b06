"""The identity in use, renewed in time, and the server's pins in force. Leaves files to ``agent.identity``."""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from agent.https import Door, open_client
from agent.identity import (
    SERVER_CA,
    Identity,
    Post,
    enroll,
    load_identity,
    pinned_context,
    renew,
    system_ms,
    write_durably,
)
from agent.tls import Clock, read_pins, write_pins
from bundles.errors import AskPerson, TryAgain

_log = logging.getLogger(__name__)
APPROVAL_S = 20.0


class Credentials:
    """What the doors of one device show, and whom they trust. Thread-safe.

    Args:
        identity: as loaded.
        signed_pins: returns the server CAs (DER) that the targets role signed; empty keeps those of enrolment.
        clock_ms: the trust clock, by which the server's certificates are judged.
        extra: CAs (DER) that the owner takes for the server over HTTPS, beside the pins; never for the broker.
    """

    def __init__(
        self,
        identity: Identity,
        signed_pins: Callable[[], Sequence[bytes]] = list,
        clock_ms: Clock = system_ms,
        extra: Sequence[bytes] = (),
    ) -> None:
        self._lock = threading.Lock()
        self._identity = identity
        self._signed_pins, self._clock_ms = signed_pins, clock_ms
        self._pins = identity.pins()
        self._extra = list(extra)

    @property
    def identity(self) -> Identity:
        """The identity as it is now."""
        with self._lock:
            return self._identity

    def key(self) -> ec.EllipticCurvePrivateKey:
        """Return the key that signs requests now."""
        return self.identity.key

    def broker_context(self) -> ssl.SSLContext:
        """Return a TLS context for the broker with the certificate of now."""
        return self.identity.broker_context(self.pins, self._clock_ms)

    def server_context(self) -> ssl.SSLContext:
        """Return a TLS context for HTTPS; it follows the pins for as long as it is used."""
        return self.identity.server_context(lambda: [*self.pins(), *self._extra], self._clock_ms)

    def pins(self) -> list[bytes]:
        """Return the pinned server CAs, DER; a signed set that is new goes to disk before it counts."""
        signed = list(self._signed_pins())
        with self._lock:
            if signed and signed != self._pins:
                try:
                    write_durably(self._identity.folder / SERVER_CA, write_pins(signed).encode("ascii"))
                except OSError as error:
                    # The trust store holds the set durably as well: it counts, and is written at the next handshake.
                    _log.warning("the server's pins cannot be written: %s", error)
                    return signed
                self._pins = signed
            return list(self._pins)

    def is_renewal_due(self, now_ms: int) -> bool:
        """Whether two thirds of the certificate's life are over at ``now_ms``, by the trust clock."""
        return now_ms >= self.identity.renewal_due_ms

    def renew(self, post: Post) -> None:
        """Exchange the certificate; see ``agent.identity.renew``."""
        renewed = renew(self.identity, post)
        with self._lock:
            self._identity = renewed


def enroll_over_https(
    folder: Path,
    *,
    url: str,
    token: str,
    server_ca_pem: str,
    name: str = "",
    hardware: str = "",
    labels: dict[str, str] | None = None,
    serial: str = "",
    proxy: str = "",
    extra_ca_pem: str = "",
    clock_ms: Clock | None = None,
    waiting: Callable[[TryAgain], None] | None = None,
    pause_s: float = APPROVAL_S,
) -> Identity:
    """Enrol ``folder`` at the server, or return the identity it holds; see ``agent.identity.enroll``.

    Args other than those of ``enroll``:
        proxy: see ``agent.https.open_client``.
        extra_ca_pem: CAs taken for the server's as well, of a proxy that inspects TLS; they are not kept as pins.
        clock_ms: by what the server's certificate is judged; max(system, build) where None: no metadata is known yet.
        waiting: told once that a person must approve, whereupon the device asks until one has decided; None gives up.
        pause_s: between asking, with jitter.
    """
    if (folder / "cert.pem").exists():
        return load_identity(folder)
    context = pinned_context(server_ca_pem + extra_ca_pem, clock_ms or first_clock_ms)
    with open_client(url, context, proxy=proxy) as client:

        def ask() -> Identity:
            return enroll(
                folder,
                Door(client).post,
                url=url,
                token=token,
                server_ca_pem=server_ca_pem,
                name=name,
                hardware=hardware,
                labels=labels,
                serial=serial,
            )

        if waiting is None:
            return ask()
        is_told = False
        while True:
            try:
                return ask()
            except TryAgain as error:
                if error.code != "ENROL_PENDING" and not is_told:
                    raise
                if not is_told:
                    waiting(error)
                    is_told = True
            time.sleep(pause_s * (0.75 + 0.5 * random.random()))


def read_extra_ca(path: str) -> list[bytes]:
    """Return the CAs (DER) of the file that ``extra_ca`` names; none where it names none.

    Raises:
        AskPerson: ``EXTRA_CA``.
    """
    if not path:
        return []
    try:
        return read_pins(Path(path).read_text("ascii"))
    except (OSError, UnicodeDecodeError, AskPerson) as error:
        raise AskPerson(
            f"The file {path!r}, which extra_ca names, holds no certificate that can be read.",
            code="EXTRA_CA",
            remedy="Give the CA certificate of the proxy as a PEM file, or take extra_ca out of config.toml.",
        ) from error


def first_clock_ms() -> int:
    """Return the clock of a device without trust metadata: the system's, but never before this agent was built."""
    from bundles.trust.device.client import BUILT_MS  # here: it brings the whole of TUF along

    return max(system_ms(), BUILT_MS)
