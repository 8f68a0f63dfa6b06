"""A real mosquitto with the server's own access list, the server's worker that sends chunks, and a device's link."""

from __future__ import annotations

import itertools
import random
import socket
import ssl
from collections import Counter

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.download.chunked import ChunkPolicy, Chunks
from agent.mqtt import Edges, MqttLink
from bundles.wire.chunks import decode_chunk
from control_plane.broker.configuration import BLOBS_NAME, BrokerFiles
from control_plane.broker.connection import Connection
from control_plane.broker.supervisor import Broker, find_mosquitto
from control_plane.db.tables import Device
from control_plane.identity.authority import public_key_pem, write_private
from control_plane.services import certificates
from control_plane.workers.chunks import ChunkSender
from control_plane.workers.revocations import Revocations

RATE = 64 << 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Site:
    """The broker's side of ``served``.

    Attributes:
        network: between the device and the broker.
        lost: says of each chunk on its way to the device whether it gets lost.
        seen: offset -> how often a chunk of it came.
    """

    def __init__(self, served, folder, network_to, until) -> None:
        program = find_mosquitto()
        assert program, "mosquitto is needed: apt-get install mosquitto"
        self.served, self.folder, self._until = served, folder, until
        self.keys = folder / "keys"
        files = BrokerFiles(folder / "broker")
        files.folder.mkdir(mode=0o700)
        port = free_port()
        now = served.now_ms()
        files.device_ca.write_bytes(served.device_ca.certificate_pem)
        own = served.server_ca.issue_server("wavegate", ["127.0.0.1"], now)
        files.certificate.write_bytes(own.certificate_pem)
        write_private(files.key, own.key_pem)
        issued = served.device_ca.issue_client(BLOBS_NAME, now)
        (self.keys / f"{BLOBS_NAME}.pem").write_bytes(issued.certificate_pem)
        write_private(self.keys / f"{BLOBS_NAME}.key", issued.key_pem)
        self.broker = Broker(program, files, "127.0.0.1", port, lambda: None)
        Revocations(served.db, served.device_ca, files.crl, lambda: None, lambda _name: None, served.now_ms).write()
        self.broker.start()
        self.sender = None
        self._port = port
        self.network = network_to(port)
        self.lost = lambda _head: False
        self.seen: Counter[int] = Counter()
        self.link: MqttLink | None = None
        self.start_sender()

    def start_sender(self, rate: float = RATE) -> None:
        """Start (again) who answers asks."""
        if self.sender is not None:
            self.sender.stop()
        connection = Connection(BLOBS_NAME, self.keys, "127.0.0.1", self._port)
        served = self.served
        self.sender = ChunkSender(connection, served.db, served.blobs, served.deltas, served.metadata, rate)
        subscribed = []
        connection.client.on_subscribe = lambda *_: subscribed.append(1)
        self.sender.start()
        self._until(lambda: subscribed, "the sender subscribed")

    def chunks(self, name: str = "cam-1", wait_s: float = 0.3) -> Chunks:
        """A device's source of chunks, its link connected."""
        key = ec.generate_private_key(ec.SECP256R1())
        with self.served.db.write() as session:
            row = session.get(Device, name)
            if row is None:
                row = Device(id=name, public_key_pem=public_key_pem(key.public_key()), enrolled_ms=1)
                session.add(row)
                session.flush()
            pem = certificates.issue(session, self.served.device_ca, row, key.public_key(), self.served.now_ms())
        cert = self.folder / f"{name}.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        cert.write_bytes(pem.encode() + secret)

        def tls():
            context = ssl.create_default_context(cafile=str(self.keys / "server-ca.pem"))
            context.load_cert_chain(cert)
            return context

        edges = Edges(self._down, lambda *_: None, lambda _state: b"{}")
        self.link = MqttLink(name, "127.0.0.1", self.network.port, tls, edges)
        ids = itertools.count()
        self.made = Chunks(
            lambda leaf, payload: self.link.publish(leaf, payload, 0),
            lambda: f"{next(ids):04x}",
            ChunkPolicy(wait_s=wait_s, max_silences=3),
        )
        self.connect()
        return self.made

    def connect(self) -> None:
        """Connect the device's link, and wait until it is subscribed: what it asks for would be lost otherwise."""
        self.link.connect()
        self._until(lambda: self.link.connected, "the link is up")

    def reconnect(self) -> None:
        """Connect anew, so that the network's new faults hold."""
        self.link.drop()
        self._until(lambda: not self.link.connected, "the link is down")
        self.connect()

    def _down(self, leaf, payload) -> None:
        head, data = decode_chunk(payload)
        if data:
            self.seen[head.offset] += 1
        if not self.lost(head):
            self.made.take(leaf, payload)

    def stop(self) -> None:
        if self.link is not None:
            self.link.close()
        self.sender.stop()
        self.broker.stop()


@pytest.fixture
def site(served, tmp_path, network_to, until):
    site = Site(served, tmp_path, network_to, until)
    yield site
    site.stop()


@pytest.fixture
def losing():
    """Loses one chunk of so many on its way, by a seed that is printed."""

    def make(one_in: int, seed: int):
        print(f"seed {seed}")
        draw = random.Random(seed)
        return lambda head: draw.randrange(one_in) == 0

    return make
