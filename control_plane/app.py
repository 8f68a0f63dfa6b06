"""The server's composition root: the only place where its concrete parts are built and started.

Order matters and is kept here: the folder's lock, the ports, the database, the keys, the broker, those who write, those
who tell, and at last the doors. Stopping goes the other way round.
"""

from __future__ import annotations

import contextlib
import getpass
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from sqlmodel import Session

from bundles.errors import AskPerson
from bundles.trust.drafting.expiry import Deadline
from bundles.trust.publishing.repository import OnlineRepository
from control_plane import metrics, own_keys
from control_plane.api.application import create_api
from control_plane.api.deps import ApiSettings, Check, Deps
from control_plane.api.device import DeviceDoors, NonceHeader, device_router
from control_plane.api.fanout import Fanout
from control_plane.api.metrics import metrics_router
from control_plane.broker.configuration import BLOBS_NAME, INGEST_NAME, PUBLISH_NAME, BrokerDoor
from control_plane.broker.connection import Connection, Teller
from control_plane.broker.eviction import evict
from control_plane.broker.introduction import introduce
from control_plane.broker.supervisor import Broker, find_mosquitto
from control_plane.db.engine import Database
from control_plane.deadlines import server_deadlines
from control_plane.folder import Folder, own
from control_plane.identity.authority import Authority
from control_plane.identity.nonce import Nonces
from control_plane.ingest.consumer import Consumer
from control_plane.ingest.writer import Writer
from control_plane.logs import set_up_logging
from control_plane.online_keys import ROLES, OnlineKeys
from control_plane.readiness import revocations_check, trust_check
from control_plane.services import desired, intake, rollouts
from control_plane.services.changes import look
from control_plane.services.deltas import Deltas
from control_plane.services.diagnoses import Keeping
from control_plane.services.reports import Inbound, Outcome
from control_plane.services.trust import ServedTrust
from control_plane.services.trust_view import TrustView, trust_view
from control_plane.serving import Door, bind, serve
from control_plane.settings import Settings
from control_plane.storage import Blobs
from control_plane.web.router import web_router
from control_plane.web.site import WebParts
from control_plane.workers.chunks import ChunkSender
from control_plane.workers.commands import CommandPublisher
from control_plane.workers.drift import DriftJudge
from control_plane.workers.periodic import Periodic
from control_plane.workers.publisher import AckPublisher, DesiredPublisher
from control_plane.workers.revocations import Revocations
from control_plane.workers.upkeep import Upkeep

