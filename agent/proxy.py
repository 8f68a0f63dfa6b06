"""The proxies between a device and the control plane: which one a host is reached by, and a TCP connection through it.

``http://`` (CONNECT), ``socks5://`` and ``socks5h://`` carry HTTPS and MQTT; ``https://`` (TLS to the proxy itself)
carries HTTPS alone. Names are looked up by the proxy, whichever kind it is: a device behind one often has no DNS for
the outside. The environment is read by whoever is told to (``proxy = "environment"``), never in passing.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from bundles.errors import AskPerson, TryAgain

ENVIRONMENT = "environment"
SCHEMES = ("http", "https", "socks5", "socks5h")
MAX_HEAD_BYTES = 16 * 1024
_DEFAULT_PORTS = {"http": 8080, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True)
class Proxy:
    """One proxy.

    Attributes:
        scheme: one of ``SCHEMES``.
        host: name or address.
        port: TCP port.
        username: empty = none.
        password: shown nowhere.
    """

    scheme: str
    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """The whole URL with credentials, for httpx."""
        who = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@" if self.username else ""
        return f"{self.scheme}://{who}{_bracketed(self.host)}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True)
class Proxies:
    """Which proxy leads to which host.

    Attributes:
        proxy: for every host that is not excepted; None = none.
        excepted: entries of ``NO_PROXY``: ``*``, a host, which stands for all below it too (``example.com``,
            ``.example.com``), an address, a network (``10.0.0.0/8``), any of them with ``:port``.
    """

    proxy: Proxy | None = None
    excepted: tuple[str, ...] = ()

    def to(self, host: str, port: int) -> Proxy | None:
        """Return the proxy that leads to ``host``, None where it is reached directly."""
        if self.proxy is None or any(_is_meant(entry, host, port) for entry in self.excepted):
            return None
        return self.proxy

    def to_url(self, url: str) -> str:
        """Return the URL of the proxy that leads to the host of ``url``; empty = none."""
        parts = urlsplit(url)
        proxy = self.to(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        return proxy.url if proxy else ""


def read_proxies(setting: str, no_proxy: Sequence[str], environ: Mapping[str, str]) -> Proxies:
    """Return what the settings say.

    Args:
        setting: URL of a proxy, ``environment`` (``HTTPS_PROXY`` or ``ALL_PROXY``, and ``NO_PROXY``, also in small
            letters), or empty.
        no_proxy: hosts to reach directly; with ``environment`` they come on top of ``NO_PROXY``.
        environ: the environment.

    Raises:
        AskPerson: ``PROXY_INVALID``.
    """
    excepted = [entry.strip() for entry in no_proxy]
    if setting == ENVIRONMENT:
        setting = _of(environ, "HTTPS_PROXY") or _of(environ, "ALL_PROXY")
        excepted += [entry.strip() for entry in _of(environ, "NO_PROXY").split(",")]
    if not setting:
        return Proxies()
    return Proxies(parse_proxy(setting), tuple(entry for entry in excepted if entry))


def parse_proxy(url: str) -> Proxy:
    """Return the proxy that ``url`` names.

    Raises:
        AskPerson: ``PROXY_INVALID``; the message holds no password.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise AskPerson(
            "The proxy is not written as a URL that the agent knows.",
            code="PROXY_INVALID",
            remedy="Write it as http://USER:PASSWORD@HOST:PORT, https://..., socks5://... or socks5h://...; special "
            "characters of a password as %40 and the like.",
        )
    return Proxy(
        parts.scheme,
        parts.hostname,
        port or _DEFAULT_PORTS[parts.scheme],
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


def dial(host: str, port: int, proxy: Proxy | None, timeout_s: float) -> socket.socket:
    """Return a TCP connection to ``host``, through ``proxy`` where there is one.

    Raises:
        TryAgain: ``DNS``, ``PORT_CLOSED``, ``PORT_BLOCKED`` or ``NO_ROUTE`` of the host; ``PROXY_DNS``,
            ``PROXY_UNREACHABLE``, ``PROXY_AUTH``, ``PROXY_REFUSED`` or ``PROXY_KIND`` of the proxy.
    """
    if proxy is None:
        try:
            return socket.create_connection((host, port), timeout_s)
        except OSError as error:
            raise not_reached(error, host, port) from error
    if proxy.scheme == "https":
        raise TryAgain(
            "MQTT cannot go through a proxy that is itself reached by TLS.",
            code="PROXY_KIND",
            remedy="Reports go over HTTPS polling through it; for MQTT, name an http:// or a socks5:// proxy.",
        )
    if proxy.scheme == "http":
        return _tunnel(host, port, proxy, timeout_s)
    import socks  # type: ignore[import-untyped]  # here: a device without such a proxy need not load it

    try:
        connection: socket.socket = socks.create_connection(
            (host, port),
            timeout_s,
            proxy_type=socks.SOCKS5,
            proxy_addr=proxy.host,
            proxy_port=proxy.port,
            proxy_rdns=True,
            proxy_username=proxy.username or None,
            proxy_password=proxy.password or None,
        )
    except socks.ProxyConnectionError as error:
        raise _no_proxy(proxy, error.socket_err) from error
    except socks.ProxyError as error:
        if isinstance(error.socket_err or error, socks.SOCKS5AuthError):
            raise _who(proxy) from error
        raise _refused(proxy, host, port, str(error)) from error
    except OSError as error:  # of the lookup of the proxy's name
        raise _no_proxy(proxy, error) from error
    return connection


def _tunnel(host: str, port: int, proxy: Proxy, timeout_s: float) -> socket.socket:
    """Return a connection by HTTP CONNECT (RFC 9110, 9.3.6).

    Not by PySocks: it reads the first line of the answer and leaves what comes later of it to TLS, as if the server
    had said it.
    """
    try:
        sock = socket.create_connection((proxy.host, proxy.port), timeout_s)
    except OSError as error:
        raise _no_proxy(proxy, error) from error
    try:
        status = _ask_tunnel(sock, f"{_bracketed(host)}:{port}", proxy)
    except OSError as error:
        sock.close()
        raise _no_proxy(proxy, error) from error
    if 200 <= status < 300:
        return sock
    sock.close()
    raise _who(proxy) if status == 407 else _refused(proxy, host, port, f"status {status}")


def _ask_tunnel(sock: socket.socket, target: str, proxy: Proxy) -> int:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username:
        who = b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {who}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)  # one at a time: what follows is the other side's
        if not byte or len(head) > MAX_HEAD_BYTES:
            raise ConnectionAbortedError("it ends the connection, or does not speak HTTP")
        head += byte
    words = head.split(b" ", 2)
    return int(words[1]) if len(words) == 3 and words[0].startswith(b"HTTP/") and words[1].isdigit() else 0


