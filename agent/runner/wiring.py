"""Builds the real agent of one folder out of its concrete parts, and runs it on a thread.

The one place that knows them all. ``agent.virtual`` builds its devices from the functions here that do not concern
inference.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from agent.client import Client
from agent.conditions import Conditions
from agent.config import AgentConfig, Folders, load_config
from agent.core.policy import Policy
from agent.core.route import Way, ways_of
from agent.errors import ModelUnknown, SafeMode
from agent.https import DeviceDoor, open_client
from agent.identity import BrokerAddress, Identity, load_identity, write_durably
from agent.inference.backend import REAL_BACKENDS, REGISTRY
from agent.inference.engine import Engine
from agent.inference.examine import examine
from agent.inference.serve import LocalServer
from agent.mqtt import Edges, MqttLink, PresenceState, Transport
from agent.probe import BackendReport, probe
from agent.proxy import Proxies, read_proxies
from agent.runner.assurance import Assurance
from agent.runner.commands import Commands
from agent.runner.control import ControlServer
from agent.runner.credentials import Credentials, read_extra_ca
from agent.runner.device import Device, Parts, TransportOf
from agent.runner.fetching import Fetching
from agent.runner.models import EngineModels
from agent.runner.owner import request_retry, request_rollback
from agent.runner.remote import Remote, sender
from agent.runner.reporting import Self
from agent.runner.schedule import Schedule, SteadyClock
from agent.runner.stream import Accuracy, Camera, load_rows
from agent.spool import Spool
from agent.store import LocalFileSystem, Store
from bundles import __version__
from bundles.contract import Contract
from bundles.errors import AskPerson, Refused, TryAgain
from bundles.trust.device.client import TrustStore
from bundles.wire.messages import Profile

_log = logging.getLogger(__name__)

STOP_S = 4.5
"""Of 5 s that a stop may take; the rest is Python's own end."""
LINE_SHARE = 0.6
"""Of the time for a stop: for the call in hand, the windows and the farewell; then the edges are closed anyway."""
BACKGROUND_SHARE = 0.1
"""Of that time: for background work whose connections were just closed under it; what it still writes, it writes before
the trust store is given up."""
BACKGROUND_S = 5.0
"""For the same where nobody is in a hurry."""
PATIENCE_S = 30.0
"""For the call in hand where nobody is in a hurry."""
ANSWER_S = 5.0
RENEWAL_CHECK_MS = 3_600_000
RENEWAL_AGAIN_MS = 60_000
RENEWAL_MARGIN_MS = 1_000


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
    """Return the number of this start, one above the last, made durable before it is used.

    On a disk that takes nothing it is used all the same, and perhaps by the next start too: then the heartbeats of that
    one are taken for old ones until they have caught up, and the model answers meanwhile.
    """
    try:
        session = int(path.read_text("ascii")) + 1
    except (OSError, ValueError):
        session = 1  # never started, or damaged: the spool's boot_epoch still tells the heartbeats apart
    try:
        write_durably(path, str(session).encode("ascii"))
    except OSError as error:
        _log.warning("the number of this start cannot be written: %s", error)
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


def broker_ways(config: AgentConfig, broker: BrokerAddress | None) -> tuple[Way, ...]:
    """Return the ways to the broker that the owner allows and the server offers."""
    return ways_of(
        config.route, has_mqtt=broker is not None, has_websocket=broker is not None and broker.websocket_port > 0
    )


