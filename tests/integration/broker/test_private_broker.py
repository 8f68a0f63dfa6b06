"""The private mosquitto as it is really configured: who may connect, who hears what, and that it comes back."""

from __future__ import annotations

import os
import queue
import signal
import socket
import ssl
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from bundles.errors import AskPerson
from bundles.wire import topics
from control_plane.broker.configuration import INGEST_NAME, PUBLISH_NAME, BrokerFiles
from control_plane.broker.connection import Connection, Teller
from control_plane.broker.supervisor import Broker, find_mosquitto
from control_plane.identity.authority import Authority, Issued, write_private
from control_plane.ingest.consumer import Consumer

WAIT_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class House:
    """A broker with its two authorities, as the server sets them up."""

    def __init__(self, folder: Path) -> None:
        program = find_mosquitto()
        assert program, "mosquitto is needed: apt-get install mosquitto"
        self.keys = folder / "keys"
        self.server_ca = Authority.open_or_create(self.keys, "server-ca", now_ms())
        self.device_ca = Authority.open_or_create(self.keys, "device-ca", now_ms())
        self.files = BrokerFiles(folder / "broker")
        self.files.folder.mkdir(mode=0o700)
        self.port = free_port()
        self.came_back = threading.Event()
        self.files.device_ca.write_bytes(self.device_ca.certificate_pem)
        own = self.server_ca.issue_server("wavegate", ["127.0.0.1"], now_ms())
        self.files.certificate.write_bytes(own.certificate_pem)
        write_private(self.files.key, own.key_pem)
        self.files.crl.write_bytes(self.device_ca.revocation_list([], now_ms()))
        for name in (INGEST_NAME, PUBLISH_NAME):
            self.give(name, self.device_ca.issue_client(name, now_ms()))
        self.program = program
        self.broker = Broker(program, self.files, "127.0.0.1", self.port, self.came_back.set)
        self.broker.start()

    def give(self, name: str, issued: Issued) -> None:
        (self.keys / f"{name}.pem").write_bytes(issued.certificate_pem)
        write_private(self.keys / f"{name}.key", issued.key_pem)

    def device(self, name: str) -> Issued:
        """Give ``name`` a certificate as enrolment would; return it."""
        key = ec.generate_private_key(ec.SECP256R1())
        from cryptography.hazmat.primitives import serialization

        issued = self.device_ca.issue_device(name, key.public_key(), now_ms())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.give(name, Issued(issued.certificate_pem, pem, issued.serial, issued.expires_ms))
        return issued

    def connection(self, name: str, **options) -> Connection:
        return Connection(name, self.keys, "127.0.0.1", self.port, **options)


@pytest.fixture
def house(tmp_path: Path):
    built = House(tmp_path)
    yield built
    built.broker.stop()


class Listener:
    """A device's connection that subscribes to whatever it likes and remembers what really arrives."""

    def __init__(self, house: House, name: str, *filters: str) -> None:
        self.arrived: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.subscribed = threading.Event()
        self.connection = house.connection(name)
        client = self.connection.client
        client.on_message = lambda _c, _u, message: self.arrived.put((message.topic, message.payload))
        client.on_subscribe = lambda *_: self.subscribed.set()
        client.on_connect = lambda c, *_: c.subscribe([(f, SubscribeOptions(qos=1)) for f in filters])
        self.connection.start()

    def wait(self) -> Listener:
        assert self.subscribed.wait(WAIT_S), "no connection"
        return self

    def next(self) -> tuple[str, bytes]:
        return self.arrived.get(timeout=WAIT_S)

    def stop(self) -> None:
        self.connection.stop()


def until(condition) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.02)


