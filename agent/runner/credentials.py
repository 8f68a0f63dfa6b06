"""The identity in use, renewed in time. Leaves files and certificates to ``agent.identity``."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from agent.https import Door, open_client
from agent.identity import Identity, Post, enroll, load_identity, pinned_context, renew


class Credentials:
    """What the doors of one device show. Thread-safe."""

    def __init__(self, identity: Identity) -> None:
        self._lock = threading.Lock()
        self._identity = identity

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
        return self.identity.broker_context()

    def is_renewal_due(self, wall_ms: int) -> bool:
        """Whether two thirds of the certificate's life are over."""
        return wall_ms >= self.identity.renewal_due_ms

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
    proxy: str = "",
) -> Identity:
    """Enrol ``folder`` at the server, or return the identity it holds; see ``agent.identity.enroll``."""
    if (folder / "cert.pem").exists():
        return load_identity(folder)
    with open_client(url, pinned_context(server_ca_pem), proxy=proxy) as client:
        return enroll(
            folder,
            Door(client).post,
            url=url,
            token=token,
            server_ca_pem=server_ca_pem,
            name=name,
            hardware=hardware,
            labels=labels,
        )
