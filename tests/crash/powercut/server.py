"""The control plane and the network to one device, in one object: its faults are one line to arrange.

Serves what ``world`` made; keeps what it was told. Leaves the device to ``device``.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agent.download import Answer
from agent.https import DesiredAnswer
from bundles.errors import TryAgain
from bundles.trust.fetch import NotServed
from bundles.wire import codec
from bundles.wire.messages import Ack, Event, Reported, Telemetry, UpEnvelope
from powercut.tracing import mark
from powercut.world import World


@dataclass
class Server:
    """The control plane and the network to it, as this device sees them.

    Attributes:
        version: what it asks this device to run.
        published: name of the state of the repository it serves; empty = as it was when ``version`` was published.
        is_online: whether the network is there.
        has_deltas: whether it offers deltas.
        wrong: digests of blobs that arrive with other bytes.
        missing: versions whose model file it does not have.
        served: address -> how many of its bytes were sent.
        states: heartbeats and phases it was told, in order: (phase, version that answers or is told of).
        told: events it was told, in order.
    """

    world: World
    version: str = "1.0.0"
    published: str = ""
    is_online: bool = True
    has_deltas: bool = False
    wrong: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    served: Counter[str] = field(default_factory=Counter)
    heartbeats: list[Reported] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)

    def _reach(self) -> None:
        if not self.is_online:
            raise TryAgain("There is no network.", code="SERVER_UNREACHABLE")

    def desired(self, etag: str = "") -> DesiredAnswer | None:
        self._reach()
        return DesiredAnswer(self.world.desired[self.version], self.version) if etag != self.version else None

    def commands(self) -> list[bytes]:
        return []

    def reports(self, batch: list[UpEnvelope]) -> Ack:
        self._reach()
        epoch, upto = "", 0
        for envelope in batch:
            message = codec.decode_up(envelope.leaf, envelope.payload)
            if isinstance(message, Reported):
                self.heartbeats.append(message)
                epoch = epoch or message.boot_epoch
            elif isinstance(message, Event | Telemetry):
                epoch, upto = message.boot_epoch, max(upto, message.seq)
                if isinstance(message, Event):
                    self.told.append(message)
                    if message.kind == "phase" and message.data["phase"] == "confirmed":
                        mark(f"told {self.world.version_of(message.sha256)}")
        return Ack(epoch, upto)

    def metadata(self, name: str, max_length: int) -> Iterable[bytes]:
        self._reach()
        files = self.world.metadata[self.published or self.version]
        if name not in files:
            raise NotServed(name, 404)
        return [files[name]]

    @contextlib.contextmanager
    def open(self, url: str, offset: int, etag: str) -> Iterator[Answer]:
        """Serve a blob or a delta in small pieces; ``agent.download.Source``."""
        self._reach()
        name = url.rpartition("/")[2]
        if "/deltas/" in url:
            data = self.world.deltas.get("/".join(url.split("/")[-2:])) if self.has_deltas else None
        else:
            data = self.world.blobs.get(name)
        if data is None or any(data.startswith(f"model {version} ".encode()) for version in self.missing):
            yield Answer(404, iter(()))
            return
        if name in self.wrong:
            data = bytes(len(data))
        pieces = [data[i : i + 40_000] for i in range(offset, len(data), 40_000)]
        self.served[name] += len(data) - offset
        yield Answer(206 if offset else 200, iter(pieces), len(data) - offset, offset or None)
