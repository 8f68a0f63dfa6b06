"""What the private mosquitto is told, generated whole each time it starts.

Mutual TLS only, over TCP and (where it is asked for) over WebSocket; the user name and the client id are the
certificate's CN, so a device touches its own topics and nothing else. Sized by the design's transport page. No
``per_listener_settings``: releases 2.0.12 to 2.0.18 break persistent sessions with it.
"""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bundles.wire.codec import MAX_PAYLOAD_BYTES
from bundles.wire.topics import DOWN_BLOB, PREFIX, UP_BLOB

INGEST_NAME = "cp.ingest"
PUBLISH_NAME = "cp.publish"
BLOBS_NAME = "cp.blobs"
"""The control plane's names hold a dot, which enrolment can never issue. One certificate a connection: two connections
of one certificate would kick each other for ever under ``use_username_as_clientid``."""


class BrokerDoor(NamedTuple):
    """Where devices are told to find the broker.

    Attributes:
        host: name or address, also of its certificate.
        port: for MQTT over TCP.
        websocket_port: for MQTT over WebSocket, 0 = none.
    """

    host: str
    port: int
    websocket_port: int = 0


@dataclass(frozen=True)
class BrokerFiles:
    """Where the broker's files live, all inside one folder that only this user can enter."""

    folder: Path

    @property
    def configuration(self) -> Path:
        """The generated configuration."""
        return self.folder / "mosquitto.conf"

    @property
    def acl(self) -> Path:
        """Who may touch which topics."""
        return self.folder / "acl"

    @property
    def device_ca(self) -> Path:
        """Certificate of the device CA, PEM."""
        return self.folder / "device-ca.pem"

    @property
    def crl(self) -> Path:
        """Revoked device certificates, PEM."""
        return self.folder / "device-ca.crl"

    @property
    def certificate(self) -> Path:
        """The broker's own certificate, issued by the server CA."""
        return self.folder / "broker.pem"

    @property
    def key(self) -> Path:
        """The broker's key, 0600."""
        return self.folder / "broker.key"

    @property
    def log(self) -> Path:
        """What the broker says."""
        return self.folder / "mosquitto.log"

    @property
    def pid(self) -> Path:
        """Process id of the broker this folder belongs to."""
        return self.folder / "mosquitto.pid"


def configuration_text(files: BrokerFiles, host: str, port: int, websocket_port: int = 0) -> str:
    """Return mosquitto's configuration: a TLS listener for TCP, and one for WebSocket where that port is not 0."""
    # Of the listener above it, each time: without these lines a second listener would take anybody.
    who = [
        f"cafile {files.device_ca}",
        f"certfile {files.certificate}",
        f"keyfile {files.key}",
        f"crlfile {files.crl}",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
    ]
    websocket = [f"listener {websocket_port} {host}", "protocol websockets", *who] if websocket_port else []
    lines = [
        "# Generated at every start; changes made here are lost.",
        f"listener {port} {host}",
        *who,
        *websocket,
        "allow_anonymous false",
        f"acl_file {files.acl}",
        # As root, mosquitto would drop to another user and then fail on its own 0600 key.
        f"user {getpass.getuser()}",
        f"max_packet_size {MAX_PAYLOAD_BYTES}",
        "max_inflight_messages 1000",
        "max_queued_messages 100000",
        "persistence true",
        f"persistence_location {files.folder}/",
        "autosave_interval 30",
        "persistent_client_expiration 14d",
        "set_tcp_nodelay true",
        f"log_dest file {files.log}",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages false",
    ]
    return "\n".join(lines) + "\n"


def acl_text() -> str:
    """Return the access list: each device its own topics, the connections of the control plane theirs."""
    return (
        f"pattern read {PREFIX}/%u/down/#\n"
        f"pattern write {PREFIX}/%u/up/#\n"
        f"\nuser {INGEST_NAME}\ntopic read {PREFIX}/+/up/#\n"
        f"\nuser {PUBLISH_NAME}\ntopic readwrite {PREFIX}/+/down/#\n"
        f"\nuser {BLOBS_NAME}\ntopic read {PREFIX}/+/{UP_BLOB}\ntopic write {PREFIX}/+/{DOWN_BLOB}+\n"
    )
