"""Counts what an HTTP client sends and receives inside TLS: requests and answers as the two programs write them.

It stands where httpcore opens its connections, so the client, its headers and its TLS are the agent's own.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx


class Bytes:
    """Bytes that have passed, since the last ``reset``."""

    def __init__(self) -> None:
        self.up = self.down = 0

    def reset(self) -> None:
        """Count from 0 again."""
        self.up = self.down = 0


def counting(client: httpx.Client, tls: ssl.SSLContext) -> Bytes:
    """Have ``client`` (fresh, without connections) count what passes inside its TLS; return the counts."""
    counts = Bytes()
    transport = client._transport  # httpx has no public place for a network backend
    assert isinstance(transport, httpx.HTTPTransport)
    backend = _Backend(httpcore.SyncBackend(), counts)
    transport._pool = httpcore.ConnectionPool(ssl_context=tls, keepalive_expiry=60.0, network_backend=backend)
    return counts


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend, counts: Bytes) -> None:
        self._inner, self._counts = inner, counts

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Outside(self._inner.connect_tcp(host, port, timeout, local_address, socket_options), self._counts)


class _Outside(httpcore.NetworkStream):
    """The connection before TLS: nothing is counted."""

    def __init__(self, inner: httpcore.NetworkStream, counts: Bytes) -> None:
        self._inner, self._counts = inner, counts

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Inside(self._inner.start_tls(ssl_context, server_hostname, timeout), self._counts)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Inside(_Outside):
    """The connection inside TLS."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = super().read(max_bytes, timeout)
        self._counts.down += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._counts.up += len(buffer)
        super().write(buffer, timeout)