def test_a_device_hears_and_says_only_what_is_its_own(house: House) -> None:
    house.device("cam-1")
    house.device("cam-2")
    publisher = house.connection(PUBLISH_NAME)
    publisher.start()
    nosy = Listener(house, "cam-1", "#", "wg/1/d/+/down/#", "wg/1/d/cam-2/down/desired", "$SYS/#").wait()
    other = Listener(house, "cam-2", "wg/1/d/cam-2/down/#").wait()
    heard: list[tuple[str, str]] = []
    ingest = house.connection(INGEST_NAME, manual_ack=True)

    def put(delivery) -> None:
        heard.append((delivery.inbound.device, delivery.inbound.leaf))
        delivery.stored()

    Consumer(ingest, put)
    ingest.start()
    until(lambda: publisher.is_connected and ingest.is_connected)
    teller = Teller(publisher)
    for device in ("cam-2", "cam-1"):
        info = teller.publish(device, topics.DOWN_DESIRED, device.encode(), retain=True)
        info.wait_for_publish(WAIT_S)
    assert nosy.next() == ("wg/1/d/cam-1/down/desired", b"cam-1"), "its own, and not the one told before it"
    assert other.next() == ("wg/1/d/cam-2/down/desired", b"cam-2")

    client = nosy.connection.client
    client.publish("wg/1/d/cam-2/up/event", b"in another's name", qos=1)
    client.publish("wg/1/d/cam-2/down/desired", b"forged", qos=1, retain=True)
    client.publish("wg/1/d/cam-1/down/desired", b"forged", qos=1, retain=True)
    client.publish("wg/1/d/cam-1/up/event", b"its own", qos=1)
    until(lambda: heard)
    client.publish("wg/1/d/cam-1/up/event", b"its own", qos=1)
    until(lambda: len(heard) >= 2)
    assert set(heard) == {("cam-1", topics.UP_EVENT)}
    late = Listener(house, "cam-2", "wg/1/d/cam-2/down/#").wait()
    assert late.next() == ("wg/1/d/cam-2/down/desired", b"cam-2"), "the retained message was not forged"
    while not nosy.arrived.empty():
        assert nosy.next() == ("wg/1/d/cam-1/down/desired", b"cam-1"), "once for each filter, and nobody else's"
    for part in (nosy, other, late, publisher, ingest):
        part.stop()


@pytest.mark.parametrize("show", ["nothing", "another CA's certificate", "a revoked certificate"])
def test_without_a_good_certificate_nobody_connects(house: House, tmp_path: Path, show: str) -> None:
    context = ssl.create_default_context(cafile=str(house.keys / "server-ca.pem"))
    if show == "another CA's certificate":
        foreign = Authority.open_or_create(tmp_path / "foreign", "device-ca", now_ms())
        house.give("cam-9", foreign.issue_client("cam-9", now_ms()))
        context.load_cert_chain(house.keys / "cam-9.pem", house.keys / "cam-9.key")
    elif show == "a revoked certificate":
        issued = house.device("cam-9")
        context.load_cert_chain(house.keys / "cam-9.pem", house.keys / "cam-9.key")
        assert try_connect(house.port, context), "it was good before"
        house.files.crl.write_bytes(house.device_ca.revocation_list([issued.serial], now_ms()))
        house.broker.reload()
        house.device("cam-8")
        fine = Listener(house, "cam-8", "wg/1/d/cam-8/down/#").wait()
        fine.stop()
        until(lambda: not try_connect(house.port, context))
        return
    assert not try_connect(house.port, context)


def try_connect(port: int, context: ssl.SSLContext) -> bool:
    """Whether an MQTT CONNECT over ``context`` is accepted."""
    result: queue.Queue[bool] = queue.Queue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.tls_set_context(context)
    client.on_connect = lambda _c, _u, _f, reason, _p: result.put(not reason.is_failure)
    try:
        client.connect("127.0.0.1", port)
    except (ssl.SSLError, OSError):
        return False
    client.loop_start()
    try:
        return result.get(timeout=3)
    except queue.Empty:
        return False
    finally:
        client.disconnect()
        client.loop_stop()


