"""Takes in what devices say over MQTT, acknowledging to the broker only what the database has committed.

So a message lives at the broker or in the database, never only in our memory.
"""

from __future__ import annotations

from collections.abc import Callable

import paho.mqtt.client as mqtt
import structlog
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from bundles.wire import commands, topics
from control_plane.broker.connection import Connection
from control_plane.ingest.writer import Delivery
from control_plane.services.reports import Inbound

log = structlog.get_logger()


class Consumer:
    """Takes in everything devices say.

    Args:
        connection: made with ``manual_ack``.
        put: hands a delivery to the writer; may block.
    """

    def __init__(self, connection: Connection, put: Callable[[Delivery], None]) -> None:
        self._connection, self._put = connection, put
        connection.client.on_connect = self._connected
        connection.client.on_message = self._arrived

    def _connected(
        self,
        client: mqtt.Client,
        _userdata: object,
        _flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            log.warning("broker_refused", connection="ingest", reason=str(reason))
            return
        leaves = (*topics.UP_KINDS, *commands.UP_FILTERS)
        client.subscribe([(f"{topics.PREFIX}/+/{leaf}", SubscribeOptions(qos=1)) for leaf in leaves])

    def _arrived(self, client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        mid, qos = message.mid, message.qos
        parts = topics.split_up_topic(message.topic) or commands.split_up_topic(message.topic)
        if parts is None:
            client.ack(mid, qos)
            return
        device, leaf = parts
        inbound = Inbound(device, leaf, bytes(message.payload))
        self._put(Delivery(inbound, lambda: _acknowledge(client, mid, qos)))


def _acknowledge(client: mqtt.Client, mid: int, qos: int) -> None:
    # After a reconnection the id may be unknown to the broker; it redelivers, and the database says "not fresh".
    client.ack(mid, qos)
