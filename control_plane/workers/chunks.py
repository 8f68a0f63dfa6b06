"""Answers devices that fetch files over the broker: a few chunks of a blob, a delta or trust metadata, at QoS 0.

For sites where only the broker is reachable; see ``bundles.wire.chunks``. It has a connection of its own, so that bulk
stands in nobody's way. Whoever may have a file over HTTPS may have it here and nobody else: the broker vouches for the
device's name, the database says whether it is enrolled. Leaves whose turn it is to ``lanes``; memory is bounded by one
window a lane, however many devices ask and however slowly the broker reads: the next is read when the last one left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import structlog
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from bundles.errors import MessageRefused, Refused, WavegateError
from bundles.wire import topics
from bundles.wire.chunks import CHUNK_BYTES, METADATA, BlobAsk, ChunkHead, decode_ask, encode_chunk
from control_plane import metrics
from control_plane.broker.connection import Connection
from control_plane.db.engine import Database
from control_plane.services import fetching
from control_plane.services.deltas import Deltas, being_made, not_offered
from control_plane.storage import Blobs
from control_plane.workers.lanes import Lanes

LOOK_S = 1.0
RETRY_MS = 2_000
"""Told to a device whose file cannot be had just now."""
log = structlog.get_logger()


class ChunkSender:
    """The worker.

    Args:
        connection: to the broker, under a name that may read up/blob and write down/blob.
        db: says who is enrolled.
        blobs: content-addressed files.
        deltas: between them.
        metadata_dir: published trust metadata.
        rate: bytes a second of one device.
    """

    def __init__(
        self, connection: Connection, db: Database, blobs: Blobs, deltas: Deltas, metadata_dir: Path, rate: float
    ) -> None:
        self._connection, self._db, self._blobs, self._deltas = connection, db, blobs, deltas
        self._metadata_dir = metadata_dir
        connection.client.on_connect = self._connected
        connection.client.on_message = self._arrived
        self._lanes = Lanes(self._answer, rate)

    def start(self) -> None:
        """Connect, and answer from now on."""
        self._lanes.start()
        self._connection.start()

    def stop(self) -> None:
        """Answer nothing more; devices ask again."""
        self._connection.stop()
        self._lanes.stop()

    def _connected(
        self,
        client: mqtt.Client,
        _userdata: object,
        _flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            log.warning("broker_refused", connection="blobs", reason=str(reason))
            return
        client.subscribe(f"{topics.PREFIX}/+/{topics.UP_BLOB}", options=SubscribeOptions(qos=0))

    def _arrived(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        device = message.topic.removeprefix(f"{topics.PREFIX}/").partition("/")[0]
        try:
            ask = decode_ask(bytes(message.payload))
        except MessageRefused as error:
            metrics.CHUNK_ASKS.labels(outcome="unreadable").inc()
            log.info("chunk_ask_unreadable", device=device, code=error.code)
            return
        if not self._lanes.put(device, ask):
            metrics.CHUNK_ASKS.labels(outcome="dropped").inc()

    def _answer(self, device: str, ask: BlobAsk) -> None:
        outcome = "answered"
        sent: mqtt.MQTTMessageInfo | None = None
        try:
            with self._db.read() as session:
                fetching.check_active(session, device)
            for payload in self._chunks(ask):
                sent = self._send(device, ask, payload)
        except (WavegateError, OSError) as error:
            is_final = isinstance(error, Refused)
            outcome = "refused" if is_final else "failed"
            if not isinstance(error, WavegateError):
                log.warning("chunk_unreadable", device=device, sha256=ask.sha256, name=ask.name, error=str(error))
            head = ChunkHead(
                ask.offset,
                0,
                ask.sha256,
                ask.name,
                code=error.code if isinstance(error, WavegateError) else "BLOB_UNREADABLE",
                retry_ms=0 if is_final else RETRY_MS,
            )
            sent = self._send(device, ask, encode_chunk(head))
        metrics.CHUNK_ASKS.labels(outcome=outcome).inc()
        if sent is None or sent.rc != mqtt.MQTT_ERR_SUCCESS:
            return
        # paho holds without bound what the broker does not take; it lets go of it, and says so, with the connection.
        with contextlib.suppress(RuntimeError):
            while self._connection.is_connected and not sent.is_published():
                sent.wait_for_publish(LOOK_S)

    def _send(self, device: str, ask: BlobAsk, payload: bytes) -> mqtt.MQTTMessageInfo:
        return self._connection.client.publish(topics.topic(device, topics.DOWN_BLOB + ask.id), payload, qos=0)

    def _chunks(self, ask: BlobAsk) -> Iterator[bytes]:
        wanted = ask.n * CHUNK_BYTES
        if ask.name:
            whole = fetching.read_metadata(self._metadata_dir, ask.name.removeprefix(METADATA))
            length, data = len(whole), whole[ask.offset : ask.offset + wanted]
        elif ask.base:
            length = self._delta_length(ask)
            count = max(0, min(wanted, length - ask.offset))
            data = b"".join(self._deltas.open(ask.base, ask.sha256, ask.offset, count))
        else:
            length = self._blobs.length(ask.sha256)
            count = max(0, min(wanted, length - ask.offset))
            data = b"".join(self._blobs.open(ask.sha256, ask.offset, count))
        if ask.offset and ask.offset >= length:
            raise Refused("The file is shorter than that.", code="RANGE", remedy="Ask from its beginning.")
        for start in range(0, len(data), CHUNK_BYTES) or (0,):
            head = ChunkHead(ask.offset + start, length, ask.sha256, ask.name)
            yield encode_chunk(head, data[start : start + CHUNK_BYTES])

    def _delta_length(self, ask: BlobAsk) -> int:
        asked = self._deltas.ask(ask.base, ask.sha256)
        if not asked.done():
            raise being_made()  # the lane has others to answer
        length = asked.result()
        if not length:
            raise not_offered()
        if not ask.offset:
            self._deltas.count_served(ask.sha256, length)
        return length
