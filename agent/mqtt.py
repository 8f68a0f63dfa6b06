"""One connection of one device to the broker: MQTT 5 over mutual TLS, by TCP or WebSocket, QoS 1, a session of an hour.

``MqttLink.connect`` makes one attempt on one way; which way, and when to try again is the caller's decision
(``agent.core.route``, full jitter), and paho's own reconnecting is off, so that a fleet never meets the broker in step.
Each attempt makes a fresh paho client: nothing queues up inside paho, because everything that must arrive waits in the
spool for the application ack. Messages from the broker are acknowledged on receipt for the same reason: desired state
is level-triggered.

Whatever the broker refuses (the connection, a subscription, a publication) ends the connection with a reason that
``agent.core.route`` knows what to do about: half a connection would look like a whole one. ALPN tells the two ways from
HTTPS, so that one port can carry all three (docs/network.md).

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

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5, WebsocketConnectionError
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent.core.route import SUBSCRIPTION_REFUSED, Way, trouble_of
from agent.proxy import Proxies, dial
from agent.tls import refusal_in, secure
from bundles.errors import TryAgain
from bundles.wire import topics
from bundles.wire.codec import MAX_PAYLOAD_BYTES

PresenceState = Literal["online", "going_offline", "lost"]
SESSION_EXPIRY_S = 3600
RECEIVE_MAXIMUM = 20
MAX_QUEUED = 200
CONNECT_TIMEOUT_S = 10.0
SUBSCRIPTIONS = (topics.DOWN_DESIRED, topics.DOWN_ACK, "down/cmd/+", topics.DOWN_BLOB + "+")
WEBSOCKET_PATH = "/mqtt"
ALPN: dict[Way, list[str]] = {"mqtt": ["mqtt"], "websocket": ["wavegate-ws", "http/1.1"]}
"""``mqtt`` is IANA's. The first name of the other is ours, for whoever routes by it; the second is what a broker may
choose."""
NEEDED = 2
"""So many of them, from the first, must be granted: without news and acks a connection is of no use."""
PACKET_ROOM = 64
"""What a PUBLISH takes beside topic and payload, at most: header, lengths, packet id, no properties."""


class Transport(Protocol):
    """What the runner needs of a connection."""

    @property
    def connected(self) -> bool:
        """Whether the broker accepted us and has not gone since."""
        ...

    def connect(self, way: Way = "mqtt") -> None:
        """Make one attempt by ``way``; returns before the broker's answer, which comes by ``on_state``.

        Raises:
            TryAgain: the broker cannot be reached.
        """
        ...

    def look(self, way: Way) -> None:
        """See whether the broker can be reached by ``way``, beside the connection that stands.

        Raises:
            TryAgain: it cannot.
        """
        ...

    def takes(self, leaf: str, payload: bytes) -> bool:
        """Whether the broker takes a message of this size; true while nothing is known."""
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
        on_state: (is connected, reason): a code of ``agent.core.route.TROUBLES``, or words. ``taken_over`` tells of a
            clone of this identity.
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
        port: of the broker, for TCP.
        tls: makes the TLS context anew at each attempt, so that a renewed certificate is used.
        edges: whom to tell.
        keepalive_s: MQTT keep-alive, unless the broker names another; it sends the will after 1.5 times of it in
            silence, and a broker that is silent for twice of it is taken for gone.
        websocket_port: of the broker, for WebSocket; 0 = none.
        proxies: on the way to it.
    """

    def __init__(
        self,
        device: str,
        host: str,
        port: int,
        tls: Callable[[], ssl.SSLContext],
        edges: Edges,
        keepalive_s: int = 30,
        *,
        websocket_port: int = 0,
        proxies: Proxies | None = None,
    ) -> None:
        self._device, self._host = device, host
        self._ports: dict[Way, int] = {"mqtt": port, "websocket": websocket_port}
        self._proxies = proxies or Proxies()
        self._tls, self._edges, self._keepalive_s = tls, edges, keepalive_s
        self._lock = threading.Lock()
        self._client: _Client | None = None
        self._connected = False
        self._refusal = ""
        self._max_packet = MAX_PAYLOAD_BYTES
        self._down = topics.topic(device, "")

    @property
    def connected(self) -> bool:
        """Whether the broker accepted us and has not gone since."""
        return self._connected

    def connect(self, way: Way = "mqtt") -> None:
        """Make one attempt by ``way``; the broker's answer comes by ``on_state``.

        Raises:
            TryAgain: ``BROKER_UNREACHABLE``, ``WEBSOCKET_BLOCKED``, a code of ``agent.proxy.dial``, or ``TRUST_CLOCK``
                or ``SERVER_CERTIFICATE`` for the broker's certificate; ``on_state`` is not called.
        """
        self.close()
        self._refusal = ""
        client = self._new_client(way)
        with self._lock:
            self._client = client  # before connecting: the broker may turn us away before connect() returns
        try:
            client.connect(
                self._host, self._ports[way], self._keepalive_s, clean_start=False, properties=_connect_properties()
            )
        except (OSError, ValueError, TryAgain) as error:  # refused, unreachable, timed out, TLS, name not known
            with self._lock:
                self._client = None
            client.free()
            raise self._trouble(error, way) from error
        with self._lock:
            is_wanted = self._client is client
        if not is_wanted:  # closed while we were connecting
            client.free()
            return
        client.loop_start()

    def look(self, way: Way) -> None:
        """See whether the broker can be reached by ``way``: TCP and TLS, no MQTT, which would end what stands.

        Raises:
            TryAgain: as of ``connect``.
        """
        port = self._ports[way]
        try:
            sock = dial(self._host, port, self._proxies.to(self._host, port), CONNECT_TIMEOUT_S)
            secure(sock, self._context(way), self._host, CONNECT_TIMEOUT_S).close()
        except (OSError, TryAgain) as error:
            raise self._trouble(error, way) from error

    def takes(self, leaf: str, payload: bytes) -> bool:
        """Whether the broker takes a message of this size: more than it announced would end the connection."""
        return len(self._down) + len(leaf) + len(payload) + PACKET_ROOM <= self._max_packet

    def publish(self, leaf: str, payload: bytes, qos: int = 1) -> bool:
        """Hand one message over for sending; False where there is no connection, too much waits, or it is too large."""
        with self._lock:
            client = self._client
        if client is None or not self._connected or not self.takes(leaf, payload):
            return False
        try:
            info = client.publish(topics.topic(self._device, leaf), payload, qos)
        except (OSError, ValueError):  # the connection ends at this very moment
            return False
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
        client.free()

    def drop(self) -> None:
        """Lose the connection as a cut cable would: no farewell, no DISCONNECT, so the broker sends the will."""
        with self._lock:
            client = self._client
        sock = client.secured if client is not None else None
        if sock is not None:
            with contextlib.suppress(OSError, ValueError):
                # Of the socket below TLS: ``SSLSocket.shutdown`` takes TLS away under paho's thread, which then dies
                # in the middle of a read without telling anybody, or writes in the clear.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _new_client(self, way: Way) -> _Client:
        client = _Client(self._device, way, self._context(way), self._proxies, self._ended)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(RECEIVE_MAXIMUM)
        client.max_queued_messages_set(MAX_QUEUED)
        client.will_set(topics.topic(self._device, topics.UP_PRESENCE), self._edges.presence("lost"), qos=1)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _context(self, way: Way) -> ssl.SSLContext:
        context = self._tls()
        context.set_alpn_protocols(ALPN[way])
        return context

    def _trouble(self, error: Exception, way: Way) -> TryAgain:
        """Return what to raise for a try that failed."""
        if isinstance(error, TryAgain):
            return error
        if (refused := refusal_in(error)) is not None:
            return refused
        where = f"{self._host}:{self._ports[way]}"
        if isinstance(error, WebsocketConnectionError):
            return TryAgain(
                f"The broker at {where} cannot be reached by WebSocket: {error}.",
                code="WEBSOCKET_BLOCKED",
                remedy="Check that this is the broker's WebSocket port, and that nothing before it refuses upgrades.",
            )
        return TryAgain(
            f"The broker at {where} cannot be reached: {error}.",
            code="BROKER_UNREACHABLE",
            remedy="The agent tries again by itself; reports wait in its spool.",
        )

    def _on_connect(
        self, client: Client, _userdata: Any, _flags: ConnectFlags, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self._refuse(client, loss_reason(reason))
            return
        self._max_packet = int(getattr(properties, "MaximumPacketSize", MAX_PAYLOAD_BYTES))
        if isinstance(client, _Client):
            client.keep_to(int(getattr(properties, "ReceiveMaximum", RECEIVE_MAXIMUM)))
        client.subscribe([(self._down + leaf, 1) for leaf in SUBSCRIPTIONS])
        client.publish(self._down + topics.UP_PRESENCE, self._edges.presence("online"), 1)
        with self._lock:
            if self._client is not client:
                return
            self._connected = True
        self._edges.on_state(True, "")

    def _on_subscribe(
        self, client: Client, _userdata: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons[:NEEDED]):
            self._refuse(client, SUBSCRIPTION_REFUSED.code)

    def _on_publish(self, client: Client, _userdata: Any, _mid: int, reason: ReasonCode, _properties: Any) -> None:
        if reason.is_failure:
            self._refuse(client, loss_reason(reason))

    def _refuse(self, client: Client, reason: str) -> None:
        """Leave, because the broker does not do what we need; the caller is told why by ``_on_disconnect``."""
        if self._client is client:
            self._refusal = reason
        client.disconnect()

    def _on_disconnect(
        self, client: Client, _userdata: Any, _flags: DisconnectFlags, reason: ReasonCode, _properties: Any
    ) -> None:
        with self._lock:
            if self._client is not client:
                return  # we left, or a newer attempt replaced this one
            self._client, self._connected = None, False
        self._edges.on_state(False, self._refusal or loss_reason(reason))

    def _ended(self, client: Client) -> None:
        """Take note that a client's thread is over, if it went without a word."""
        with self._lock:
            if self._client is not client:
                return
            self._client, self._connected = None, False
        self._edges.on_state(False, "The connection broke.")

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        leaf = message.topic.removeprefix(self._down)
        if leaf == topics.DOWN_DESIRED and not message.payload:
            return  # the device was deleted, or the retained message was cleared: no instruction
        self._edges.on_down(leaf, bytes(message.payload))


class _Client(Client):
    """A paho client whose sockets are ours: made by way of our proxies and pins, and closed whatever happens.

    paho reads proxies from the environment, and leaves a socket open where TLS or the WebSocket's upgrade fails on it,
    or where its thread ends other than by its rules; the collector then finds it, some time or never.
    """

    def __init__(
        self, device: str, way: Way, tls: ssl.SSLContext, proxies: Proxies, ended: Callable[[Client], None]
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=device,
            protocol=MQTTv5,
            transport="websockets" if way == "websocket" else "tcp",
            reconnect_on_failure=False,
        )
        self.secured: ssl.SSLSocket | None = None
        self._proxies, self._ended, self._pinned = proxies, ended, tls
        self.tls_set_context(tls)
        if way == "websocket":
            self.ws_set_options(path=WEBSOCKET_PATH)

    def keep_to(self, receive_maximum: int) -> None:
        """Have no more on its way than the broker said that it takes; before anything is published."""
        self._max_inflight_messages = min(RECEIVE_MAXIMUM, receive_maximum)

    def free(self) -> None:
        """Close what is open. Once nobody uses the client any more; being told twice is normal."""
        self._reset_sockets()
        if self.secured is not None:
            with contextlib.suppress(OSError):
                self.secured.close()

    def _create_socket_connection(self) -> socket.socket:
        return dial(self._host, self._port, self._proxies.to(self._host, self._port), self._connect_timeout)

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        self.secured = secure(tcp_sock, self._pinned, self._host, self._connect_timeout)
        return self.secured

    def _thread_main(self) -> None:
        try:
            super()._thread_main()
        finally:
            if self.secured is not None:
                with contextlib.suppress(OSError):
                    self.secured.close()
            self._ended(self)


def loss_reason(reason: ReasonCode) -> str:
    """Return why a connection ended: a code of ``agent.core.route``, or the reason's own words.

    mosquitto 2.0.11 just closes the older connection of a clone; brokers that keep to MQTT 5, 3.1.4-3, say why.
    """
    trouble = trouble_of(reason.value)
    return trouble.code if trouble else str(reason)


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    properties.MaximumPacketSize = MAX_PAYLOAD_BYTES
    return properties
