"""Builds the real agent of one folder out of its concrete parts, and runs it on a thread.

The one place that knows them all. ``agent.virtual`` builds its devices from the functions here that do not concern
inference.
"""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from agent.client import Client
from agent.config import AgentConfig, Folders, load_config
from agent.core.policy import Policy
from agent.errors import ModelUnknown, SafeMode
from agent.https import DeviceDoor, open_client
from agent.identity import BrokerAddress, Identity, load_identity, write_durably
from agent.inference.backend import REAL_BACKENDS, REGISTRY
from agent.inference.engine import Engine
from agent.inference.examine import examine
from agent.inference.serve import LocalServer
from agent.mqtt import Edges, MqttLink, PresenceState, Transport
from agent.probe import BackendReport, probe
from agent.runner.assurance import Assurance
from agent.runner.control import ControlServer
from agent.runner.credentials import Credentials
from agent.runner.device import Device, Parts, TransportOf
from agent.runner.models import EngineModels
from agent.runner.reporting import Self
from agent.runner.schedule import Schedule, SteadyClock
from agent.runner.steps import ServerBlobs
from agent.runner.stream import Accuracy, Camera, load_rows
from agent.spool import Spool
from agent.store import LocalFileSystem, Store
from bundles import __version__
from bundles.contract import Contract
from bundles.errors import AskPerson, Refused
from bundles.trust.device.client import TrustStore
from bundles.wire.messages import Profile

STOP_S = 5.0
RENEWAL_CHECK_MS = 3_600_000
RENEWAL_AGAIN_MS = 60_000


def probe_runtimes(folder: Path, names: Sequence[str] = ()) -> tuple[BackendReport, ...]:
    """Find out which runtimes work here, from the cache where nothing changed; see ``agent.probe``.

    Args:
        folder: keeps the cache.
        names: runtimes to look at, in order of preference; empty = every one this agent knows. A name that it does
            not know is left out.
    """
    known = [name for name in names or REAL_BACKENDS if name in REAL_BACKENDS]
    return probe({name: REGISTRY[name].distribution for name in known}, examine, folder)


def next_session(path: Path) -> int:
    """Return the number of this start, one above the last, made durable before it is used."""
    try:
        session = int(path.read_text("ascii")) + 1
    except (OSError, ValueError):
        session = 1  # never started, or damaged: the spool's boot_epoch still tells the heartbeats apart
    write_durably(path, str(session).encode("ascii"))
    return session


def lock_folder(path: Path) -> int:
    """Take the folder for this process; the lock goes with the descriptor returned.

    Raises:
        AskPerson: ``AGENT_RUNNING``.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise AskPerson(
            f"An agent is running in {str(path.parent)!r} already.",
            code="AGENT_RUNNING",
            remedy="Stop it first, or give this one a folder of its own.",
        ) from error
    return descriptor


def read_bootstrap_root(path: Path) -> bytes:
    """Return the root of trust given at enrolment.

    Raises:
        AskPerson: ``ROOT_MISSING``.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise AskPerson(
            "This device has no root of trust.",
            code="ROOT_MISSING",
            remedy="Enrol it with --root FILE: the root.json of the key ceremony.",
        ) from error


def first_profile(config: AgentConfig, identity: Identity) -> Profile:
    """Return the timing until a desired document brings its own."""
    return Profile(heartbeat_s=config.heartbeat_s, poll_s=config.poll_s or identity.enrolment.poll_s)


def broker_transport(credentials: Credentials, broker: BrokerAddress) -> TransportOf:
    """Return what makes a device's connection to the broker."""

    def make(
        on_down: Callable[[str, bytes], None],
        on_state: Callable[[bool, str], None],
        presence: Callable[[PresenceState], bytes],
    ) -> Transport:
        edges = Edges(on_down, on_state, presence)
        device = credentials.identity.device
        return MqttLink(device, broker.host, broker.port, credentials.broker_context, edges)

    return make


