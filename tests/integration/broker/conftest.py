"""A private broker with its authorities, its database and its revocations, as the server sets them up."""

from __future__ import annotations

import datetime as dt
import queue
import shutil
import socket
import ssl
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bundles.wire.messages import Profile
from control_plane.broker.configuration import INGEST_NAME, PUBLISH_NAME, BrokerFiles
from control_plane.broker.connection import Connection, Teller
from control_plane.broker.eviction import evict
from control_plane.broker.supervisor import Broker, find_mosquitto
from control_plane.db.engine import Database
from control_plane.db.tables import Device
from control_plane.identity.authority import Authority, public_key_pem, write_private
from control_plane.ingest.consumer import Consumer
from control_plane.services import certificates, desired, devices
from control_plane.workers.revocations import Revocations

WAIT_S = 20.0
PEM = serialization.Encoding.PEM


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def until(condition) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.02)


class Thing:
    """Somebody at the broker with a certificate; remembers what really arrives, and every connection's end."""

    def __init__(self, site: Site, name: str, pair: tuple[bytes, bytes], *, client_id: str = "", clean: bool = True):
        self.name, self.arrived, self.ends = name, queue.Queue(), 0
        self.subscribed, self.answered = threading.Event(), threading.Event()
        self.is_up = False
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or name,
            protocol=mqtt.MQTTv5,
            reconnect_on_failure=False,
        )
        folder = site.folder / f"thing-{time.monotonic_ns()}"
        folder.mkdir()
        (folder / "cert.pem").write_bytes(pair[0])
        write_private(folder / "key.pem", pair[1])
        context = ssl.create_default_context(cafile=str(site.keys / "server-ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self.client.tls_set_context(context)
        self.client.on_connect = self._connected
        self.client.on_disconnect = self._ended
        self.client.on_message = lambda _c, _u, m: self.arrived.put((m.topic, m.payload))
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.port, self.clean = site.port, clean

    def connect(self, *filters: str) -> bool:
        """Whether the broker takes us; subscribes to ``filters`` where it does."""
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        try:
            self.client.connect("127.0.0.1", self.port, clean_start=self.clean, properties=properties)
        except OSError:
            return False
        self.client.loop_start()
        assert self.answered.wait(WAIT_S), "neither taken nor turned away"
        if self.is_up and filters:
            self.client.subscribe([(one, 1) for one in filters])
            assert self.subscribed.wait(WAIT_S)
        return self.is_up

    def say(self, topic: str, payload: bytes, **options) -> mqtt.MQTTMessageInfo:
        return self.client.publish(topic, payload, qos=1, **options)

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client.reinitialise()

    def _connected(self, _client, _userdata, _flags, reason, _properties) -> None:
        self.is_up = not reason.is_failure
        self.answered.set()

    def _ended(self, *_) -> None:
        self.is_up, self.ends = False, self.ends + 1
        self.answered.set()


class Site:
    """Everything of a server that has to do with its broker."""

    def __init__(self, folder: Path, db: Database) -> None:
        program = find_mosquitto()
        assert program, "mosquitto is needed: apt-get install mosquitto"
        self.folder, self.db, self.keys = folder, db, folder / "keys"
        self.server_ca = Authority.open_or_create(self.keys, "server-ca", now_ms())
        self.device_ca = Authority.open_or_create(self.keys, "device-ca", now_ms())
        self.files = BrokerFiles(folder / "broker")
        self.files.folder.mkdir(mode=0o700)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.files.device_ca.write_bytes(self.device_ca.certificate_pem)
        own = self.server_ca.issue_server("wavegate", ["127.0.0.1"], now_ms())
        self.files.certificate.write_bytes(own.certificate_pem)
        write_private(self.files.key, own.key_pem or b"")
        for name in (INGEST_NAME, PUBLISH_NAME):
            issued = self.device_ca.issue_client(name, now_ms())
            (self.keys / f"{name}.pem").write_bytes(issued.certificate_pem)
            write_private(self.keys / f"{name}.key", issued.key_pem or b"")
        self.broker = Broker(program, self.files, "127.0.0.1", self.port, lambda: None)
        self.evicted: list[str] = []
        self.clock_ms = now_ms
        self.revocations = Revocations(
            db, self.device_ca, self.files.crl, self.broker.reload, self._evict, lambda: self.clock_ms()
        )
        self.revocations.write()
        self.broker.start()
        self.heard: list[tuple[str, str, bytes]] = []
        self.ingest = Connection(INGEST_NAME, self.keys, "127.0.0.1", self.port, manual_ack=True)
        Consumer(self.ingest, self._put)
        self.publisher = Connection(PUBLISH_NAME, self.keys, "127.0.0.1", self.port)
        self.teller = Teller(self.publisher)
        self.ingest.start()
        self.publisher.start()
        until(lambda: self.ingest.is_connected and self.publisher.is_connected)
        self.things: list[Thing] = []

    def stop(self) -> None:
        for thing in self.things:
            thing.stop()
        self.ingest.stop()
        self.publisher.stop()
        self.broker.stop()

    def enrol(self, name: str) -> tuple[bytes, bytes]:
        """Make a device as enrolment does; return certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        with self.db.write() as session:
            row = Device(id=name, public_key_pem=public_key_pem(key.public_key()), enrolled_ms=now_ms())
            session.add(row)
            session.flush()
            desired.ensure_desired(session, name, Profile(), now_ms())
            pem = certificates.issue(session, self.device_ca, row, key.public_key(), now_ms())
        return pem.encode(), _key_pem(key)

    def renew(self, name: str) -> tuple[bytes, bytes]:
        """Give a device one more certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        with self.db.write() as session:
            pem = certificates.issue(session, self.device_ca, session.get(Device, name), key.public_key(), now_ms())
        return pem.encode(), _key_pem(key)

    def forge(self, name: str, ends_s: int = 3600) -> tuple[bytes, bytes]:
        """Have the device CA sign any name and end, as its thief could (enrolment never does)."""
        life = dt.timedelta(seconds=ends_s)
        issued = self.device_ca.issue_client(name, now_ms(), life)
        return issued.certificate_pem, issued.key_pem or b""

    def thing(self, name: str, pair: tuple[bytes, bytes] | None = None, **options) -> Thing:
        made = Thing(self, name, pair or self.enrol(name), **options)
        self.things.append(made)
        return made

    def tell(self, device: str, payload: bytes) -> None:
        info = self.teller.publish(device, "down/desired", payload, retain=True)
        assert info is not None
        info.wait_for_publish(WAIT_S)

    def revoke(self, device: str) -> None:
        with self.db.write() as session:
            devices.end(session, device, "revoked", reason="", actor="ada", now_ms=now_ms())

    def _evict(self, device: str) -> None:
        issued = self.device_ca.issue_eviction(device, now_ms())
        evict(device, issued.pair_pem, self.server_ca.certificate_pem, "127.0.0.1", self.port)
        self.evicted.append(device)

    def _put(self, delivery) -> None:
        self.heard.append((delivery.inbound.device, delivery.inbound.leaf, delivery.inbound.payload))
        delivery.stored()


def _key_pem(key) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@pytest.fixture
def site(tmp_path, sqlite_template):
    shutil.copy(sqlite_template, tmp_path / "wavegate.db")
    db = Database(f"sqlite:///{tmp_path / 'wavegate.db'}")
    made = Site(tmp_path, db)
    yield made
    made.stop()
    db.close()
