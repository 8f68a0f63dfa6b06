"""A real control plane as a process with its real broker on both its ports, real nginx, and proxies of our own between.

The server runs once for all tests; every test enrols devices of its own. A ``Wire`` is a device without models: the
agent's own spool, link, MQTT and HTTPS, on a line of its own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import select
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from agent.config import AgentConfig, dump_config
from agent.core import route
from agent.core.retry import Backoff
from agent.https import DeviceDoor, open_client
from agent.identity import write_durably
from agent.mqtt import Edges, MqttLink
from agent.proxy import read_proxies
from agent.runner import link
from agent.runner.credentials import Credentials, enroll_over_https, first_clock_ms
from agent.runner.link import Hooks, Link
from agent.runner.schedule import Schedule, SteadyClock
from agent.runner.wiring import broker_ways
from agent.spool import Spool
from bundles.wire import codec
from bundles.wire.messages import Presence
from control_plane.identity.authority import Authority, write_private

BIN = Path(sys.executable).parent
DOCS = Path(__file__).parents[3] / "docs" / "nginx"
HOST = "127.0.0.1"
LIMIT_S = 40.0
SETTINGS = """
publish_s = 0.1
mqtt_ws_port = {ws}
[profile]
poll_s = 3600
"""


def wait_until(condition, what: str, seconds: float = LIMIT_S):
    """Poll until true; the limit only ends a broken run."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not in {seconds} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class House:
    """The server, always at the same ports."""

    def __init__(self, home: Path) -> None:
        self.home, self.data, self.process = home, home / "data", None
        self.environment = {**os.environ, "WAVEGATE_KEY_PASSPHRASE": "correct horse battery"}
        self.ports = {"--port": free_port(), "--device-port": free_port(), "--mqtt-port": free_port()}
        self.https, self.mqtt, self.websocket = self.ports["--device-port"], self.ports["--mqtt-port"], free_port()
        self.url = f"https://{HOST}:{self.https}"
        self._do("trust", "init", "--dir", "ceremony", "--server", "data", "--team", "vision")
        (self.data / "settings.toml").write_text(SETTINGS.format(ws=self.websocket))
        token = self._do("server", "create-admin", "ada", "--dir", self.data).strip()
        self.api = httpx.Client(
            base_url=f"http://{HOST}:{self.ports['--port']}", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )

    @property
    def server_ca(self) -> str:
        return (self.data / "keys" / "server-ca.pem").read_text()

    @property
    def broker_pid(self) -> int:
        return int((self.data / "broker" / "mosquitto.pid").read_text())

    def start(self) -> None:
        ready = self.home / "ready.json"
        ports = [text for flag, port in self.ports.items() for text in (flag, str(port))]
        command = [BIN / "wavegate", "server", "run", "--dir", self.data, *ports, "--ready-file", ready]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        def is_ready():
            assert self.process.poll() is None, (self.home / "server.log").read_text()
            return ready.exists()

        wait_until(is_ready, "the server ready")

    def stop(self) -> None:
        self.api.close()
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def token(self) -> str:
        made = self.api.post("/api/v1/devices/enroll-tokens", json={"uses": 1, "life_s": 3600})
        assert made.is_success, made.text
        return made.json()["token"]

    def stored(self, device: str) -> list[str]:
        """Return the details of a device's events as they are in the database."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'wavegate.db'}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT detail FROM device_event WHERE device = ? AND kind = 'note'", (device,))
            return [row[0] for row in rows.fetchall()]

    def authority(self, name: str) -> Authority:
        return Authority.open_or_create(self.data / "keys", name, now_ms())

    def _do(self, *line: object) -> str:
        done = subprocess.run(
            [str(BIN / "wavegate"), *map(str, line)], cwd=self.home, env=self.environment, capture_output=True,
            text=True, timeout=60, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    made = House(tmp_path_factory.mktemp("house"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


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
                back = threading.Thread(target=self._copy, args=(outer, inner), daemon=True)
                back.start()
                outer.sendall(first)
                self._copy(inner, outer)
                back.join()

    def _copy(self, source: ssl.SSLSocket, sink: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if b" HTTP/1.1\r\n" in data:
                    self.read.append(data.partition(b"\r\n")[0])
                sink.sendall(data)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sink, socket.SHUT_RDWR)


def write_pair(folder: Path, authority: Authority, name: str, names=(HOST, "localhost")) -> tuple[Path, Path]:
    """Write a server's certificate and key, issued by ``authority``."""
    issued = authority.issue_server(name, list(names), now_ms())
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(issued.certificate_pem)
    write_private(key, issued.key_pem)
    return certificate, key