class Agent:
    """One real agent: everything in one folder, started and stopped.

    Args:
        folder: the agent's folder.
        config: its settings; read from the folder where None.
        clock: tells the time; another than the system's is for devices whose clock is wrong on purpose.

    Raises:
        AskPerson: the folder is not enrolled, in use, or its settings make no sense.
    """

    def __init__(self, folder: Path, config: AgentConfig | None = None, clock: SteadyClock | None = None) -> None:
        self.folders = Folders(folder)
        self.config = config or load_config(self.folders.config)
        identity = load_identity(self.folders.identity)
        root = read_bootstrap_root(self.folders.bootstrap_root)
        self._lock = lock_folder(self.folders.lock)
        self._closers: list[Callable[[], Any]] = [lambda: os.close(self._lock)]
        try:
            self._build(identity, root, clock or SteadyClock())
        except BaseException:
            self._close_all()
            raise

    def _build(self, identity: Identity, root: bytes, clock: SteadyClock) -> None:
        config, folders = self.config, self.folders
        rng = random.Random(secrets.randbits(64))
        runtimes = [report.backend for report in probe_runtimes(folders.root, config.runtimes) if report.usable]
        trust = TrustStore(
            folders.trust,
            root,
            device=identity.device,
            fetch=self._metadata,
            pin=config.channel,
            factory=frozenset(config.factory),
            allow_demo=config.allow_demo_keys,
        )
        self._closers.append(trust.close)
        self._trust_ms: Callable[[], int] = lambda: trust.clock_ms(clock.wall_ms())
        self.credentials = Credentials(identity, lambda: trust.server_cas, self._trust_ms)
        client = open_client(identity.enrolment.url, self.credentials.server_context(), proxy=config.proxy)
        self._closers.append(client.close)
        self.door = DeviceDoor(client, identity.device, self.credentials.key)
        self.engine = Engine()
        self._closers.append(self.engine.close)
        store = Store(LocalFileSystem(folders.root))
        store.open()
        spool = Spool(folders.spool, identity.device, max_bytes=config.spool_max_bytes)
        self._closers.append(spool.close)
        self.schedule = Schedule(clock.now_ms)
        self._clock = clock
        self.accuracy = Accuracy()
        broker = identity.enrolment.mqtt if config.mqtt else None
        me = Self(
            device=identity.device,
            boot_epoch=spool.boot_epoch,
            session=next_session(folders.session),
            started_ms=clock.now_ms(),
            hardware=config.hardware,
            runtimes=tuple(runtimes),
            labels=config.labels,
            agent_version=__version__,
        )
        parts = Parts(
            store=store,
            spool=spool,
            assurance=Assurance(trust, clock.wall_ms, clock.now_ms),
            models=EngineModels(self.engine, clock.wall_ms, runtimes, is_isolated=config.inference == "worker"),
            fetch=ServerBlobs(self.door, rng),
            door=self.door,
            transport=broker_transport(self.credentials, broker) if broker else None,
            accuracy=self.accuracy,
        )
        policy = Policy(commit_offline=config.commit_offline)
        profile = first_profile(config, identity)
        self.device = Device(me, parts, self.schedule, policy, profile, folders.status, clock.wall_ms, rng)
        self._local = LocalServer(self.engine, folders.socket)
        self._closers.append(self._local.close)
        self._control = ControlServer(folders.control, self._answer)
        self._closers.append(self._control.close)
        self._camera = self._open_camera(rng) if config.stream.file else None
        self._thread = threading.Thread(target=self.schedule.run, name="agent", daemon=True)

    def start(self) -> None:
        """Start everything; returns at once."""
        self._local.start()
        self._control.start()
        self.schedule.soon(self.device.start)
        self.schedule.soon(self._check_renewal)
        self._thread.start()
        if self._camera is not None:
            self._camera.start()

    def stop(self) -> None:
        """Stop in an orderly way: windows into the spool, goodbye to the broker, workers ended. Within ``STOP_S``."""
        if self._camera is not None:
            self._camera.close()
        if self._thread.is_alive():
            done = threading.Event()

            def close() -> None:
                try:
                    self.device.close()
                finally:
                    done.set()

            self.schedule.soon(close)
            done.wait(STOP_S)
            self.schedule.stop()
            self._thread.join(1.0)
        self._close_all()

    def _close_all(self) -> None:
        while self._closers:
            self._closers.pop()()

    def _metadata(self, name: str, max_length: int) -> Iterable[bytes]:
        return self.door.metadata(name, max_length)

    def _check_renewal(self) -> None:
        """Renew the certificate where two thirds of its life are over; look again later either way."""
        if not self.credentials.is_renewal_due(self._trust_ms()):  # a clock in 1970 would find none due, ever
            self._renewal_in(RENEWAL_CHECK_MS)
            return

        def done(result: BaseException | None) -> None:
            self._renewal_in(RENEWAL_AGAIN_MS if isinstance(result, BaseException) else RENEWAL_CHECK_MS)

        self.schedule.background(lambda: self.credentials.renew(self.door.post_signed), done)

    def _renewal_in(self, wait_ms: int) -> None:
        self.schedule.at("renewal", self.schedule.now_ms() + wait_ms, self._check_renewal)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer the control socket: ``{"do": "rollback", "model": ..., "actor": ..., "sha256": ...}``."""
        if request.get("do") != "rollback":
            raise Refused("The agent does not know this request.", code="CONTROL_REQUEST", remedy="Update the agent.")
        model, actor = str(request.get("model") or self._only_model()), str(request.get("actor", "someone"))
        done = threading.Event()
        problem: list[Refused] = []

        def call() -> None:
            try:
                self.device.request_rollback(model, actor, str(request.get("sha256", "")))
            except Refused as error:
                problem.append(error)
            finally:
                done.set()

        self.schedule.soon(call)
        done.wait(STOP_S)
        if problem:
            raise problem[0]
        return {"ok": True, "model": model}

    def _only_model(self) -> str:
        models = sorted(self.device.updates.states)
        if len(models) != 1:
            raise Refused(
                "This device has several models, or none.",
                code="MODEL_UNKNOWN",
                remedy=f"Name one: {', '.join(models) or 'none'}.",
            )
        return models[0]

    def _open_camera(self, rng: random.Random) -> Camera:
        rows = load_rows(Path(self.config.stream.file))
        client = Client(self.folders.socket)
        self._closers.append(client.close)

        def ask(inputs: dict[str, Any]) -> Any:
            return client.infer(self.engine.models()[0].spec.model, inputs)

        def contract() -> Contract | None:
            try:
                return self.engine.contract()
            except (ModelUnknown, SafeMode):
                return None

        return Camera(
            rows,
            rng.randrange(len(rows)),
            self.config.stream.rate_hz,
            ask,
            contract,
            self.folders.blur.exists,
            self.accuracy,
        )
