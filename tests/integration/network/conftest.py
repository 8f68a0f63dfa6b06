"""A bad network between the real download client and the real server: a proxy whose faults are one line to arrange."""

from __future__ import annotations

import contextlib
import fcntl
import random
import select
import shutil
import socket
import ssl
import struct
import termios
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI

from agent.core.retry import Backoff
from agent.download import DownloadPolicy, fetch_blob
from agent.https import DeviceDoor, open_client
from agent.runner.blobs import ServerSource
from agent.store import LocalFileSystem, Store
from bundles.digest import sha256_hex
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.wire.messages import Profile
from control_plane.api import problems
from control_plane.api.device import DeviceDoors, NonceHeader, device_router
from control_plane.db.engine import Database
from control_plane.db.tables import Device, Release
from control_plane.identity.authority import Authority
from control_plane.identity.nonce import Nonces
from control_plane.services.deltas import Deltas
from control_plane.storage import Blobs

LIMIT_S = 60.0
LATE_S = 0.05
POLICY = DownloadPolicy(max_tries=3, backoff=Backoff(0.02, 0.05, 0.01))
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 27\r\n\r\n<html>Please sign in</html>"
MOVED = b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/login\r\nContent-Length: 0\r\n\r\n"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def wait_until(condition, what: str):
    """Poll until true; the limit only ends a broken run."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not in {LIMIT_S} s: {what}")


@dataclass
class Faults:
    """What the network does to every connection from now on.

    Attributes:
        cuts: bytes downward after which the next connections are reset, one entry each; then none is.
        stalls: the same, but the connection just goes quiet.
        latency_s: before each piece downward.
        rate: bytes a second downward; 0 = as fast as it goes.
        answer: said to whoever connects, in place of the server.
        is_half_open: connections are taken and nothing is ever said.
        is_closed: connections are refused.
        ends_with_cut: the first reset is also the end: connections are refused from then on.
        late: how much of what comes downward is late by ``LATE_S``: what a lost packet is to whoever reads from TCP.
        draw: decides which.
        episodes: what the next connections meet in place of all this, one entry each.
    """

    cuts: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    latency_s: float = 0.0
    rate: float = 0.0
    answer: bytes = b""
    is_half_open: bool = False
    is_closed: bool = False
    ends_with_cut: bool = False
    late: float = 0.0
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    episodes: list[Faults] = field(default_factory=list)


class Network:
    """A TCP proxy in front of ``port``.

    Attributes:
        faults: what it does.
        down: bytes that reached the client.
        connections: taken so far.
    """

    def __init__(self, port: int) -> None:
        self._port, self.faults, self.down, self.connections = port, Faults(), 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._age = 0
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_all(self) -> None:
        """Have every connection that stands reset, within a moment."""
        self._age += 1

    def close(self) -> None:
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            faults = self.faults.episodes.pop(0) if self.faults.episodes else self.faults
            self._threads.append(threading.Thread(target=self._serve, args=(client, faults), daemon=True))
            self._threads[-1].start()

    def _serve(self, client: socket.socket, faults: Faults) -> None:
        age = self._age
        with contextlib.ExitStack() as ends, contextlib.suppress(OSError):
            ends.callback(_reset, client)
            if faults.is_closed:
                return
            if faults.is_half_open:
                while self._age == age:
                    time.sleep(0.01)
                return
            if faults.answer:
                self._say(client, faults.answer)
                return
            client.settimeout(2.0)
            server = socket.create_connection(("127.0.0.1", self._port), 2.0)
            ends.callback(_reset, server)
            self._pass_on(client, server, faults, age)

    def _say(self, client: socket.socket, answer: bytes) -> None:
        client.settimeout(10.0)
        while client.recv(65536):
            client.sendall(answer)
            self.down += len(answer)

    def _pass_on(self, client: socket.socket, server: socket.socket, faults: Faults, age: int) -> None:
        # One thread for both directions and for closing both: a socket closed under another thread's read stays open.
        cut = faults.cuts.pop(0) if faults.cuts else None
        stall = faults.stalls.pop(0) if faults.stalls else None
        end = min((at for at in (cut, stall) if at is not None), default=None)
        passed = 0
        while self._age == age:
            ready, _, _ = select.select([client, server], [], [], 0.05)
            if client in ready:
                if not (data := client.recv(65536)):
                    return
                server.sendall(data)
            if server in ready and not (end is not None and passed >= end):
                if not (data := server.recv(65536)):
                    _wait_arrived(client)
                    client.shutdown(socket.SHUT_RDWR)
                    return
                time.sleep(faults.latency_s + (len(data) / faults.rate if faults.rate else 0.0))
                if faults.draw.random() < faults.late:
                    time.sleep(LATE_S)
                data = data if end is None else data[: end - passed]
                client.sendall(data)
                passed, self.down = passed + len(data), self.down + len(data)
                if passed == cut:
                    faults.is_closed = faults.ends_with_cut
                    _wait_arrived(client)
                    return


def _wait_arrived(sock: socket.socket) -> None:
    """Wait until everything sent has arrived: a reset throws the rest away, which then was not sent either."""
    deadline = time.monotonic() + 0.3  # whoever has stopped reading gets no more
    while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0] and time.monotonic() < deadline:
        time.sleep(0.001)


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


class Served:
    """The server's doors on a real port, one device, and a network between them.

    Attributes:
        asked: (path, status) of every request that reached the server, in order.
    """

    def __init__(self, folder: Path, db: Path) -> None:
        self.db = Database(f"sqlite:///{db}")
        self.folder, self.blobs = folder / "blobs", Blobs.at(folder / "blobs")
        self.deltas = Deltas(self.db, self.blobs, scratch=folder)
        self.metadata = folder / "metadata"
        self.metadata.mkdir()
        self.device_ca = Authority.open_or_create(folder / "keys", "device-ca", now_ms())
        self.server_ca = Authority.open_or_create(folder / "keys", "server-ca", now_ms())
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.asked: list[tuple[str, int]] = []
        pem = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with self.db.write() as session:
            session.add(Device(id="cam-1", public_key_pem=pem.decode(), enrolled_ms=now_ms()))
        self.listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(self._app(), log_config=None, access_log=False, lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        self.network = Network(self.listener.getsockname()[1])
        self.clients: list[httpx.Client] = []

    def _app(self) -> FastAPI:
        nonces = Nonces(b"n" * 32)
        doors = DeviceDoors(
            db=self.db,
            blobs=self.blobs,
            metadata_dir=self.metadata,
            authority=self.device_ca,
            server_ca_pem="",
            nonces=nonces,
            sign=msgspec.json.encode,
            ingest=lambda *_: pytest.fail("nothing is reported here"),
            committed=lambda _: None,
            profile=Profile(),
            broker=lambda: None,
            now_ms=now_ms,
            deltas=self.deltas,
        )
        app = FastAPI()
        problems.install(app)
        app.include_router(device_router(doors))
        app.add_middleware(NonceHeader, nonce=lambda: nonces.current(now_ms()))

        async def listened(scope, receive, send):
            async def heard(message):
                if message["type"] == "http.response.start" and message["status"] != 401:
                    self.asked.append((scope["path"], message["status"]))
                await send(message)

            await app(scope, receive, heard)

        return listened

    @staticmethod
    def now_ms() -> int:
        """The server's clock."""
        return now_ms()

    def door(self, timeout_s: float = 5.0) -> DeviceDoor:
        """The device's door, over the network."""
        url = f"http://127.0.0.1:{self.network.port}"
        self.clients.append(open_client(url, ssl.create_default_context(), timeout_s))
        return DeviceDoor(self.clients[-1], "cam-1", lambda: self.key)

    def source(self, timeout_s: float = 5.0) -> ServerSource:
        """The server as a source of blobs, over the network."""
        return ServerSource(self.door(timeout_s))

    def put(self, length: int, seed: int = 1) -> bytes:
        """Store a blob of random bytes; return it."""
        data = random.Random(seed).randbytes(length)
        self.blobs.put(sha256_hex(data), data)
        return data

    def release(self, counter: int, content: bytes) -> str:
        """Publish a release of one model whose only file is ``content``; return the file's digest."""
        self.blobs.put(sha256_hex(content), content)
        manifest = Manifest(
            team="vision",
            model="digits",
            version=f"{counter}.0.0",
            release_counter=counter,
            channel="prod",
            created_ms=0,
            files=[BundleFile("model/m.onnx", sha256_hex(content), len(content), "model")],
            variants=[Variant("a", "onnxruntime", "model/m.onnx")],
        )
        data = encode_manifest(manifest)
        row = Release(
            sha256=sha256_hex(data),
            team="vision",
            model="digits",
            version=manifest.version,
            release_counter=counter,
            channel="prod",
            length=len(data),
            manifest_json=data.decode(),
            publisher="ada",
            published_ms=0,
        )
        with self.db.write() as session:
            session.add(row)
        return sha256_hex(content)

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        self.network.close()
        self.server.should_exit = True
        self.thread.join(10)
        self.listener.close()
        self.deltas.close()
        self.db.close()


