"""Chunks leave only as fast as the broker takes them: one that stands still holds up a lane, and fills no memory."""

import threading
import time

import msgspec
import paho.mqtt.client as mqtt
import pytest

from bundles.digest import sha256_hex
from bundles.wire.chunks import CHUNK_BYTES, MAX_CHUNKS, BlobAsk, encode_ask
from control_plane.db.engine import Database
from control_plane.db.tables import Device
from control_plane.services.deltas import Deltas
from control_plane.storage import Blobs
from control_plane.workers.chunks import ChunkSender
from control_plane.workers.lanes import LANES

DATA = bytes(3 * MAX_CHUNKS * CHUNK_BYTES)


class Client:
    """Takes messages for a broker that reads none of them until it is let."""

    def __init__(self):
        self.held = []

    def publish(self, topic, payload, qos):
        info = mqtt.MQTTMessageInfo(len(self.held))
        info.rc = mqtt.MQTT_ERR_SUCCESS
        self.held.append((info, len(payload)))
        return info


class Connection:
    is_connected = True

    def __init__(self):
        self.client = Client()

    def start(self):
        pass

    def stop(self):
        self.is_connected = False


class Message(msgspec.Struct):
    topic: str
    payload: bytes


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.fixture
def sender(tmp_path):
    db = Database(f"sqlite:///{tmp_path / 'wavegate.db'}")
    db.upgrade()
    with db.write() as session:
        for number in range(40):
            session.add(Device(id=f"cam-{number}", public_key_pem="", enrolled_ms=1))
    blobs = Blobs.at(tmp_path / "blobs")
    blobs.put(sha256_hex(DATA), DATA)
    sender = ChunkSender(Connection(), db, blobs, Deltas(db, blobs), tmp_path, 1e12)
    sender.start()
    yield sender
    sender.stop()
    db.close()


def test_a_broker_that_takes_nothing_is_sent_one_window_a_lane_whoever_asks(sender):
    client = sender._connection.client
    for number in range(40):
        for offset in range(0, 3 * MAX_CHUNKS, MAX_CHUNKS):
            payload = encode_ask(BlobAsk("a", sha256_hex(DATA), offset * CHUNK_BYTES))
            sender._arrived(None, None, Message(f"wg/1/d/cam-{number}/up/blob", payload))
    assert wait_until(lambda: len(client.held) == LANES * MAX_CHUNKS)
    assert len(client.held) == LANES * MAX_CHUNKS
    taken = list(client.held)
    for info, _ in taken:
        info._set_as_published()
    assert wait_until(lambda: len(client.held) == 2 * LANES * MAX_CHUNKS), "then the next, and no more"


def test_a_connection_that_ends_lets_the_lanes_go(sender):
    sender._arrived(None, None, Message("wg/1/d/cam-1/up/blob", encode_ask(BlobAsk("a", sha256_hex(DATA)))))
    assert wait_until(lambda: sender._connection.client.held)
    before = threading.active_count()
    sender.stop()
    assert threading.active_count() == before - LANES
