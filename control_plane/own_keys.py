"""The server's own certificates and secrets: made anew at every start, so that they never expire unnoticed."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from control_plane.broker.configuration import BLOBS_NAME, INGEST_NAME, PUBLISH_NAME
from control_plane.folder import Folder
from control_plane.identity.authority import Authority, Issued, write_private

NAME = "wavegate"


def issue_door(folder: Folder, server_ca: Authority, names: Sequence[str], now_ms: int) -> None:
    """Write the certificate of the devices' door.

    Args:
        folder: of the server.
        server_ca: what devices pin.
        names: DNS names and addresses in it.
        now_ms: server clock.
    """
    _keep(folder.keys / "server", server_ca.issue_server(NAME, list(names), now_ms))


def issue_broker(folder: Folder, server_ca: Authority, device_ca: Authority, names: Sequence[str], now_ms: int) -> None:
    """Write the private broker's certificate, the CA it asks of its guests, and those of our own connections to it."""
    files = folder.broker
    files.device_ca.write_bytes(device_ca.certificate_pem)
    _keep(files.certificate.with_suffix(""), server_ca.issue_server(NAME, list(names), now_ms))
    for name in (INGEST_NAME, PUBLISH_NAME, BLOBS_NAME):
        _keep(folder.keys / name, device_ca.issue_client(name, now_ms))


def nonce_secret(folder: Folder) -> bytes:
    """Return what nonces are made with; it outlives restarts, so that devices' nonces do."""
    path = folder.keys / "nonce.secret"
    if not path.exists():
        write_private(path, secrets.token_bytes(32))
    return path.read_bytes()


def _keep(stem: Path, issued: Issued) -> None:
    stem.with_name(stem.name + ".pem").write_bytes(issued.certificate_pem)
    write_private(stem.with_name(stem.name + ".key"), issued.key_pem or b"")