def not_reached(error: OSError, host: str, port: int) -> TryAgain:
    """Say in words why a TCP connection did not come about."""
    if isinstance(error, socket.gaierror):
        return TryAgain(
            f"The name {host!r} cannot be looked up: {error.strerror}.",
            code="DNS",
            remedy="Check the device's DNS (/etc/resolv.conf), or whether the name is spelt right.",
        )
    if isinstance(error, ConnectionRefusedError):
        return TryAgain(
            f"Nothing listens on port {port} of {host}: the connection was refused.",
            code="PORT_CLOSED",
            remedy="Check that the server runs and listens there; a firewall may also refuse by itself.",
        )
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
        return TryAgain(
            f"There is no route to {host}: {error.strerror}.",
            code="NO_ROUTE",
            remedy="Check the device's link, address and gateway (ip route).",
        )
    return TryAgain(
        f"Port {port} of {host} does not answer: {error}.",
        code="PORT_BLOCKED",
        remedy=f"Have the firewall open port {port} outwards, use port 443 for everything, or name a proxy.",
    )


def _no_proxy(proxy: Proxy, error: object) -> TryAgain:
    if isinstance(error, socket.gaierror):
        return TryAgain(
            f"The proxy's name {proxy.host!r} cannot be looked up.",
            code="PROXY_DNS",
            remedy="Check `proxy` in config.toml and the device's DNS.",
        )
    return TryAgain(
        f"The proxy {proxy} cannot be reached: {error}.",
        code="PROXY_UNREACHABLE",
        remedy="Check `proxy` in config.toml, and that the proxy runs.",
    )


def _who(proxy: Proxy) -> TryAgain:
    what = "does not take these credentials" if proxy.username else "needs credentials"
    return TryAgain(
        f"The proxy {proxy} {what}.",
        code="PROXY_AUTH",
        remedy='Write them into config.toml: proxy = "SCHEME://USER:PASSWORD@HOST:PORT".',
    )


def _refused(proxy: Proxy, host: str, port: int, why: str) -> TryAgain:
    return TryAgain(
        f"The proxy {proxy} refuses to connect to {host}:{port}: {why}.",
        code="PROXY_REFUSED",
        remedy=f"Have the proxy allow connections to {host}:{port}, or use port 443, which most allow.",
    )


def _of(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.lower()) or ""


def _is_meant(entry: str, host: str, port: int) -> bool:
    """Whether an entry of ``NO_PROXY`` stands for this host."""
    if entry == "*":
        return True
    name, host = entry.lower(), host.lower()
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        pass  # one of them is no address
    head, colon, tail = name.rpartition(":")
    if colon and tail.isdecimal() and not head.endswith(":"):
        return int(tail) == port and _is_meant(head.strip("[]"), host, port)
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
