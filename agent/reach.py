"""Small looks at a network that does not let the agent through: who answers there, and what a broker or proxy says.

Nothing here is trusted, and nothing secret is sent: where a certificate is not checked, only ``GET /v1/time`` goes out.
Leaves the order of looks and the words to ``agent.runner.doctor``.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import ssl
import struct
from base64 import b64encode
from dataclasses import dataclass

from cryptography import x509

from agent.mqtt import WEBSOCKET_PATH
from agent.tls import secure

MAX_LOOK_BYTES = 4096
ALERT_S = 0.5
"""TLS 1.3 tells a client that its certificate is refused only after the handshake; it comes at once or not at all."""
_ALERTS = {
    "revoked": "DEVICE_CERTIFICATE_REVOKED",
    "expired": "DEVICE_CERTIFICATE_EXPIRED",
    "unknown_ca": "DEVICE_CERTIFICATE_UNKNOWN",
    "unknown ca": "DEVICE_CERTIFICATE_UNKNOWN",
    "certificate required": "DEVICE_CERTIFICATE_MISSING",
}


@dataclass(frozen=True)
class Seen:
    """Who answered in the server's place.

    Attributes:
        speaks_tls: whether it spoke TLS at all.
        issuer: who issued its certificate, in the words of RFC 4514; empty where there is none.
        is_page: whether it answered a question for the time with a page or a redirection, as a portal does.
    """

    speaks_tls: bool
    issuer: str = ""
    is_page: bool = False


def look_without_trust(sock: socket.socket, host: str, timeout_s: float) -> Seen:
    """Say who is at the other end of ``sock``, believing nothing; ``sock`` is used up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        tls = secure(sock, context, host, timeout_s)
    except OSError:
        return Seen(speaks_tls=False)
    with tls:
        der = tls.getpeercert(binary_form=True) or b""
        issuer = ""
        with contextlib.suppress(ValueError):
            issuer = x509.load_der_x509_certificate(der).issuer.rfc4514_string()
        return Seen(speaks_tls=True, issuer=issuer, is_page=_is_page(_ask_time(tls, host)))


def answers_plainly(sock: socket.socket, host: str, timeout_s: float) -> bool:
    """Whether the other end of ``sock`` answers HTTP without TLS, as a portal may; ``sock`` is used up."""
    with sock:
        sock.settimeout(timeout_s)
        return _ask_time(sock, host).startswith(b"HTTP/")


def alert_of(error: OSError) -> str:
    """Return the code of what a TLS alert says of our own certificate; empty where it is about something else."""
    text = str(error).lower()
    return next((code for words, code in _ALERTS.items() if words in text), "")


def mqtt_reason(tls: ssl.SSLSocket, device: str, timeout_s: float) -> int:
    """Connect as ``device`` in MQTT 5, leave, and return the broker's reason code. The session stays as it is.

    Raises:
        OSError: the connection ended; ``alert_of`` may say why.
    """
    name = device.encode("ascii")
    # Protocol name and level, no clean start, keep-alive 30 s, one property: session expiry, of an hour.
    body = b"\x00\x04MQTT\x05\x00\x00\x1e\x05\x11" + struct.pack("!I", 3600) + struct.pack("!H", len(name)) + name
    tls.settimeout(timeout_s)
    tls.sendall(b"\x10" + bytes([len(body)]) + body)
    answer = b""
    while len(answer) < 4:
        piece = tls.recv(256)
        if not piece:
            raise ConnectionResetError("The broker ended the connection without a word")
        answer += piece
    if answer[0] != 0x20:
        raise ConnectionAbortedError("what answers there is no MQTT broker")
    reason = answer[3] if answer[1] < 0x80 else answer[4]
    if reason == 0:
        tls.sendall(b"\xe0\x00")
    return reason


def stays_open(tls: ssl.SSLSocket) -> None:
    """Wait a moment for the other side to refuse our certificate.

    Raises:
        OSError: it did.
    """
    tls.settimeout(ALERT_S)
    with contextlib.suppress(TimeoutError):
        if not tls.recv(1):
            raise ConnectionResetError("The broker ended the connection without a word")


def upgrade_status(tls: ssl.SSLSocket, host: str, port: int, timeout_s: float) -> int:
    """Ask for a WebSocket and return the HTTP status: 101 where it was granted, 0 where there was no answer.

    Raises:
        OSError: the connection ended.
    """
    tls.settimeout(timeout_s)
    key = b64encode(secrets.token_bytes(16)).decode()
    tls.sendall(
        f"GET {WEBSOCKET_PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n".encode()
    )
    found = re.match(rb"HTTP/1\.[01] (\d{3})", _read_some(tls))
    return int(found.group(1)) if found else 0


def _ask_time(sock: socket.socket, host: str) -> bytes:
    try:
        sock.sendall(f"GET /v1/time HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return _read_some(sock)
    except OSError:
        return b""


def _read_some(sock: socket.socket) -> bytes:
    data = b""
    while len(data) < MAX_LOOK_BYTES and b"\r\n\r\n" not in data:
        piece = sock.recv(MAX_LOOK_BYTES)
        if not piece:
            break
        data += piece
    return data


def _is_page(answer: bytes) -> bool:
    head = answer.partition(b"\r\n\r\n")[0].lower()
    return head.startswith((b"http/1.1 3", b"http/1.0 3", b"http/1.1 511")) or b"content-type: text/html" in head
