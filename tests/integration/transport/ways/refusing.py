"""A broker of our own that refuses: it takes a device's TLS and MQTT, and answers with the reason code under test."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from control_plane.identity.authority import Authority
from ways.server import HOST, write_pair

CONNECT, SUBSCRIBE = 1, 8
"""Packet types of MQTT 5 (section 2.1.2)."""


@dataclass(frozen=True)
class Answers:
    """Reason codes of MQTT 5 (section 2.4): to what a device asks, and why it is sent away; 0 = success."""

    connack: int = 0
    suback: int = 0
    puback: int = 0
    disconnect: int = 0


class RefusingBroker:
    """One such broker.

    Attributes:
        port: where it listens.
        connections: how many asked for MQTT.
    """

    def __init__(self, folder: Path, authority: Authority, answers: Answers) -> None:
        self._answers, self.connections = answers, 0
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(*write_pair(folder, authority, "refusing"))
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), self._tls.wrap_socket(sock, server_side=True) as tls:
            tls.settimeout(30)
            while True:
                kind, body = _packet(tls)
                answer = self._answer(kind, body)
                if answer:
                    tls.sendall(answer)
                if kind >> 4 == SUBSCRIBE and self._answers.disconnect:
                    tls.sendall(bytes([0xE0, 2, self._answers.disconnect, 0]))
                if (kind >> 4 == CONNECT and self._answers.connack) or (
                    kind >> 4 == SUBSCRIBE and self._answers.disconnect
                ):
                    # What was not read would become a reset, which may overtake the reason.
                    while tls.recv(4096):
                        pass
                    return

    def _answer(self, kind: int, body: bytes) -> bytes:
        match kind >> 4:
            case 1:  # CONNECT
                self.connections += 1
                return bytes([0x20, 3, 0, self._answers.connack, 0])
            case 8:  # SUBSCRIBE: packet id, properties, then topic filters with an option each
                topics, at = 0, 3 + body[2]
                while at < len(body):
                    topics, at = topics + 1, at + 2 + int.from_bytes(body[at : at + 2], "big") + 1
                reasons = bytes([self._answers.suback or 1] * topics)
                return bytes([0x90, 3 + topics]) + body[:2] + b"\0" + reasons
            case 3 if kind & 6:  # PUBLISH of QoS 1
                at = 2 + int.from_bytes(body[:2], "big")
                return bytes([0x40, 4]) + body[at : at + 2] + bytes([self._answers.puback, 0])
            case 12:  # PINGREQ
                return b"\xd0\x00"
        return b""


def _packet(tls: ssl.SSLSocket) -> tuple[int, bytes]:
    kind, length, shift = _exactly(tls, 1)[0], 0, 0
    while True:
        (byte,) = _exactly(tls, 1)
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return kind, _exactly(tls, length)


def _exactly(tls: ssl.SSLSocket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = tls.recv(count - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data