@pytest.fixture
def served(tmp_path, sqlite_template):
    shutil.copy(sqlite_template, tmp_path / "wavegate.db")
    served = Served(tmp_path, tmp_path / "wavegate.db")
    yield served
    served.stop()


@pytest.fixture
def until():
    return wait_until


@pytest.fixture
def network_to():
    """Makes a network in front of a port."""
    made = []

    def make(port: int) -> Network:
        made.append(Network(port))
        return made[-1]

    yield make
    for network in made:
        network.close()


@pytest.fixture
def faults():
    return Faults


@pytest.fixture
def portal():
    """What a captive portal says to everything: a page, or where to find one."""
    return {"page": PAGE, "redirect": MOVED}


class Disk:
    """The device's disk."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.store = self.again()

    def again(self) -> Store:
        """The store as a restarted agent opens it."""
        store = Store(LocalFileSystem(self.folder), reserve_bytes=0)
        store.open()
        return store

    def part(self, data: bytes):
        return self.again().blob(sha256_hex(data), len(data))


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path / "device")


@pytest.fixture
def fetch():
    """Fetches a blob as the updater does, with short waits."""

    def call(source, part, **options):
        url = f"/v1/blobs/sha256/{part.sha256}"
        return fetch_blob(source, url, part, sleep=time.sleep, draw=lambda: 0.5, policy=POLICY, **options)

    return call