def broker_transport(credentials: Credentials, broker: BrokerAddress, proxies: Proxies) -> TransportOf:
    """Return what makes a device's connection to the broker."""

    def make(
        on_down: Callable[[str, bytes], None],
        on_state: Callable[[bool, str], None],
        presence: Callable[[PresenceState], bytes],
    ) -> Transport:
        edges = Edges(on_down, on_state, presence)
        device = credentials.identity.device
        return MqttLink(
            device,
            broker.host,
            broker.port,
            credentials.broker_context,
            edges,
            websocket_port=broker.websocket_port,
            proxies=proxies,
        )

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
        self._background_s = BACKGROUND_S
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
        self.schedule = Schedule(clock.now_ms)
        self._closers.append(self._end_background)
        self._trust_ms: Callable[[], int] = lambda: trust.clock_ms(clock.wall_ms())
        extra = read_extra_ca(config.extra_ca)
        self.credentials = Credentials(identity, lambda: trust.server_cas, self._trust_ms, extra)
        proxies = read_proxies(config.proxy, config.no_proxy, os.environ)
        url = identity.enrolment.url
        client = open_client(url, self.credentials.server_context(), proxy=proxies.to_url(url))
        self._closers.append(client.close)
        self.door = DeviceDoor(client, identity.device, self.credentials.key)
        self.engine = Engine()
        self._closers.append(self.engine.close)
        store = Store(LocalFileSystem(folders.root), config.reserve_mib * 1024 * 1024)
        store.open()
        spool = Spool(folders.spool, identity.device, max_bytes=config.spool_max_bytes)
        self._closers.append(spool.close)
        self._commands: Commands | None = None  # needs the device, and the device needs where its commands go
        self._clock = clock
        self.accuracy = Accuracy()
        broker = identity.enrolment.mqtt
        ways = broker_ways(config, broker)
        self._fetching = Fetching(
            config,
            self.door,
            extra,
            proxies,
            folders.downloads,
            folders.lost_downloads,
            clock.wall_ms,
            rng,
            uses_broker=bool(broker and ways),
        )
        self._closers.append(self._fetching.close)
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
            fetch=self._fetching.blobs,
            door=self.door,
            transport=self._fetching.over(broker_transport(self.credentials, broker, proxies))
            if broker and ways
            else None,
            ways=ways,
            accuracy=self.accuracy,
            conditions=Conditions(
                config.limits(), folders.update_lock, clock.wall_ms, budget=self._fetching.check_budget
            ),
            on_command=lambda payload: self._commands.take(payload) if self._commands else None,
        )
        policy = Policy(commit_offline=config.commit_offline)
        profile = first_profile(config, identity)
        self.device = Device(me, parts, self.schedule, policy, profile, folders.status, clock.wall_ms, rng)
        self._commands = self._make_commands(parts.assurance)
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

    def stop(self, within_s: float | None = None) -> bool:
        """Stop in an orderly way: windows into the spool, goodbye to the broker, workers ended.

        Args:
            within_s: for a process that ends anyway: what hangs longer (a disk, a driver) is left behind on a thread
                that ends with it; None waits.

        Returns:
            Whether everything has ended.
        """
        stopping = threading.Thread(target=self._stop, args=(within_s,), name="stop", daemon=True)
        stopping.start()
        stopping.join(within_s)
        return not stopping.is_alive()

    def _stop(self, within_s: float | None) -> None:
        self._background_s = BACKGROUND_S if within_s is None else within_s * BACKGROUND_SHARE
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
            done.wait(PATIENCE_S if within_s is None else within_s * LINE_SHARE)
            self.schedule.stop()
            self._thread.join(1.0)
        self._close_all()

    def _end_background(self) -> None:
        self.schedule.stop()
        if not self.schedule.join(self._background_s):
            _log.info("background work goes on: a call that hangs, or a server that does not answer")

    def _close_all(self) -> None:
        while self._closers:
            close = self._closers.pop()
            try:
                close()
            except Exception:  # the next one still has to be closed
                _log.exception("%r could not be closed", close)

    def _metadata(self, name: str, max_length: int) -> Iterable[bytes]:
        return self._fetching.metadata(name, max_length)

    def _check_renewal(self) -> None:
        """Renew the certificate where two thirds of its life are over; look again later either way."""
        due_in_ms = self.credentials.identity.renewal_due_ms - self._trust_ms()
        if due_in_ms > 0:  # by the trust clock: one in 1970 would find none due, ever
            self._renewal_in(min(RENEWAL_CHECK_MS, due_in_ms + RENEWAL_MARGIN_MS))
            return

        def done(result: BaseException | None) -> None:
            if isinstance(result, BaseException):
                self._renewal_in(RENEWAL_AGAIN_MS)
                return
            self.device.link.reconnect()  # the broker judges certificates when connections are made
            self._renewal_in(RENEWAL_MARGIN_MS)

        self.schedule.background(lambda: self.credentials.renew(self.door.post_signed), done)

    def _renewal_in(self, wait_ms: int) -> None:
        self.schedule.at("renewal", self.schedule.now_ms() + wait_ms, self._check_renewal)

    def _make_commands(self, assurance: Assurance) -> Commands:
        device, folders = self.device, self.folders
        remote = Remote(
            folders, self.config, device.me.device, device.updates, assurance, self._on_the_line, self._trust_ms,
            device.write_status,
        )  # fmt: skip
        send = sender(device.link.publish, self.door)
        return Commands(self.schedule, remote.doings(), send, folders.commands, self._trust_ms, device.voice.began)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer the control socket: ``{"do": "rollback" | "retry", "model": ..., "actor": ..., "sha256": ...}``."""
        model, actor = str(request.get("model") or ""), str(request.get("actor", "someone"))
        asked: dict[object, Callable[[], str]] = {
            "rollback": lambda: request_rollback(self.device.updates, model, actor, str(request.get("sha256", ""))),
            "retry": lambda: request_retry(self.device.updates, model, actor),
        }
        call = asked.get(request.get("do"))
        if call is None:
            raise Refused("The agent does not know this request.", code="CONTROL_REQUEST", remedy="Update the agent.")
        return {"ok": True, "model": self._on_the_line(call)}

    def _on_the_line(self, call: Callable[[], str]) -> str:
        done = threading.Event()
        told: list[str | Refused] = []

        def run() -> None:
            try:
                told.append(call())
            except Refused as error:
                told.append(error)
            finally:
                done.set()

        self.schedule.soon(run)
        done.wait(ANSWER_S)
        if not told:
            raise TryAgain("The agent is busy.", code="NOT_READY", remedy="Ask again.")
        if isinstance(told[0], Refused):
            raise told[0]
        return told[0]

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