def test_a_killed_broker_comes_back_and_unacknowledged_messages_are_sent_again(house: House) -> None:
    house.device("cam-1")
    held: list = []
    ingest = house.connection(INGEST_NAME, manual_ack=True)
    Consumer(ingest, held.append)
    ingest.start()
    device = Listener(house, "cam-1", "wg/1/d/cam-1/down/#").wait()
    until(lambda: ingest.is_connected)
    device.connection.client.publish(topics.topic("cam-1", topics.UP_EVENT), b"one", qos=1).wait_for_publish(WAIT_S)
    until(lambda: len(held) == 1)
    # Not acknowledged: a new connection of the same session must be given it again.
    ingest.stop()
    again: list = []
    second = house.connection(INGEST_NAME, manual_ack=True)
    Consumer(second, again.append)
    second.start()
    until(lambda: len(again) == 1)
    assert again[0].inbound == held[0].inbound
    again[0].stored()

    before = house.broker.pid
    os.kill(before, signal.SIGKILL)
    assert house.came_back.wait(WAIT_S)
    assert house.broker.pid not in (None, before)
    assert house.broker.restarts == 1
    until(lambda: device.connection.is_connected and second.is_connected)
    device.connection.client.publish(topics.topic("cam-1", topics.UP_EVENT), b"two", qos=1).wait_for_publish(WAIT_S)
    until(lambda: any(d.inbound.payload == b"two" for d in again))
    device.stop()
    second.stop()


def test_a_broker_left_by_a_killed_server_is_ended_and_a_stranger_on_the_port_is_not(house: House) -> None:
    left = house.broker.pid
    second = Broker(house.program, house.files, "127.0.0.1", house.port, lambda: None)
    house.broker._stopping.set()  # the first server was killed: nobody restarts its broker
    second.start()
    assert second.pid not in (None, left)
    second.stop()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", house.port))
        stranger.listen()
        third = Broker(house.program, house.files, "127.0.0.1", house.port, lambda: None)
        with pytest.raises(AskPerson) as caught:
            third.start()
        assert caught.value.code == "PORT_IN_USE"


def test_the_session_survives_a_stopped_server(house: House) -> None:
    house.device("cam-1")
    first = house.connection(INGEST_NAME, manual_ack=True)
    Consumer(first, lambda delivery: delivery.stored())
    first.start()
    device = Listener(house, "cam-1", "wg/1/d/cam-1/down/#").wait()
    until(lambda: first.is_connected)
    time.sleep(0.2)  # its subscription is under way
    first.stop()
    device.connection.client.publish(topics.topic("cam-1", topics.UP_EVENT), b"meanwhile", qos=1).wait_for_publish(
        WAIT_S
    )
    got: list = []
    second = house.connection(INGEST_NAME, manual_ack=True)
    Consumer(second, got.append)
    second.start()
    until(lambda: [d.inbound.payload for d in got] == [b"meanwhile"])
    device.stop()
    second.stop()


def test_a_too_large_packet_is_not_taken_in_and_others_still_are(house: House) -> None:
    house.device("cam-1")
    house.device("cam-2")
    heard: list[int] = []

    def put(delivery) -> None:
        heard.append(len(delivery.inbound.payload))
        delivery.stored()

    ingest = house.connection(INGEST_NAME, manual_ack=True)
    Consumer(ingest, put)
    ingest.start()
    large = Listener(house, "cam-1", "wg/1/d/cam-1/down/#").wait()
    small = Listener(house, "cam-2", "wg/1/d/cam-2/down/#").wait()
    until(lambda: ingest.is_connected)
    large.connection.client.publish("wg/1/d/cam-1/up/event", b"x" * 300_000, qos=1)
    until(lambda: not large.connection.is_connected)
    small.connection.client.publish("wg/1/d/cam-2/up/event", b"x" * 1_000, qos=1)
    until(lambda: heard)
    assert heard == [1_000]
    for part in (large, small, ingest):
        part.stop()
