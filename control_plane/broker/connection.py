"""The control plane's connections to the broker, each under a certificate and so a name of its own.

Connecting is for ever: paho reconnects by itself. A session is lasting, so what arrives while the server is down waits
at the broker. Leaves what is done with messages to ``ingest`` and what is told to ``workers``.
"""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
import structlog
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bundles.wire import topics

SESSION_EXPIRY_S = 14 * 24 * 3600
RECEIVE_MAXIMUM = 1_000
KEEPALIVE_S = 30

log = structlog.get_logger()


class Connection:
    """A paho client over mutual TLS that connects for ever; paho reconnects by itself with growing pauses.

    Args:
        name: the certificate's CN, and so the client id.
        folder: holds ``<name>.pem``, ``<name>.key`` and ``server-ca.pem``.
        host: broker's address.
        port: broker's port.
    """

    def __init__(self, name: str, folder: Path, host: str, port: int, *, manual_ack: bool = False) -> None:
        self._name, self._host, self._port = name, host, port
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5, manual_ack=manual_ack
        )
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(folder / "server-ca.pem"))
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
        self.client.tls_set_context(context)
        self.client.reconnect_delay_set(min_delay=1, max_delay=5)
        self.client.on_disconnect = self._disconnected
        self._properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self._properties.SessionExpiryInterval = SESSION_EXPIRY_S
        self._properties.ReceiveMaximum = RECEIVE_MAXIMUM

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands."""
        return self.client.is_connected()

    def start(self) -> None:
        """Connect in the background; being refused at first is no failure."""
        self.client.connect_async(
            self._host, self._port, keepalive=KEEPALIVE_S, clean_start=False, properties=self._properties
        )
        self.client.loop_start()

    def stop(self) -> None:
        """Disconnect for good; the session stays at the broker."""
        self.client.disconnect()
        self.client.loop_stop()
        self.client.reinitialise()  # closes the socket pair that woke its loop, which nothing else does in time

    def _disconnected(
        self,
        _client: mqtt.Client,
        _userdata: object,
        _flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            log.warning("broker_connection_lost", connection=self._name, reason=str(reason))


class Teller:
    """Publishes to devices and waits for the broker's word, from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @property
    def is_connected(self) -> bool:
        """Whether publishing can work now."""
        return self._connection.is_connected

    def publish(
        self, device: str, leaf: str, payload: bytes, *, retain: bool, expiry_s: int | None = None
    ) -> mqtt.MQTTMessageInfo | None:
        """Hand a message to the broker at QoS 1; None where there is no connection. Ask the result ``is_published``.

        Args:
            device: id.
            leaf: below the device's prefix.
            payload: of the message.
            retain: whether the broker keeps it for who comes later.
            expiry_s: how long the broker may hold it for a device that is away; None = as long as its session lasts.
        """
        if not self._connection.is_connected:
            return None
        properties = None
        if expiry_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
        with self._lock:
            topic = topics.topic(device, leaf)
            info = self._connection.client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        return info if info.rc == mqtt.MQTT_ERR_SUCCESS else None