log = structlog.get_logger()


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Return UTC epoch milliseconds."""
        return time.time_ns() // 1_000_000


def open_database(settings: Settings) -> Database:
    """Open the database of ``settings`` and bring its schema up to date."""
    db = Database(settings.database)
    db.upgrade()
    return db


def server_authority(folder: Folder, now_ms: int) -> Authority:
    """Return the server CA of ``folder``, made the first time."""
    return Authority.open_or_create(folder.keys, "server-ca", now_ms)


def run(settings: Settings, *, started: Callable[[dict[str, Any]], None]) -> None:
    """Run the server until SIGINT or SIGTERM.

    Args:
        settings: everything a person may set.
        started: told the addresses once every door answers.

    Raises:
        AskPerson: ``FOLDER_IN_USE``, ``PORT_IN_USE``, ``TRUST_NOT_INITIALISED``, ``BROKER_START``,
            ``BROKER_MISSING`` (only where a broker is required).
    """
    set_up_logging(settings)
    folder = Folder(settings.dir)
    with own(folder), contextlib.ExitStack() as stack:
        operators = bind(settings.host, settings.port, "--port")
        stack.callback(operators.close)
        devices = bind(settings.device_host, settings.device_port, "--device-port")
        stack.callback(devices.close)
        server = Server(settings, folder, SystemClock(), operators.getsockname()[1], devices.getsockname()[1])
        stack.callback(server.stop)
        server.start()
        certificate, key = server.device_certificate
        doors = [Door(operators), Door(devices, certificate, key)]
        serve(server.app, doors, started=lambda: started(server.addresses()))


class Server:
    """Every part of one running control plane.

    Args:
        settings: everything a person may set.
        folder: the data folder, already held.
        clock: the server's clock.
        port: the operators' port, bound.
        device_port: the devices' port, bound.
    """

    def __init__(self, settings: Settings, folder: Folder, clock: SystemClock, port: int, device_port: int) -> None:
        self._settings, self._folder, self._clock = settings, folder, clock
        self._port, self._device_port = port, device_port
        now_ms = clock.now_ms()
        self._server_ca = server_authority(folder, now_ms)
        self._device_ca = Authority.open_or_create(folder.keys, "device-ca", now_ms)
        keys = _online_keys(folder)
        repository = OnlineRepository(folder.metadata, keys.ring("snapshot"), keys.ring("timestamp"), clock.now_ms)
        keys.director(repository.targets)  # a server that could sign for no device does not start
        self._db = open_database(settings)
        self._trust = ServedTrust(
            repository,
            folder.metadata,
            keys,
            self._db,
            clock.now_ms,
            changed=self._wake_publisher,
            place=f"http://{settings.host}:{port}",
        )
        self._blobs = Blobs.at(settings.blobs_url or folder.path / "blobs")
        self._deltas = Deltas(self._db, self._blobs, scratch=folder.path)
        self._broker = self._make_broker()
        own_keys.issue_door(folder, self._server_ca, settings.names, now_ms)
        if self._broker is not None:
            own_keys.issue_broker(folder, self._server_ca, self._device_ca, settings.names, now_ms)
        self._ingest_connection: Connection | None = None
        self._publish_connection: Connection | None = None
        self._writer: Writer | None = None
        self._chunks: ChunkSender | None = None
        self._workers = self._make_workers()
        self.app = self._make_app()

    @property
    def device_certificate(self) -> tuple[Path, Path]:
        """Certificate and key of the devices' TLS door."""
        return self._folder.keys / "server.pem", self._folder.keys / "server.key"

    def addresses(self) -> dict[str, Any]:
        """Return where this server answers, for people and for those who started it."""
        return {
            "operators": f"http://{self._settings.host}:{self._port}",
            "devices": f"https://{self._settings.device_host}:{self._device_port}",
            "mqtt": (self._settings.names[-1], self._settings.mqtt_port) if self._broker else None,
            "server_ca": str((self._folder.keys / "server-ca.pem").absolute()),
            "broker_pid": self._broker.pid if self._broker else None,
        }

    def start(self) -> None:
        """Start the broker, the connections to it and the workers."""
        if self._broker is not None:
            self._revocations.write()
            self._broker.start()
            self._start_ingest()
            self._start_chunks()
        self._trust.settle()  # what a crash after a publication left
        self._tell_everything_again()
        for worker in self._workers.values():
            worker.start()

    def stop(self) -> None:
        """Stop everything that ``start`` started, in the other order; harmless when half of it never started."""
        if self._ingest_connection is not None:
            self._ingest_connection.stop()
        if self._chunks is not None:
            self._chunks.stop()
        if self._writer is not None:
            self._writer.stop()
        for worker in self._workers.values():
            with contextlib.suppress(RuntimeError):  # never started
                worker.stop()
        self._deltas.close()
        if self._publish_connection is not None:
            self._publish_connection.stop()
        if self._broker is not None:
            self._broker.stop()
        self._db.close()

    def _make_broker(self) -> Broker | None:
        settings = self._settings
        if settings.broker == "none":
            return None
        program = find_mosquitto(settings.mosquitto)
        if program is None:
            if settings.broker_required:
                raise AskPerson(
                    "mosquitto was not found.",
                    code="BROKER_MISSING",
                    remedy="Install it: apt-get install mosquitto; or start without --broker-required.",
                )
            log.warning("broker_missing", remedy="apt-get install mosquitto; until then devices poll over HTTPS")
            return None
        self._folder.broker.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Broker(
            program,
            self._folder.broker,
            settings.mqtt_host,
            settings.mqtt_port,
            self._tell_everything_again,
            settings.mqtt_ws_port,
            lambda: introduce(PUBLISH_NAME, self._folder.keys, settings.mqtt_host, settings.mqtt_ws_port),
        )

    def _make_workers(self) -> dict[str, Periodic]:
        settings = self._settings
        upkeep = Upkeep(self._db, self._trust, settings.raw_retention_h, self._clock.now_ms, self._deadlines)
        drift = DriftJudge(
            self._db, self._blobs.read_all, settings.rollup_bucket_s, settings.timing(), self._clock.now_ms
        )
        workers = {
            "reconciler": Periodic("reconciler", settings.reconcile_s, self._reconcile),
            "drift": Periodic("drift", settings.drift_s, drift.round),
            "upkeep": Periodic("upkeep", 60.0, upkeep.round),
        }
        teller = None
        if self._broker is not None:
            self._publish_connection = self._connection(PUBLISH_NAME)
            teller = Teller(self._publish_connection)
            publisher = DesiredPublisher(self._db, teller, self._trust.sign, self._clock.now_ms)
            self._acks = AckPublisher(teller)
            workers["publisher"] = Periodic("publisher", settings.publish_s, publisher.round)
            workers["renewer"] = Periodic("renewer", 3600.0, publisher.refresh_aging)
            workers["acks"] = Periodic("acks", 1.0, self._acks.round)
            self._revocations = Revocations(
                self._db,
                self._device_ca,
                self._folder.broker.crl,
                self._broker.reload,
                self._evict,
                self._clock.now_ms,
            )
            workers["revocations"] = Periodic("revocations", 1.0, self._revocations.round)
        keeping = Keeping(days=settings.diagnoses_days, total_bytes=settings.diagnoses_mib * 1024 * 1024)
        commands = CommandPublisher(self._db, teller, self._clock.now_ms, settings.tell_again_s, keeping)
        workers["commands"] = Periodic("commands", 1.0, commands.round)
        return workers

    def _make_app(self) -> Any:
        doors = DeviceDoors(
            db=self._db,
            blobs=self._blobs,
            metadata_dir=self._folder.metadata,
            authority=self._device_ca,
            server_ca_pem=self._server_ca.certificate_pem.decode(),
            nonces=Nonces(own_keys.nonce_secret(self._folder)),
            sign=self._trust.sign,
            ingest=self._ingest,
            committed=self._committed,
            profile=self._settings.timing(),
            broker=self._broker_door,
            now_ms=self._clock.now_ms,
            deltas=self._deltas,
            allows_approval=self._settings.enrolment == "approval",
        )
        settings = self._settings
        fanout = Fanout(look(self._db))
        web = web_router(WebParts(self._db, self._clock.now_ms, fanout.listen, self._trust_view))
        deps = Deps(
            db=self._db,
            storage=self._blobs,
            clock=self._clock,
            metadata=self._trust,
            sign=self._trust.sign,
            random_bytes=secrets.token_bytes,
            fanout=fanout,
            web=web,
            settings=ApiSettings(
                max_publish_bytes=settings.max_publish_bytes,
                scratch=self._folder.path,
                profile=settings.timing(),
                public_url=f"http://{settings.host}:{self._port}",
            ),
            device_surface=device_router(doors),
            extra=[metrics_router(self._db)],
            readiness=[self._broker_check, self._revocations_check, self._trust_check],
            deadlines=self._deadlines,
            commanded=lambda: self._workers["commands"].wake(),
        )
        app = create_api(deps)
        app.add_middleware(NonceHeader, nonce=lambda: doors.nonces.current(doors.now_ms()))
        return app

    def _start_ingest(self) -> None:
        self._writer = Writer(self._db, self._ingest, self._clock.now_ms, self._committed)
        self._writer.start()
        self._ingest_connection = self._connection(INGEST_NAME, manual_ack=True)
        self._consumer = Consumer(self._ingest_connection, self._writer.put)
        self._ingest_connection.start()
        assert self._publish_connection is not None
        self._publish_connection.start()

    def _start_chunks(self) -> None:
        connection = self._connection(BLOBS_NAME)
        rate = self._settings.chunk_rate_kib_s * 1024
        self._chunks = ChunkSender(connection, self._db, self._blobs, self._deltas, self._folder.metadata, rate)
        self._chunks.start()

    def _ingest(self, session: Session, batch: Any, now_ms: int) -> Outcome:
        items: list[Inbound] = list(batch)
        bucket_ms = int(self._settings.rollup_bucket_s * 1000)
        return intake.take_in(session, items, bucket_ms=bucket_ms, now_ms=now_ms)

    def _committed(self, outcome: Outcome) -> None:
        if self._broker is not None and outcome.acks:
            self._acks.add(outcome.acks)
        if outcome.touched:
            self._wake_publisher()

    def _reconcile(self) -> None:
        bucket_ms = int(self._settings.rollup_bucket_s * 1000)
        moved = rollouts.tick(self._db, self._clock.now_ms(), bucket_ms=bucket_ms)
        if moved:
            self._wake_publisher()

    def _wake_publisher(self) -> None:
        if publisher := self._workers.get("publisher"):
            publisher.wake()

    def _tell_everything_again(self) -> None:
        """Nothing retained can be counted on after a start of the broker or of ourselves."""
        if self._broker is not None:
            metrics.BROKER_RESTARTS.set(self._broker.restarts)
        with self._db.write() as session:
            desired.republish_all(session)
        self._wake_publisher()

    def _broker_door(self) -> BrokerDoor | None:
        settings = self._settings
        if self._broker is None:
            return None
        websocket_port = settings.told_mqtt_ws_port or settings.mqtt_ws_port
        return BrokerDoor(settings.names[-1], settings.told_mqtt_port or settings.mqtt_port, websocket_port)

    def _broker_check(self) -> Check:
        if self._broker is None:
            return Check("broker", True, "none; devices poll over HTTPS")
        connected = self._publish_connection is not None and self._publish_connection.is_connected
        return Check("broker", connected, "" if connected else "not connected")

    def _revocations_check(self) -> Check:
        now_ms = self._clock.now_ms()
        return revocations_check(self._folder.broker.crl if self._broker else None, now_ms)

    def _trust_view(self) -> TrustView:
        return trust_view(self._trust, self._clock.now_ms(), self._deadlines())

    def _trust_check(self) -> Check:
        return trust_check(self._trust, self._clock.now_ms())

    def _deadlines(self) -> dict[str, Deadline]:
        broker = self._folder.broker if self._broker else None
        return server_deadlines(self._folder.keys, broker, self._clock.now_ms())

    def _connection(self, name: str, *, manual_ack: bool = False) -> Connection:
        return Connection(
            name, self._folder.keys, self._settings.mqtt_host, self._settings.mqtt_port, manual_ack=manual_ack
        )

    def _evict(self, device: str) -> None:
        pin, settings = self._server_ca.certificate_pem, self._settings
        issued = self._device_ca.issue_eviction(device, self._clock.now_ms())
        evict(device, issued.pair_pem, pin, settings.mqtt_host, settings.mqtt_port)


def _online_keys(folder: Folder) -> OnlineKeys:
    """Load the keys this server signs with.

    Raises:
        AskPerson: ``TRUST_NOT_INITIALISED`` where no ceremony was held for this folder.
    """
    in_use = [folder.keys / f"{role}.pem" for role in ROLES]
    if not all(path.exists() for path in (*in_use, folder.metadata / "timestamp.json")):
        raise AskPerson(
            f"The trust repository of {folder.path} is not set up.",
            code="TRUST_NOT_INITIALISED",
            remedy=f"Run the key ceremony first: wavegate trust init --help (user {getpass.getuser()}).",
        )
    return OnlineKeys(folder.keys)
