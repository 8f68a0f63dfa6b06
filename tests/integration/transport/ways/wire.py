"""A device without models: the agent's own spool, link, MQTT and HTTPS, on a line of its own."""

from __future__ import annotations

import random
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.config import AgentConfig
from agent.https import DeviceDoor, open_client
from agent.identity import load_identity
from agent.mqtt import Edges, MqttLink
from agent.proxy import read_proxies
from agent.runner.credentials import Credentials, first_clock_ms
from agent.runner.link import Hooks, Link
from agent.runner.schedule import Schedule, SteadyClock
from agent.runner.wiring import broker_ways
from agent.spool import Spool
from bundles.wire import codec
from bundles.wire.messages import Presence
from ways.server import LIMIT_S, House, wait_until


class Wire:
    """One device's way to the control plane, without anything to run."""

    def __init__(self, house: House, folder: Path, config: AgentConfig, keepalive_s: int = 30) -> None:
        self.house, self.folder = house, folder
        self.credentials = Credentials(
            load_identity(folder / "identity"), clock_ms=first_clock_ms, extra=extra_of(config)
        )
        identity = self.credentials.identity
        self.device, self.clock = identity.device, SteadyClock()
        proxies = read_proxies(config.proxy, config.no_proxy, {})
        url = identity.enrolment.url
        self.client = open_client(url, self.credentials.server_context(), proxy=proxies.to_url(url))
        self.door = DeviceDoor(self.client, self.device, self.credentials.key)
        self.schedule, self.troubles, self.told, self.states = Schedule(self.clock.now_ms), [], 0, []
        self.spool = Spool(folder / "spool.db", self.device)
        broker, ways = identity.enrolment.mqtt, broker_ways(config, identity.enrolment.mqtt)
        edges = Edges(self._down, self._state, self._presence)
        self.transport = None
        if broker is not None and ways:
            self.transport = MqttLink(
                self.device, broker.host, broker.port, self._context, edges, keepalive_s,
                websocket_port=broker.websocket_port, proxies=proxies,
            )  # fmt: skip
        self.down: list[tuple[str, bytes]] = []
        self.shown = []
        self.conflicts = 0
        hooks = Hooks(
            lambda _: None, lambda: None, self._conflict, self._heartbeat, on_trouble=self.troubles.append,
        )  # fmt: skip
        self.link = Link(
            self.schedule, self.device, self.door, self.transport, self.spool, hooks, random.Random(7),
            self.clock.wall_ms, 3600.0, ways or ("mqtt",),
        )  # fmt: skip
        self._thread = threading.Thread(target=self.schedule.run, daemon=True)
        self._thread.start()
        self.call(self.link.start)

    def call(self, work):
        """Run ``work`` on the line and return what it returns."""
        done, result = threading.Event(), []

        def run():
            result.append(work())
            done.set()

        self.schedule.soon(run)
        assert done.wait(LIMIT_S)
        return result[0]

    def tell(self, count: int) -> None:
        """Queue so many events, each with a number of its own, and have them sent."""

        def add():
            for _ in range(count):
                self.told += 1
                self.spool.add_event("note", at_ms=self.clock.wall_ms(), detail=str(self.told))
            self.link.flush()

        self.call(add)

    @property
    def route(self) -> str:
        return self.call(lambda: self.link.route)

    def on_route(self, way: str) -> None:
        """Wait until reports travel by ``way``."""
        wait_until(lambda: self.route == way, f"the way {way}; now {self.route}, {self.troubles[-3:]}")

    def arrived(self) -> None:
        """Wait until everything told is in the database, and check that it is there once."""
        wanted = sorted(map(str, range(1, self.told + 1)))
        wait_until(lambda: len(self.house.stored(self.device)) >= self.told, "all reports stored")
        assert sorted(self.house.stored(self.device)) == wanted

    def emptied(self) -> None:
        """Wait until the application acks have emptied the spool."""
        wait_until(lambda: self.call(lambda: self.spool.status().pending) == 0, "an empty spool")

    def codes(self) -> list[str]:
        return [error.code for error in self.troubles if error is not None]

    def close(self) -> None:
        self.call(lambda: self.link.close(self._presence("going_offline")))
        self.schedule.stop()
        self._thread.join(10)
        self.spool.close()
        self.client.close()

    def _context(self):
        self.shown.append(self.credentials.key().public_key())
        return self.credentials.broker_context()

    def _down(self, leaf: str, payload: bytes) -> None:
        self.down.append((leaf, payload))
        self.link.on_down(leaf, payload)

    def _state(self, is_up: bool, reason: str) -> None:
        self.states.append((is_up, reason))
        self.link.on_state(is_up, reason)

    def _presence(self, state) -> bytes:
        return codec.encode(Presence(self.device, 1, self.clock.wall_ms(), state))

    def _conflict(self) -> None:
        self.conflicts += 1

    def _heartbeat(self) -> bytes:
        return self._presence("online")


def extra_of(config: AgentConfig) -> list[bytes]:
    if not config.extra_ca:
        return []
    pems = x509.load_pem_x509_certificates(Path(config.extra_ca).read_bytes())
    return [one.public_bytes(Encoding.DER) for one in pems]
