"""Proxies of our own: CONNECT and SOCKS5, with credentials and without, passing on or reading along."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import ssl
import struct
import threading
from pathlib import Path

from control_plane.identity.authority import Authority
from ways.gate import pump
from ways.server import HOST, write_pair


class Proxy:
    """A small CONNECT and SOCKS5 proxy: tells them apart by the first byte, may want credentials, may refuse.

    Attributes:
        asked: (kind, host, port) of every connection that it made.
    """

    def __init__(self, who: tuple[str, str] | None = None, *, refuses: bool = False) -> None:
        self._who, self._refuses = who, refuses
        self.asked: list[tuple[str, str, int]] = []
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, scheme: str) -> str:
        who = f"{self._who[0]}:{self._who[1]}@" if self._who else ""
        return f"{scheme}://{who}{HOST}:{self.port}"

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
        with sock, contextlib.suppress(OSError, ValueError, IndexError):
            first = sock.recv(1, socket.MSG_PEEK)
            target = self._socks(sock) if first == b"\x05" else self._connect(sock)
            if target is not None:
                with target:
                    self.relay(sock, target)

    def relay(self, sock: socket.socket, target: socket.socket) -> None:
        pump(sock, target)

    def _connect(self, sock: socket.socket) -> socket.socket | None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        lines = head.decode().split("\r\n")
        wanted = base64.b64encode(":".join(self._who).encode()).decode() if self._who else ""
        given = next((one for one in lines if one.lower().startswith("proxy-authorization:")), "")
        if wanted and not (given.lower().startswith("proxy-authorization: basic ") and given.endswith(f" {wanted}")):
            sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n"
                         b"Content-Length: 0\r\n\r\n")  # fmt: skip
            return None
        if self._refuses:
            sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return None
        host, _, port = lines[0].split(" ")[1].rpartition(":")
        self.asked.append(("connect", host, int(port)))
        return self._reach(sock, host, int(port), b"HTTP/1.1 200 Connection established\r\n\r\n")

    def _socks(self, sock: socket.socket) -> socket.socket | None:
        methods = sock.recv(2)[1]
        offered = sock.recv(methods)
        if self._who:
            if 2 not in offered:
                sock.sendall(b"\x05\xff")
                return None
            sock.sendall(b"\x05\x02")
            length = sock.recv(2)[1]
            user = sock.recv(length).decode()
            password = sock.recv(sock.recv(1)[0]).decode()
            if (user, password) != self._who:
                sock.sendall(b"\x01\x01")
                return None
            sock.sendall(b"\x01\x00")
        else:
            sock.sendall(b"\x05\x00")
        kind = sock.recv(4)[3]
        host = socket.inet_ntoa(sock.recv(4)) if kind == 1 else sock.recv(sock.recv(1)[0]).decode()
        (port,) = struct.unpack("!H", sock.recv(2))
        if self._refuses:
            sock.sendall(b"\x05\x02\x00\x01" + bytes(6))
            return None
        self.asked.append(("socks", host, port))
        return self._reach(sock, host, port, b"\x05\x00\x00\x01" + bytes(6))

    @staticmethod
    def _reach(sock: socket.socket, host: str, port: int, yes: bytes) -> socket.socket | None:
        target = socket.create_connection((host, port))
        try:
            sock.sendall(yes)
        except OSError:
            target.close()
            return None
        return target


class InspectingProxy(Proxy):
    """A CONNECT proxy that ends TLS with certificates of its own CA and reads along.

    Attributes:
        read: the first line of every request that it saw in the clear.
    """

    def __init__(self, folder: Path, authority: Authority, *, page: bytes = b"") -> None:
        self._pair = write_pair(folder, authority, "inspector")
        self._page, self.read = page, []
        super().__init__()

    def relay(self, sock: socket.socket, target: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._pair)
        outside = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        outside.check_hostname, outside.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(sock, server_side=True) as inner:
            first = inner.recv(65536)
            self.read.append(first.partition(b"\r\n")[0])
            if self._page:
                inner.sendall(self._page)
                return
            with outside.wrap_socket(target) as outer:
                outer.sendall(first)
                self._carry(inner, outer)

    def _carry(self, inner: ssl.SSLSocket, outer: ssl.SSLSocket) -> None:
        """Carry both ways on one thread: an SSL object is not made for two."""
        sides = {inner: outer, outer: inner}
        while True:
            with_data = [sock for sock in sides if sock.pending()] or select.select(list(sides), [], [], 30)[0]
            if not with_data:
                return
            for source in with_data:
                data = source.recv(65536)
                if not data:
                    return
                if b" HTTP/1.1\r\n" in data:
                    self.read.append(data.partition(b"\r\n")[0])
                sides[source].sendall(data)