class Nginx:
    """nginx with one of the examples of docs/nginx, its ports and files replaced and nothing else."""

    def __init__(self, folder: Path, kind: str, replaced: dict[str, str]) -> None:
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        assert program, "nginx is needed: apt-get install nginx-light libnginx-mod-stream"
        module = next((path for path in Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so")), None)
        assert module, "nginx's stream module is needed: apt-get install libnginx-mod-stream"
        self.port = free_port()
        text = (DOCS / f"{kind}.conf").read_text()
        for old, new in {"listen 443": f"listen {HOST}:{self.port}", **replaced}.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "example.conf").write_text(text)
        room = "stream" if kind == "stream" else "http"
        temps = "".join(
            f"{one}_temp_path {folder / one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"load_module {module};\npid {folder / 'pid'};\nerror_log {folder / 'error.log'};\nworker_processes 1;\n"
            f"events {{ worker_connections 256; }}\n"
            f"{room} {{ {temps + 'access_log off;' if room == 'http' else ''} include {folder / 'example.conf'}; }}\n"
        )
        with (folder / "out.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log", "-g", "daemon off;"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

        def listens():
            assert self._process.poll() is None, (folder / "out.log").read_text() + (folder / "error.log").read_text()
            return accepts(self.port)

        wait_until(listens, "nginx listening")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)


class Wire:
    """One device's way to the control plane, without anything to run."""

    def __init__(self, house: House, folder: Path, config: AgentConfig, keepalive_s: int = 30) -> None:
        self.house, self.folder = house, folder
        self.credentials = Credentials(loaded(folder), clock_ms=first_clock_ms, extra=extra_of(config))
        identity = self.credentials.identity
        self.device, self.clock = identity.device, SteadyClock()
        proxies = read_proxies(config.proxy, config.no_proxy, {})
        url = identity.enrolment.url
        self._client = open_client(url, self.credentials.server_context(), proxy=proxies.to_url(url))
        self.door = DeviceDoor(self._client, self.device, self.credentials.key)
        self.schedule, self.troubles, self.told, self.states = Schedule(self.clock.now_ms), [], 0, []
        self.spool = Spool(folder / "spool.db", self.device)
        broker, ways = identity.enrolment.mqtt, broker_ways(config, identity.enrolment.mqtt)
        edges = Edges(self._down, self._state, self._presence)
        self.transport = None
        if broker is not None and ways:
            self.transport = MqttLink(
                self.device, broker.host, broker.port, self.credentials.broker_context, edges, keepalive_s,
                websocket_port=broker.websocket_port, proxies=proxies,
            )  # fmt: skip
        self.down: list[tuple[str, bytes]] = []
        hooks = Hooks(
            lambda _: None, lambda: None, lambda: None, self._heartbeat, on_trouble=self.troubles.append,
        )  # fmt: skip
        self.link = Link(
            self.schedule, self.device, self.door, self.transport, self.spool, hooks, random.Random(7),
            self.clock.wall_ms, 3600.0, ways or ("mqtt",),
        )  # fmt: skip
        self._thread = threading.Thread(target=self.schedule.run, daemon=True)
        self._thread.start()
        self.call(self.link.start)

    def call(self, work):
        """Run ``work`` on the line and return what it returns."""
        done, result = threading.Event(), []

        def run():
            result.append(work())
            done.set()

        self.schedule.soon(run)
        assert done.wait(LIMIT_S)
        return result[0]

    def tell(self, count: int) -> None:
        """Queue so many events, each with a number of its own, and have them sent."""

        def add():
            for _ in range(count):
                self.told += 1
                self.spool.add_event("note", at_ms=self.clock.wall_ms(), detail=str(self.told))
            self.link.flush()

        self.call(add)

    @property
    def route(self) -> str:
        return self.call(lambda: self.link.route)

    def on_route(self, way: str) -> None:
        """Wait until reports travel by ``way``."""
        wait_until(lambda: self.route == way, f"the way {way}; now {self.route}, {self.troubles[-3:]}")

    def arrived(self) -> None:
        """Wait until everything told is in the database, and check that it is there once."""
        wanted = sorted(map(str, range(1, self.told + 1)))
        wait_until(lambda: len(self.house.stored(self.device)) >= self.told, "all reports stored")
        assert sorted(self.house.stored(self.device)) == wanted

    def emptied(self) -> None:
        """Wait until the application acks have emptied the spool."""
        wait_until(lambda: self.call(lambda: self.spool.status().pending) == 0, "an empty spool")

    def codes(self) -> list[str]:
        return [error.code for error in self.troubles if error is not None]

    def close(self) -> None:
        self.call(lambda: self.link.close(self._presence("going_offline")))
        self.schedule.stop()
        self._thread.join(10)
        self.spool.close()
        self._client.close()

    def _down(self, leaf: str, payload: bytes) -> None:
        self.down.append((leaf, payload))
        self.link.on_down(leaf, payload)

    def _state(self, is_up: bool, reason: str) -> None:
        self.states.append((is_up, reason))
        self.link.on_state(is_up, reason)

    def _presence(self, state) -> bytes:
        return codec.encode(Presence(self.device, 1, self.clock.wall_ms(), state))

    def _heartbeat(self) -> bytes:
        return self._presence("online")


def extra_of(config: AgentConfig) -> list[bytes]:
    if not config.extra_ca:
        return []
    pems = x509.load_pem_x509_certificates(Path(config.extra_ca).read_bytes())
    from cryptography.hazmat.primitives.serialization import Encoding

    return [one.public_bytes(Encoding.DER) for one in pems]


def loaded(folder: Path):
    from agent.identity import load_identity

    return load_identity(folder / "identity")


class Site:
    """Where a test makes its devices, gates and proxies; all end with it."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house, self.folder, self._stack = house, folder, contextlib.ExitStack()

    def enrol(self, name: str, *, url: str = "", mqtt: int = 0, websocket: int = 0, **how) -> Path:
        """Enrol a device; where ports are named, it is made to believe that these are the server's."""
        folder = self.folder / name
        enroll_over_https(
            folder / "identity", url=url or self.house.url, token=self.house.token(),
            server_ca_pem=self.house.server_ca, name=name, **how,
        )  # fmt: skip
        path = folder / "identity" / "enrolment.json"
        said = json.loads(path.read_bytes())
        assert said["mqtt"]["websocket_port"] == self.house.websocket, "the server tells of its WebSocket port"
        said["mqtt"]["port"], said["mqtt"]["websocket_port"] = mqtt or said["mqtt"]["port"], websocket
        path.write_text(json.dumps(said))
        return folder

    def wire(self, folder: Path, keepalive_s: int = 30, **settings) -> Wire:
        made = Wire(self.house, folder, AgentConfig(**settings), keepalive_s)
        self._stack.callback(made.close)
        return made

    def configure(self, folder: Path, **settings) -> None:
        """Write the settings that ``doctor`` and the agent read."""
        write_durably(folder / "config.toml", dump_config(AgentConfig(**settings)).encode())

    def add(self, thing):
        self._stack.callback(thing.close)
        return thing

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def site(house, monkeypatch):
    """A place for devices that come back within moments, so that tests do not wait for backoffs."""
    monkeypatch.setattr(route, "RECONNECT", Backoff(base_s=0.05, cap_s=0.2, floor_s=0.02))
    monkeypatch.setattr(route, "LOOK_AGAIN", Backoff(base_s=0.2, cap_s=0.3, floor_s=0.1))
    monkeypatch.setattr(link, "POLL_AGAIN", Backoff(base_s=0.1, cap_s=0.5))
    monkeypatch.setattr(link, "FALLBACK_AFTER_MS", 300)
    monkeypatch.setattr(link, "STABLE_MS", 200)
    monkeypatch.setattr(link, "FIRST_CONNECT_S", 0.0)
    monkeypatch.setattr(link, "FLUSH_S", 0.2)
    with tempfile.TemporaryDirectory(prefix="wg-") as folder:
        made = Site(house, Path(folder))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def until():
    return wait_until


@pytest.fixture
def gate(site):
    return lambda target: site.add(Gate(target))


@pytest.fixture
def proxy(site):
    return lambda *who, **how: site.add(Proxy(*who, **how))


@pytest.fixture
def inspector(site, tmp_path):
    """Return a function that runs an inspecting proxy; (proxy, path of its CA's PEM file)."""

    def make(**how):
        folder = tmp_path / "inspector"
        authority = Authority.open_or_create(folder, "Corporate Inspection CA", now_ms())
        (folder / "ca.pem").write_bytes(authority.certificate_pem)
        return site.add(InspectingProxy(folder, authority, **how)), folder / "ca.pem"

    return make


@pytest.fixture
def nginx(site, house, tmp_path):
    """Return a function that runs nginx on one of the examples; ``front`` issues its certificate for ``https``."""

    def make(kind: str, front: Authority | None = None):
        folder = tmp_path / f"nginx-{kind}"
        folder.mkdir()
        folder.chmod(0o755)
        ports = {f"{HOST}:8443": f"{HOST}:{house.https}"}
        if kind == "stream":
            ports |= {f"{HOST}:8883": f"{HOST}:{house.mqtt}", f"{HOST}:8884": f"{HOST}:{house.websocket}"}
            return site.add(Nginx(folder, kind, ports))
        write_pair(folder, front, "front")
        (folder / "server-ca.pem").write_text(house.server_ca)
        return site.add(Nginx(folder, kind, {**ports, "/etc/nginx/wavegate": str(folder)}))

    return make
