"""Makes mosquitto know its own WebSocket listener, without which it reads no revocation list for it.

mosquitto 2.0 takes the TLS context of a WebSocket listener from the first connection that is upgraded there
(``src/websockets.c``); it reads the list for such a listener only at a SIGHUP, and only where it has the context. So a
broker that has just started lets revoked devices in by WebSocket. The control plane therefore comes by WebSocket itself
before each SIGHUP, and sends one after each start.
"""

from __future__ import annotations

import socket
import ssl
from base64 import b64encode
from pathlib import Path

from bundles.errors import TryAgain

TIMEOUT_S = 5.0
_KEY = b64encode(b"wavegate-control").decode("ascii")
"""Any 16 bytes will do (RFC 6455, 4.1): no caches lie between the broker and its supervisor."""


def introduce(name: str, folder: Path, host: str, port: int) -> None:
    """Have one connection upgraded at the broker's WebSocket listener, and leave; MQTT is not begun.

    Args:
        name: the certificate's.
        folder: holds ``<name>.pem``, ``<name>.key`` and ``server-ca.pem``.
        host: of the broker.
        port: of its WebSocket listener.

    Raises:
        TryAgain: ``BROKER_WEBSOCKET``: it was not upgraded.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # by address, whatever names it has; who issued its certificate is checked
    context.load_verify_locations(folder / "server-ca.pem")
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    answer = b""
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as plain, context.wrap_socket(plain) as tls:
            request = (
                f"GET /mqtt HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
            )
            tls.sendall(request.encode("ascii"))
            while b"\r\n" not in answer and (piece := tls.recv(1024)):
                answer += piece
    except OSError as error:
        raise _refused(str(error)) from error
    if b" 101 " not in answer.partition(b"\r\n")[0]:
        raise _refused(answer.partition(b"\r\n")[0].decode("ascii", "replace") or "it said nothing")


def _refused(why: str) -> TryAgain:
    return TryAgain(
        f"The broker's WebSocket listener does not take the control plane: {why}.",
        code="BROKER_WEBSOCKET",
        remedy="It is tried again; the broker's log says more.",
    )
