"""The broker's WebSocket port is as strict as its other one: mosquitto 2.0.11 is tested, not believed."""

from __future__ import annotations

import os
import queue
import signal
import socket
import ssl
import threading
import time

import paho.mqtt.client as mqtt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion
from ways.server import accepts

from agent.reach import upgrade_status
from agent.runner.doctor import preflight

PEM = serialization.Encoding.PEM


class Thing:
    """A WebSocket client of any name, which remembers what arrives."""

    def __init__(self, house, folder, name, certificate):
        self.arrived, self.answered, self.is_up = queue.Queue(), threading.Event(), False
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5, transport="websockets",
            reconnect_on_failure=False,
        )  # fmt: skip
        context = ssl.create_default_context(cadata=house.server_ca)
        path = folder / f"{name}-pair.pem"
        path.write_bytes(certificate)
        context.load_cert_chain(path)
        self.client.ws_set_options(path="/mqtt")
        self.client.tls_set_context(context)
        self.client.on_connect = self._connected
        self.client.on_disconnect = lambda *_: self.answered.set()
        self.client.on_message = lambda _c, _u, message: self.arrived.put((message.topic, message.payload))
        self._port = house.websocket

    def connect(self, *filters):
        self.client.connect("127.0.0.1", self._port, clean_start=True)
        self.client.loop_start()
        assert self.answered.wait(20)
        if self.is_up and filters:
            subscribed = threading.Event()
            self.client.on_subscribe = lambda *_: subscribed.set()
            self.client.subscribe([(one, 1) for one in filters])
            assert subscribed.wait(20)
        return self.is_up

    def say(self, topic, payload):
        self.client.publish(topic, payload, 1).wait_for_publish(20)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()
        self.client.reinitialise()

    def _connected(self, _client, _userdata, _flags, reason, _properties):
        self.is_up = not reason.is_failure
        self.answered.set()


def made(name, authority):
    """Return a certificate of that name, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_device(name, key.public_key(), int(time.time() * 1000))
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return issued.certificate_pem + private


@pytest.fixture
def thing(site, house, tmp_path):
    return lambda name: site.add(Thing(house, tmp_path, name, made(name, house.authority("device-ca"))))


def test_nobody_comes_in_without_a_certificate_of_the_device_ca(house, tmp_path):
    def comes_in(certificate):
        context = ssl.create_default_context(cadata=house.server_ca)
        if certificate is not None:
            (tmp_path / "pair.pem").write_bytes(certificate)
            context.load_cert_chain(tmp_path / "pair.pem")
        with socket.create_connection(("127.0.0.1", house.websocket)) as plain:
            try:
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
                    return upgrade_status(tls, "127.0.0.1", house.websocket, 20) == 101
            except OSError:
                return False

    assert not comes_in(None)
    assert not comes_in(made("stranger", house.authority("server-ca")))
    assert comes_in(made("welcome", house.authority("device-ca")))


def test_a_device_hears_and_speaks_on_its_own_topics_only(site, house, thing):
    wire = site.wire(site.enrol("ws-victim", websocket=house.websocket), transport="websocket")
    wire.on_route("websocket")
    thief = thing("ws-thief")
    assert thief.connect("#", "wg/1/d/+/down/#", "wg/1/d/ws-victim/#", "wg/1/d/ws-thief/down/#")
    thief.say("wg/1/d/ws-victim/down/ack", b'{"boot_epoch":"x","upto_seq":9}')
    thief.say("wg/1/d/ws-victim/up/event", b"{}")
    wire.tell(5)
    wire.arrived()
    wire.emptied()
    assert [payload for leaf, payload in wire.down if leaf == "down/ack" and b'"x"' in payload] == []
    assert thief.arrived.empty()


def test_the_name_is_the_certificates_whatever_the_client_says(site, house, thing):
    wire = site.wire(site.enrol("ws-named", websocket=house.websocket), transport="websocket")
    wire.on_route("websocket")
    impostor = thing("ws-impostor")
    impostor.client._client_id = b"ws-named"
    assert impostor.connect("wg/1/d/ws-named/down/#")
    wire.tell(3)
    wire.emptied()
    assert [up for up, _ in wire.states] == [True], "two clients of one id would have ended the first"
    assert impostor.arrived.empty()


def test_a_revoked_device_is_refused_also_where_nobody_came_by_websocket_before(site, house, until):
    """mosquitto reads no revocation list for a WebSocket listener that it has seen no connection on."""

    seen = []

    def refusals():
        seen.append({one.what: one.code for one in preflight(folder, environ={}) if one.what.startswith("broker")})
        return seen[-1]

    revoked = dict.fromkeys(("broker by mqtt", "broker by websocket"), "DEVICE_CERTIFICATE_REVOKED")
    for round_ in range(2):
        before = house.broker_pid
        os.kill(before, signal.SIGKILL)
        until(lambda before=before: house.broker_pid not in (None, before) and accepts(house.websocket), "a new broker")
        if round_ == 0:
            folder = site.enrol("stolen", websocket=house.websocket)
            assert house.api.post("/api/v1/devices/stolen/revoke", json={"reason": "stolen"}).is_success
        until(lambda: refusals() == revoked, seen)
