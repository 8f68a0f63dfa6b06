"""One connection of one device to the broker: MQTT 5 over mutual TLS, QoS 1, a session of an hour.

``MqttLink.connect`` makes one attempt; when to try again is the caller's decision (``agent.core.retry``, full
jitter), and paho's own reconnecting is off, so that a fleet never meets the broker in step. Each attempt makes a fresh
paho client: nothing queues up inside paho, because everything that must arrive waits in the spool for the application
ack. Messages from the broker are acknowledged on receipt for the same reason: desired state is level-triggered.

Each connected link runs one paho thread. Callbacks run on it and must only hand over.
Leaves what messages mean to the runner.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent.tls import refusal_in
from bundles.errors import TryAgain
from bundles.wire import topics
from bundles.wire.codec import MAX_PAYLOAD_BYTES

PresenceState = Literal["online", "going_offline", "lost"]
SESSION_EXPIRY_S = 3600
RECEIVE_MAXIMUM = 20
MAX_QUEUED = 200
CONNECT_TIMEOUT_S = 10.0
SUBSCRIPTIONS = (topics.DOWN_DESIRED, topics.DOWN_ACK, "down/cmd/+")
SESSION_TAKEN_OVER = 142
"""MQTT 5 reason code 0x8E: somebody else connected with this identity."""


class Transport(Protocol):
    """What the runner needs of a connection."""

    @property
    def connected(self) -> bool:
        """Whether the broker accepted us and has not gone since."""
        ...

    def connect(self) -> None:
        """Make one attempt; returns before the broker's answer, which comes by ``on_state``.

        Raises:
            TryAgain: the broker cannot be reached.
        """
        ...

    def publish(self, leaf: str, payload: bytes, qos: int = 1) -> bool:
        """Hand one message over for sending; False where there is no connection or too much waits already."""
        ...

    def close(self, farewell: bytes | None = None) -> None:
        """Publish ``farewell`` to up/presence, if any, and leave in an orderly way. Never raises."""
        ...


@dataclass(frozen=True)
class Edges:
    """Whom a link tells.

    Attributes:
        on_down: (leaf, payload) of a message from the control plane; empty desired payloads never arrive here.
        on_state: (is connected, reason): ``taken_over`` tells of a clone of this identity.
        presence: (state) -> payload of up/presence: ``online`` at each birth, ``lost`` for the will.
    """

    on_down: Callable[[str, bytes], None]
    on_state: Callable[[bool, str], None]
    presence: Callable[[PresenceState], bytes]


class MqttLink:
    """A ``Transport`` over paho.

    Args:
        device: id; the broker takes it from the certificate, whatever we say.
        host: of the broker; its certificate must name it.
        port: of the broker.
        tls: makes the TLS context anew at each attempt, so that a renewed certificate is used.
        edges: whom to tell.
        keepalive_s: MQTT keep-alive; the broker sends the will after 1.5 times of it in silence.
    """

    def __init__(
        self,
        device: str,
        host: str,
        port: int,
        tls: Callable[[], ssl.SSLContext],
        edges: Edges,
        keepalive_s: int = 30,
    ) -> None:
        self._device, self._host, self._port = device, host, port
        self._tls, self._edges, self._keepalive_s = tls, edges, keepalive_s
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._connected = False
        self._down = topics.topic(device, "")

    @property
    def connected(self) -> bool:
        """Whether the broker accepted us and has not gone since."""
        return self._connected

    def connect(self) -> None:
        """Make one attempt; the broker's answer comes by ``on_state``.

        Raises:
            TryAgain: ``BROKER_UNREACHABLE``, or ``TRUST_CLOCK`` or ``SERVER_CERTIFICATE`` for the broker's certificate;
                ``on_state`` is not called.
        """
        self.close()
        client = self._new_client()
        with self._lock:
            self._client = client  # before connecting: the broker may turn us away before connect() returns
        try:
            client.connect(
                self._host, self._port, self._keepalive_s, clean_start=False, properties=_connect_properties()
            )
        except (OSError, ValueError) as error:  # refused, unreachable, timed out, TLS, name not known
            with self._lock:
                self._client = None
            if (refused := refusal_in(error)) is not None:
                raise refused from error
            raise TryAgain(
                f"The broker at {self._host}:{self._port} cannot be reached: {error}.",
                code="BROKER_UNREACHABLE",
                remedy="The agent tries again by itself; reports wait in its spool.",
            ) from error
        with self._lock:
            is_wanted = self._client is client
        if not is_wanted:  # closed while we were connecting
            _close_socket(client)
            return
        client.loop_start()

    def publish(self, leaf: str, payload: bytes, qos: int = 1) -> bool:
        """Hand one message over for sending; False where there is no connection or too much waits already."""
        with self._lock:
            client = self._client
        if client is None or not self._connected:
            return False
        info = client.publish(topics.topic(self._device, leaf), payload, qos)
        return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def close(self, farewell: bytes | None = None) -> None:
        """Publish ``farewell`` to up/presence, if any, and leave in an orderly way (which drops the will)."""
        with self._lock:
            client, self._client = self._client, None
            was_connected, self._connected = self._connected, False
        if client is None:
            return
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if farewell is not None and was_connected:
                client.publish(topics.topic(self._device, topics.UP_PRESENCE), farewell, 1).wait_for_publish(1.0)
            client.disconnect()
        client.loop_stop()
        _close_socket(client)

    def drop(self) -> None:
        """Lose the connection as a cut cable would: no farewell, no DISCONNECT, so the broker sends the will."""
        with self._lock:
            client = self._client
        sock = client.socket() if client is not None else None
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError, ValueError):
                # Of the socket below TLS: ``SSLSocket.shutdown`` takes TLS away under paho's thread, which then dies
                # in the middle of a read without telling anybody, or writes in the clear.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _new_client(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._device,
            protocol=MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(RECEIVE_MAXIMUM)
        client.max_queued_messages_set(MAX_QUEUED)
        client.tls_set_context(self._tls())
        client.will_set(topics.topic(self._device, topics.UP_PRESENCE), self._edges.presence("lost"), qos=1)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _on_connect(
        self, client: Client, _userdata: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            client.disconnect()  # ends in _on_disconnect, where the caller is told
            return
        client.subscribe([(self._down + leaf, 1) for leaf in SUBSCRIPTIONS])
        client.publish(self._down + topics.UP_PRESENCE, self._edges.presence("online"), 1)
        with self._lock:
            if self._client is not client:
                return
            self._connected = True
        self._edges.on_state(True, "")

    def _on_disconnect(
        self, client: Client, _userdata: Any, _flags: DisconnectFlags, reason: ReasonCode, _properties: Any
    ) -> None:
        with self._lock:
            if self._client is not client:
                return  # we left, or a newer attempt replaced this one
            self._client, self._connected = None, False
        self._edges.on_state(False, loss_reason(reason))

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        leaf = message.topic.removeprefix(self._down)
        if leaf == topics.DOWN_DESIRED and not message.payload:
            return  # the device was deleted, or the retained message was cleared: no instruction
        self._edges.on_down(leaf, bytes(message.payload))


def _close_socket(client: Client) -> None:
    """Close what paho left open: its thread ended before it got to it, or never began."""
    if (sock := client.socket()) is not None:
        with contextlib.suppress(OSError):
            sock.close()


def loss_reason(reason: ReasonCode) -> str:
    """Return why a connection ended: ``taken_over``, or the reason's own words.

    mosquitto 2.0.11 just closes the older connection of a clone; brokers that keep to MQTT 5, 3.1.4-3, say why.
    """
    return "taken_over" if reason.value == SESSION_TAKEN_OVER else str(reason)


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    properties.MaximumPacketSize = MAX_PAYLOAD_BYTES
    return properties
