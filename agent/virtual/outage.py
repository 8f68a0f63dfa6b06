"""A network that can be cut for one device: its broker connection, its requests, its metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.core.route import Way
from agent.https import DesiredAnswer, DeviceDoor
from agent.mqtt import MqttLink
from bundles.errors import TryAgain
from bundles.trust.fetch import MetadataFetch
from bundles.wire.messages import Ack, UpEnvelope


class Outage:
    """Whether one device's network is cut now."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms, self._until_ms = now_ms, 0

    def begin(self, seconds: float) -> None:
        """Cut the network for so long from now; 0 = mend it."""
        self._until_ms = self._now_ms() + round(seconds * 1000)

    @property
    def is_cut(self) -> bool:
        """Whether nothing goes through."""
        return self._now_ms() < self._until_ms

    def check(self) -> None:
        """Raise where nothing goes through.

        Raises:
            TryAgain: ``NETWORK_CUT``.
        """
        if self.is_cut:
            raise TryAgain(
                "This virtual device's network is cut.", code="NETWORK_CUT", remedy="Wait for the end of the outage."
            )


class OutageDoor:
    """The signed door of a device whose network may be cut."""

    def __init__(self, door: DeviceDoor, outage: Outage) -> None:
        self._door, self._outage = door, outage

    def desired(self, etag: str = "") -> DesiredAnswer | None:
        """As ``DeviceDoor.desired``."""
        self._outage.check()
        return self._door.desired(etag)

    def reports(self, batch: list[UpEnvelope]) -> Ack:
        """As ``DeviceDoor.reports``."""
        self._outage.check()
        return self._door.reports(batch)

    def commands(self) -> list[bytes]:
        """As ``DeviceDoor.commands``."""
        self._outage.check()
        return self._door.commands()


class OutageTransport:
    """A broker connection that may be cut."""

    def __init__(self, link: MqttLink, outage: Outage) -> None:
        self._link, self._outage = link, outage

    @property
    def connected(self) -> bool:
        """Whether the broker is there, and the network too."""
        return self._link.connected and not self._outage.is_cut

    def connect(self, way: Way = "mqtt") -> None:
        """As ``MqttLink.connect``."""
        self._outage.check()
        self._link.connect(way)

    def look(self, way: Way) -> None:
        """As ``MqttLink.look``."""
        self._outage.check()
        self._link.look(way)

    def takes(self, leaf: str, payload: bytes) -> bool:
        """As ``MqttLink.takes``."""
        return self._link.takes(leaf, payload)

    def publish(self, leaf: str, payload: bytes, qos: int = 1) -> bool:
        """As ``MqttLink.publish``."""
        return not self._outage.is_cut and self._link.publish(leaf, payload, qos)

    def close(self, farewell: bytes | None = None) -> None:
        """As ``MqttLink.close``."""
        self._link.close(farewell)

    def drop(self) -> None:
        """Lose the connection as a cut cable would."""
        self._link.drop()


def with_outage(fetch: MetadataFetch, outage: Outage) -> MetadataFetch:
    """Return ``fetch`` for a device whose network may be cut."""

    def fetch_unless_cut(name: str, max_length: int) -> Iterable[bytes]:
        outage.check()
        return fetch(name, max_length)

    return fetch_unless_cut
