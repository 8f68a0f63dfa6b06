"""N virtual devices in one process: enrolled, started, steered, stopped. The composition root of a simulated fleet.

One schedule drives them all, with a few background threads between them; paho adds one thread a connected device.
Each device's folder is ``DIR/devices/<id>``, laid out like a real agent's. Leaves how a device behaves to
``agent.runner`` and how models run to ``host``.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config import AgentConfig, Folders, dump_config
from agent.core.policy import Policy
from agent.delta import Brought, DeltaTry
from agent.https import DeviceDoor, Door, open_client
from agent.identity import Identity, pinned_context, write_durably
from agent.mqtt import Edges, MqttLink, PresenceState, Transport
from agent.runner.assurance import Assurance
from agent.runner.blobs import Price, ServerBlobs, ServerSource
from agent.runner.credentials import Credentials, enroll_over_https
from agent.runner.device import Device, Parts
from agent.runner.reporting import Self
from agent.runner.schedule import Schedule, SteadyClock
from agent.runner.stream import Accuracy, load_rows
from agent.runner.wiring import first_profile, next_session, probe_runtimes, read_bootstrap_root
from agent.spool import Spool
from agent.store import LocalFileSystem, Store
from agent.virtual.host import ModelHost
from agent.virtual.models import VirtualModels
from agent.virtual.outage import Outage, OutageDoor, OutageTransport, with_outage
from bundles import __version__
from bundles.errors import AskPerson
from bundles.trust.device.client import TrustStore
from bundles.trust.durable import write_quickly
from bundles.trust.fetch import MetadataFetch, SharedFetch

MAX_COUNT = 120
"""Devices a process: paho waits with ``select``, which takes descriptors below 1024, and a device needs about seven."""
WORKERS = 32
"""Background threads. Most of them wait: for one trial that a whole wave waits for, or for the server."""
ENROLLING = 4
STREAM_TICK_MS = 1000
STOP_S = 8.0
AT_ONCE = Price(within_s=lambda _length: 0.0)
"""The first device that wants a blob fetches it for all of them: there is no crowd to spread."""


@dataclass(frozen=True)
class Hardware:
    """A kind of device: its hardware class and the one runtime it has."""

    name: str
    runtime: str


@dataclass(frozen=True)
class FleetPlan:
    """What to simulate.

    Attributes:
        folder: of the whole fleet.
        count: devices.
        prefix: ids are the prefix and three digits.
        first: number of the first id.
        url: the server's device port.
        server_ca_pem: the pin.
        root: root of trust, bytes of ``root.json``.
        token: counted claim token.
        hardware: kinds of device, dealt out in turn.
        stream: ``.npz`` the devices watch.
        rate_hz: rows a second and device.
        seed: of everything drawn here; the process's own randomness stays out of it.
        labels: traits, name -> values dealt out in turn.
        uses_mqtt: False = HTTPS polling even where there is a broker.
        allow_demo_keys: whether a root of trust that a demo made is taken.
    """

    folder: Path
    count: int
    prefix: str
    url: str
    server_ca_pem: str
    root: bytes
    token: str
    hardware: Sequence[Hardware]
    stream: Path
    rate_hz: float = 5.0
    seed: int = 0
    first: int = 1
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    uses_mqtt: bool = True
    allow_demo_keys: bool = False


class NoSyncFileSystem(LocalFileSystem):
    """The disk of a simulated device: nothing on it need survive a power cut, and a fleet shares one real disk."""

    def fsync(self, path: str) -> None:
        """Do nothing."""

    def fsync_dir(self, path: str) -> None:
        """Do nothing."""


class SharedBlobs:
    """Blobs fetched once for the fleet, verified, and copied from then on; a device whose network is cut gets none."""

    def __init__(self, cache: Store, fetch: ServerBlobs, outage: Outage, locks: BlobLocks) -> None:
        self._cache, self._fetch, self._outage, self._locks = cache, fetch, outage, locks

    def __call__(
        self, store: Store, sha256: str, length: int, is_cancelled: Callable[[], bool], wish: DeltaTry | None = None
    ) -> Brought:
        """Bring one blob into the device's store."""
        part = store.blob(sha256, length)
        if part.is_complete():
            return Brought(0, by_delta=False)
        self._outage.check()
        with self._locks.of(sha256):
            brought = self._fetch(self._cache, sha256, length, is_cancelled, wish)
        part.reset()
        part.append(self._cache.read_blob(sha256, length))  # its digest is checked at every read
        part.commit()
        return brought


