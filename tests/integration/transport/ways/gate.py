"""A relay before a port, whose network can fail."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time

from ways.server import HOST


class Gate:
    """A TCP relay before a port, which can be shut, frozen (half-open: nothing moves, nobody is told) or cut.

    Attributes:
        port: where it listens.
        connections: how many it has taken.
    """

    def __init__(self, target: int) -> None:
        self._target, self.is_shut, self.is_frozen, self.connections = target, False, False, 0
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._is_closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End what goes through now."""
        for pair in self._pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def shut(self) -> None:
        self.is_shut = True
        self.cut()

    def open(self) -> None:
        self.is_shut = self.is_frozen = False

    def close(self) -> None:
        self._is_closed = True
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            if self.is_shut:
                inner.close()
                continue
            self.connections += 1
            threading.Thread(target=self._relay, args=(inner,), daemon=True).start()

    def _relay(self, inner: socket.socket) -> None:
        with inner:
            try:
                outer = socket.create_connection((HOST, self._target))
            except OSError:
                return
            with outer:
                pair = (inner, outer)
                self._pairs.append(pair)
                pump(inner, outer, lambda: self.is_frozen and not self._is_closed)
                self._pairs.remove(pair)


def pump(one: socket.socket, other: socket.socket, is_frozen=lambda: False) -> None:
    """Carry bytes both ways until either side ends."""
    sides = {one: other, other: one}
    while True:
        try:
            readable, _, _ = select.select(list(sides), [], [], 0.2)
            if is_frozen():
                time.sleep(0.02)
                continue
            for sock in readable:
                data = sock.recv(65536)
                if not data:
                    return
                sides[sock].sendall(data)
        except (OSError, ValueError):
            return