class BlobLocks:
    """One lock a blob, so that it is fetched by the first device that wants it and by no other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def of(self, sha256: str) -> threading.Lock:
        """Return the lock of a blob."""
        with self._lock:
            return self._locks.setdefault(sha256, threading.Lock())


@dataclass
class VirtualDevice:
    """One device of the fleet and what may be done to it."""

    device: Device
    models: VirtualModels
    outage: Outage
    transport: list[OutageTransport]
    is_blurred: bool = False


class Fleet:
    """A simulated fleet.

    Args:
        plan: what to simulate.

    Raises:
        AskPerson: the plan cannot be carried out.
        Refused: the server refuses to enrol a device.
        TryAgain: the server cannot be reached.
    """

    def __init__(self, plan: FleetPlan) -> None:
        if not 1 <= plan.count <= MAX_COUNT:
            raise AskPerson(
                f"{plan.count} devices cannot be simulated in one process.",
                code="FLEET_COUNT",
                remedy=f"Simulate 1 to {MAX_COUNT} a process, and start several processes for more.",
            )
        self.plan = plan
        self._clock = SteadyClock()
        self._shared = plan.folder / "shared"
        self._shared.mkdir(parents=True, exist_ok=True)
        self._check_runtimes()
        self._client = open_client(plan.url, pinned_context(plan.server_ca_pem))
        self._rows = load_rows(plan.stream)
        self._host = ModelHost(self._shared / "models", self._rows, plan.seed)
        self._cache = Store(LocalFileSystem(self._shared), reserve_bytes=0)
        self._cache.open()
        self._locks = BlobLocks()
        self.schedule = Schedule(self._clock.now_ms, WORKERS)
        fetch = SharedFetch(Door(self._client).metadata, self._clock.now_ms, ttl_ms=0)
        with ThreadPoolExecutor(ENROLLING) as pool:
            identities = list(pool.map(self._enroll, range(plan.count)))
        self.devices = {
            identity.device: self._build(number, identity, fetch) for number, identity in enumerate(identities)
        }
        self._thread = threading.Thread(target=self.schedule.run, name="fleet", daemon=True)

    def start(self) -> None:
        """Start every device; returns at once."""
        for number, entry in enumerate(self.devices.values()):
            self.schedule.soon(entry.device.start)
            # Spread over the tick, so that the fleet's rows do not all come at one moment.
            offset_ms = number * STREAM_TICK_MS // len(self.devices)
            self._see_at(entry, self._clock.now_ms() + STREAM_TICK_MS + offset_ms)
        self._thread.start()

    def stop(self) -> None:
        """Stop every device in an orderly way, and free what they shared."""
        if self._thread.is_alive():
            done = threading.Event()

            def close() -> None:
                try:
                    for entry in self.devices.values():
                        entry.device.close()
                finally:
                    done.set()

            self.schedule.soon(close)
            done.wait(STOP_S)
            self.schedule.stop()
            self._thread.join(1.0)
        self._host.close()
        self._client.close()

    def blur(self, devices: Sequence[str], *, is_blurred: bool) -> None:
        """Put a blurred lens before the devices named, or take it away."""
        for device in devices:
            self.devices[device].is_blurred = is_blurred

    def cut(self, devices: Sequence[str], seconds: float) -> None:
        """Cut the network of the devices named for so long; 0 mends it."""
        for device in devices:
            entry = self.devices[device]
            entry.outage.begin(seconds)
            if seconds > 0:
                for transport in entry.transport:
                    transport.drop()

    def status(self) -> dict[str, Any]:
        """Return per device: what answers, what it was told to be, how many rows wait."""
        return {device: entry.device.summary() for device, entry in self.devices.items()}

    def _check_runtimes(self) -> None:
        names = list(dict.fromkeys(kind.runtime for kind in self.plan.hardware))
        reports = {report.backend: report for report in probe_runtimes(self._shared, names)}
        for kind in self.plan.hardware:
            report = reports.get(kind.runtime)
            if report is None or not report.usable:
                raise AskPerson(
                    f"The runtime {kind.runtime!r} does not work on this machine.",
                    code="BACKEND_UNAVAILABLE",
                    remedy=report.reason if report else "See: wavegate-agent accelerators.",
                )

    def _enroll(self, number: int) -> Identity:
        name = f"{self.plan.prefix}{self.plan.first + number:03d}"
        folders = Folders(self.plan.folder / "devices" / name)
        config = self._config(number)
        identity = enroll_over_https(
            folders.identity,
            url=self.plan.url,
            token=self.plan.token,
            server_ca_pem=self.plan.server_ca_pem,
            name=name,
            hardware=config.hardware,
            labels=dict(config.labels),
        )
        write_durably(folders.bootstrap_root, self.plan.root)
        folders.config.write_text(dump_config(config), "utf-8")
        return identity

    def _config(self, number: int) -> AgentConfig:
        kind = self.plan.hardware[number % len(self.plan.hardware)]
        labels = {name: values[number % len(values)] for name, values in self.plan.labels}
        return AgentConfig(
            hardware=kind.name,
            runtimes=(kind.runtime,),
            labels=labels,
            mqtt=self.plan.uses_mqtt,
            allow_demo_keys=self.plan.allow_demo_keys,
        )

    def _build(self, number: int, identity: Identity, shared_fetch: MetadataFetch) -> VirtualDevice:
        plan, clock = self.plan, self._clock
        folders, config = Folders(identity.folder.parent), self._config(number)
        rng = random.Random(f"{plan.seed}/{identity.device}")
        credentials, outage = Credentials(identity), Outage(clock.now_ms)
        door = DeviceDoor(self._client, identity.device, credentials.key)
        trust = TrustStore(
            folders.trust,
            read_bootstrap_root(folders.bootstrap_root),
            device=identity.device,
            fetch=with_outage(shared_fetch, outage),
            pin=config.channel,
            allow_demo=config.allow_demo_keys,
            write=write_quickly,
        )
        store = Store(NoSyncFileSystem(folders.root), reserve_bytes=0)
        store.open()
        spool = Spool(folders.spool, identity.device, max_bytes=config.spool_max_bytes)
        accuracy = Accuracy()
        models = VirtualModels(self._host, config.runtimes, clock.wall_ms, accuracy, rng.randrange(len(self._rows)))
        transports: list[OutageTransport] = []
        broker = identity.enrolment.mqtt if plan.uses_mqtt else None

        def transport(
            on_down: Callable[[str, bytes], None],
            on_state: Callable[[bool, str], None],
            presence: Callable[[PresenceState], bytes],
        ) -> Transport:
            assert broker is not None
            edges = Edges(on_down, on_state, presence)
            link = MqttLink(identity.device, broker.host, broker.port, credentials.broker_context, edges)
            transports.append(OutageTransport(link, outage))
            return transports[-1]

        me = Self(
            device=identity.device,
            boot_epoch=spool.boot_epoch,
            session=next_session(folders.session),
            started_ms=clock.now_ms(),
            hardware=config.hardware,
            runtimes=config.runtimes,
            labels=config.labels,
            agent_version=__version__,
            tier="virtual",
        )
        parts = Parts(
            store=store,
            spool=spool,
            assurance=Assurance(trust, clock.wall_ms, clock.now_ms),
            models=models,
            fetch=SharedBlobs(self._cache, ServerBlobs(ServerSource(door), rng, AT_ONCE), outage, self._locks),
            door=OutageDoor(door, outage),
            transport=transport if broker else None,
            accuracy=accuracy,
        )
        profile = first_profile(config, identity)
        device = Device(me, parts, self.schedule, Policy(), profile, folders.status, clock.wall_ms, rng)
        return VirtualDevice(device, models, outage, transports)

    def _see_at(self, entry: VirtualDevice, due_ms: int) -> None:
        key = (entry.device.me.device, "rows")
        self.schedule.at(key, due_ms, lambda: self._see(entry, due_ms))

    def _see(self, entry: VirtualDevice, due_ms: int) -> None:
        """Look at a tick's worth of rows; ticks that came too late are lost, as frames of a busy camera are."""
        if entry.device.is_closed:
            return
        rows = max(1, round(self.plan.rate_hz * STREAM_TICK_MS / 1000))
        entry.models.see(rows, is_blurred=entry.is_blurred)
        self._see_at(entry, max(due_ms, self._clock.now_ms() - STREAM_TICK_MS) + STREAM_TICK_MS)
