"""A real control plane, a real broker and a real agent between them; the attacker has what any device has, and more.

The control plane is the product's ``Server`` in this process: its own folder, SQLite, workers, a private mosquitto, and
its application behind real TLS. The victim ``dev-1`` is the product's ``Agent``, which enrolled there, runs 1.1.0 and
has committed 1.0.0 before. ``dev-2`` belongs to the attacker: an honest enrolment, a key, a certificate. This world is
made once and copied for each test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import queue
import shutil
import socket
import ssl
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import paho.mqtt.client as mqtt
import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion
from securesystemslib.signer import CryptoSigner
from sqlmodel import col, select

from agent.client import Client
from agent.config import AgentConfig
from agent.identity import signing_request
from agent.runner import link
from agent.runner.credentials import enroll_over_https
from agent.runner.wiring import Agent, probe_runtimes
from bundles.build import BuildSpec, VariantSource, build, read_rows
from bundles.contract import Contract, TensorSpec
from bundles.digest import sha256_hex
from bundles.manifest import encode_manifest
from bundles.trust.drafting.drafts import Keys, encode_drafts
from bundles.trust.drafting.founding import first_metadata, found_repository
from bundles.trust.drafting.release import add_release, current_team
from bundles.trust.fetch import folder_fetch
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.signing.signatures import add_signatures
from bundles.trust.signing.signers import new_key
from bundles.wire import topics
from bundles.wire.codec import encode
from bundles.wire.messages import Ack, DesiredModel, Profile
from bundles.wire.proof import make_proof
from control_plane.app import Server, SystemClock
from control_plane.broker.connection import Teller
from control_plane.db.engine import Database
from control_plane.db.tables import Decision, Desired, Device, DeviceEvent, EnrolToken, UsedProof
from control_plane.folder import Folder
from control_plane.identity.authority import write_private
from control_plane.services import desired
from control_plane.serving import bind
from control_plane.settings import Settings
from control_plane.storage import Blobs

VICTIM, THIEF = "dev-1", "dev-2"
MODEL = "vision/digits"
HOST = "127.0.0.1"
WAIT_S = 20.0
DATA = Path(__file__).parents[3] / "control_plane" / "demo" / "data"
QUIET = Profile(heartbeat_s=86_400, report_s=86_400, canary_report_s=86_400, probation_s=0.05, poll_s=86_400)
"""Nothing happens by itself within a test."""
SETTINGS = AgentConfig(
    hardware="cam-a", runtimes=("onnxruntime",), inference="inproc", heartbeat_s=86_400, poll_s=86_400
)
PEM = serialization.Encoding.PEM


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def until(condition, what: str = "it") -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} never became true"
        time.sleep(0.005)


def key_pem(key) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class ShiftedClock(SystemClock):
    """The server's clock, which a test may move."""

    shift_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.shift_ms


class Victim:
    """The real agent, and what reached it.

    Attributes:
        heard: (leaf, payload) of every message that the broker delivered to it.
        losses: how often its session at the broker ended.
    """

    def __init__(self, folder: Path, url: str, mqtt_port: int | None) -> None:
        self.folder, self._url, self._mqtt_port = folder, url, mqtt_port
        self.heard: list[tuple[str, bytes]] = []
        self.losses = 0
        self.agent: Agent | None = None

    def start(self) -> None:
        """Start it, and wait for its connection to the broker; its server has another port in each copy."""
        path = self.folder / "identity" / "enrolment.json"
        broker = {"host": HOST, "port": self._mqtt_port} if self._mqtt_port else None
        path.write_bytes(json.dumps({**json.loads(path.read_bytes()), "url": self._url, "mqtt": broker}).encode())
        self.agent = Agent(self.folder, SETTINGS)
        device = self.agent.device
        if (transport := device.link._transport) is not None:
            edges = transport._edges
            transport._edges = dataclasses.replace(edges, on_down=self._hears(edges), on_state=self._counts(edges))
        self.agent.start()
        if transport is not None:
            until(lambda: transport.connected, "the victim's connection")

    def stop(self) -> None:
        if self.agent is not None:
            self.agent.stop()
            self.agent = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def running(self) -> str:
        """Return the version that answers a real request; empty = none."""
        answer = self.answer()
        return answer[0] if answer else ""

    def answer(self):
        with Client(self.folder / "socket") as client:
            if not client.models():
                return None
            got = client.infer(MODEL, {"image": np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1) % 16})
        return got.version, got.sha256, b"".join(got.outputs[name].tobytes() for name in sorted(got.outputs))

    def told(self, leaf: str) -> list[bytes]:
        return [payload for heard, payload in list(self.heard) if heard == leaf]

    def codes(self) -> list[str]:
        """Return the codes of what the device has in trouble now."""
        return list(self.agent.device.voice.troubles.values())

    def snapshot(self):
        """Return what an attack must leave as it is: pointer, answer, journal's and floors' bytes, slots."""
        answer = self.answer()
        assert answer is not None
        slots = self.folder / "slots"
        return (
            self.agent.device.parts.store.active(MODEL),
            answer,
            (self.folder / "journal" / MODEL.replace("/", "+")).read_bytes(),
            (self.folder / "trust" / "floors.json").read_bytes(),
            {slot.name: sha256_hex((slot / "bundle.json").read_bytes()) for slot in sorted(slots.iterdir())},
        )

    def _hears(self, edges):
        def on_down(leaf: str, payload: bytes) -> None:
            self.heard.append((leaf, payload))
            edges.on_down(leaf, payload)

        return on_down

    def _counts(self, edges):
        def on_state(is_up: bool, reason: str) -> None:
            self.losses += not is_up
            edges.on_state(is_up, reason)

        return on_state


class Thing:
    """A client at the broker that keeps to no rule: any certificate, any client id, any topic."""

    def __init__(self, site: Site, pair: bytes, client_id: str) -> None:
        self.arrived: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.ended, self._answered, self._subscribed = threading.Event(), threading.Event(), threading.Event()
        self.is_up, self._port = False, site.mqtt_port
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5, reconnect_on_failure=False
        )
        path = site.folder / f"thing-{time.monotonic_ns()}.pem"
        write_private(path, pair)
        context = ssl.create_default_context(cadata=site.server_ca_pem)
        context.load_cert_chain(path)
        self.client.tls_set_context(context)
        self.client.on_connect = self._connected
        self.client.on_disconnect = self._disconnected
        self.client.on_message = lambda _c, _u, message: self.arrived.put((message.topic, message.payload))
        self.client.on_subscribe = lambda *_: self._subscribed.set()

    def connect(self, *filters: str) -> bool:
        """Whether the broker takes us; subscribes to ``filters`` where it does."""
        try:
            self.client.connect(HOST, self._port, clean_start=True)
        except OSError:
            return False
        self.client.loop_start()
        assert self._answered.wait(WAIT_S), "neither taken nor turned away"
        if self.is_up and filters:
            self.client.subscribe([(one, 1) for one in filters])
            assert self._subscribed.wait(WAIT_S)
        return self.is_up

    def say(self, device: str, leaf: str, payload: bytes, *, retain: bool = False) -> mqtt.MQTTMessageInfo:
        return self.client.publish(topics.topic(device, leaf), payload, qos=1, retain=retain)

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client.reinitialise()

    def _connected(self, _client, _userdata, _flags, reason, _properties) -> None:
        self.is_up = not reason.is_failure
        self._answered.set()

    def _disconnected(self, *_) -> None:
        self.is_up = False
        self.ended.set()
        self._answered.set()


class Caller:
    """Whoever speaks HTTPS to the devices' door, over real TLS; with a key, under a device's name."""

    def __init__(self, http: httpx.Client, device: str, key) -> None:
        self.http, self.device, self.key = http, device, key

    def proof(self, method: str, path: str, body: bytes = b"", *, sub: str = "") -> dict[str, str]:
        nonce = self.http.get("/v1/time").headers["WG-Nonce"]
        token = make_proof(self.key, sub or self.device, method, path, body, nonce)
        return {"Authorization": f"WG-ES256 {token}"}


class Site:
    """One copy of the world, running.

    Attributes:
        clock: the server's.
        folder: everything of this copy lies under it.
        heard: (device, leaf, payload) that the control plane took from the broker.
        http: a client that trusts the server CA, and knows no secret.
        thief: ``dev-2`` over HTTPS.
    """

    def __init__(self, origin: Path, *, has_broker: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wg-"))
        for path in origin.iterdir():
            (shutil.copytree if path.is_dir() else shutil.copy)(path, self.folder / path.name)
        self.clock = ShiftedClock()
        self._stack = contextlib.ExitStack()
        try:
            self._start(has_broker)
        except BaseException:
            self.close()
            raise

    def _start(self, has_broker: bool) -> None:
        stack, data = self._stack, self.folder / "server"
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.mqtt_port = probe.getsockname()[1]
        listener = bind(HOST, 0, "--device-port")
        stack.callback(listener.close)
        port = listener.getsockname()[1]
        settings = Settings(
            dir=data, mqtt_port=self.mqtt_port, publish_s=0.02, broker="private" if has_broker else "none",
            profile={field: getattr(QUIET, field) for field in ("heartbeat_s", "report_s", "probation_s", "poll_s")},
        )  # fmt: skip
        self.server = Server(settings, Folder(data), self.clock, 0, port)
        stack.callback(self.server.stop)
        self.server.start()
        certificate, key = self.server.device_certificate
        config = uvicorn.Config(
            self.server.app, log_config=None, access_log=False, lifespan="off", ssl_certfile=certificate,
            ssl_keyfile=str(key), timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._door = uvicorn.Server(config)
        thread = threading.Thread(target=self._door.run, args=([listener],), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(lambda: setattr(self._door, "should_exit", True))
        until(lambda: self._door.started, "the devices' door")
        self.db = self.server._db
        self.server_ca_pem = (data / "keys" / "server-ca.pem").read_text()
        self.url = f"https://{HOST}:{port}"
        self.http = self.new_client()
        stack.callback(self.http.close)
        self.heard: list[tuple[str, str, bytes]] = []
        if has_broker:
            self._listen()
            publisher, ingest = self.server._publish_connection, self.server._ingest_connection
            until(lambda: publisher.is_connected and ingest.is_connected, "the control plane's own connections")
            self._teller = Teller(publisher)
        self.victim = Victim(self.folder / "victim", self.url, self.mqtt_port if has_broker else None)
        if self.victim.folder.exists():
            self.start_victim()
            until(lambda: self.victim.running() == "1.1.0", "the victim's model")
            if has_broker:
                until(lambda: self.victim.told(topics.DOWN_DESIRED), "the victim's first document")
                self.reach_victim()
        if (self.folder / "thief.key").exists():
            key = serialization.load_pem_private_key((self.folder / "thief.key").read_bytes(), password=None)
            self.thief = Caller(self.http, THIEF, key)

    def start_victim(self) -> None:
        self._stack.callback(self.victim.stop)
        self.victim.start()

    def stop(self) -> None:
        """End everything that runs; the folder stays."""
        self._stack.close()

    @staticmethod
    def until(condition) -> None:
        """Wait for what must come; what must not come is never waited for."""
        until(condition)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        gc.collect()  # what somebody left open is told here, not in whichever test happens to run next

    def thing(self, pair: bytes = b"", client_id: str = THIEF) -> Thing:
        """Come to the broker with a certificate and key; the attacker's own where none is given."""
        own = (self.folder / "thief.pem").read_bytes() + (self.folder / "thief.key").read_bytes()
        thing = Thing(self, pair or own, client_id)
        self._stack.callback(thing.stop)
        return thing

    def tell(self, device: str, leaf: str, payload: bytes) -> None:
        """Have the control plane say something, and wait until the broker has it."""
        info = self._teller.publish(device, leaf, payload, retain=False)
        assert info is not None
        info.wait_for_publish(WAIT_S)

    def reach_victim(self) -> bool:
        """Have the control plane speak to the victim; returns whether it heard, or had lost its session before.

        What the broker had for the victim earlier has arrived then as well: one connection keeps the order.
        """
        mark = encode(Ack(f"{time.monotonic_ns():016x}", 1))
        self.tell(VICTIM, topics.DOWN_ACK, mark)
        until(lambda: mark in self.victim.told(topics.DOWN_ACK) or self.victim.losses, "the victim's hearing")
        return mark in self.victim.told(topics.DOWN_ACK)

    def drained(self, thing: Thing, device: str = THIEF) -> list[tuple[str, bytes]]:
        """Return what a client got, its own messages aside, when everything sent before this has arrived."""
        mark = encode(Ack(f"{time.monotonic_ns():016x}", 2))
        self.tell(device, topics.DOWN_ACK, mark)
        found: list[tuple[str, bytes]] = []
        while (one := thing.arrived.get(timeout=WAIT_S))[1] != mark:
            found.append(one)
        return [(topic, payload) for topic, payload in found if not topic.startswith(f"{topics.PREFIX}/{device}/")]

    def token(self, **fields) -> str:
        """Have an operator make a claim token; return it."""
        secret = f"{time.monotonic_ns():032x}"
        row = {"uses_left": 1, "expires_ms": self.clock.now_ms() + 60_000, "created_by": "ada", **fields}
        with self.db.write() as session:
            session.add(
                EnrolToken(
                    id=secret[-8:], token_sha256=sha256_hex(secret.encode()), created_ms=self.clock.now_ms(), **row
                )
            )
        return secret

    def enrol(self, key, name: str, token: str, csr: str = "") -> httpx.Response:
        """Enrol at the real door."""
        asked = {"token": token, "csr": csr or signing_request(key, name), "name": name}
        return self.http.post("/v1/enroll", json=asked)

    def new_client(self) -> httpx.Client:
        """Return an HTTPS client with connections of its own."""
        context = ssl.create_default_context(cadata=self.server_ca_pem)
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=WAIT_S)

    def used_proofs(self) -> int:
        """Return how many proofs the server remembers."""
        with self.db.read() as session:
            return len(session.exec(select(UsedProof)).all())

    def events(self, device: str) -> list[str]:
        """Return the codes of a device's timeline."""
        with self.db.read() as session:
            return list(session.exec(select(DeviceEvent.code).where(DeviceEvent.device == device)))

    def row(self, device: str) -> Device | None:
        with self.db.read() as session:
            return session.get(Device, device)

    def snapshot(self):
        """Return what an attack must leave as it is, on the victim and in the control plane's books about it."""
        with self.db.read() as session:
            device, asked = session.get(Device, VICTIM), session.get(Desired, VICTIM)
            audit = session.exec(
                select(Decision.action).where(col(Decision.subject) == f"device:{VICTIM}").order_by(col(Decision.id))
            ).all()
        books = (
            device.public_key_pem, device.next_public_key_pem, device.certificate_pem, device.state,
            device.labels_json, device.hardware, asked.gen, asked.models_json,
            asked.rollout, list(audit),
        )  # fmt: skip
        return self.victim.snapshot(), books

    def assign(self, wanted: DesiredModel) -> None:
        """Have the control plane ask the victim to run something."""
        with self.db.write() as session:
            desired.set_desired(
                session, VICTIM, {MODEL: wanted}, rollout="", canary=False, profile=QUIET, now_ms=now_ms()
            )
        self.server._wake_publisher()

    def _listen(self) -> None:
        consumer = self.server._consumer
        put = consumer._put

        def hear(delivery) -> None:
            self.heard.append((delivery.inbound.device, delivery.inbound.leaf, delivery.inbound.payload))
            put(delivery)

        consumer._put = hear


def found_server(folder: Path):
    """Hold the ceremony of a server's folder, with two releases signed, published and in the blob store."""
    metadata, online = folder / "metadata", folder / "keys"
    online.mkdir(parents=True, mode=0o700)
    people = {name: CryptoSigner.generate_ed25519() for name in ("root", "targets", "vision", "on-call")}
    signers = {role: new_key(online / f"{role}.pem") for role in ("snapshot", "timestamp", "director")}
    drafts = first_metadata(
        root=Keys([people["root"].public_key], 1),
        targets=Keys([people["targets"].public_key], 1),
        teams={"vision": Keys([people["vision"].public_key], 1)},
        revocation=Keys([people["on-call"].public_key], 1),
        snapshot=signers["snapshot"].public_key,
        timestamp=signers["timestamp"].public_key,
        director=signers["director"].public_key,
        now_ms=now_ms(),
    )
    files = add_signatures(None, encode_drafts(drafts), list(people.values()))
    found_repository(metadata, files, signers["snapshot"], signers["timestamp"], now_ms())
    root = files["1.root.json"]
    repository = OnlineRepository(metadata, signers["snapshot"], signers["timestamp"], now_ms)
    blobs, wanted = Blobs.at(folder / "blobs"), {}
    for counter, version in ((3, "1.0.0"), (5, "1.1.0")):
        archive = honest_bundle(folder, version, counter)
        data = encode_manifest(archive.manifest)
        team = current_team(folder_fetch(metadata), root, "vision", now_ms())
        role = add_release(team, data, [people["vision"]], now_ms())
        repository.publish({role.name: role.data})
        for entry in archive.manifest.files:
            blobs.put(entry.sha256, archive.read(entry))
        blobs.put(sha256_hex(data), data)
        target = f"{MODEL}/{version}/bundle.json"
        wanted[version] = DesiredModel(target, sha256_hex(data), len(data), counter)
    Database(f"sqlite:///{folder / 'wavegate.db'}").upgrade()
    return root, wanted


def honest_bundle(folder: Path, version: str, counter: int):
    """Build one of the demo's models into a real bundle."""
    contract = Contract(
        inputs=[TensorSpec("image", "float32", [1, 8, 8, 1], min=0.0, max=16.0, kind="image")],
        outputs=[TensorSpec("probabilities", "float32", [1, 10])],
        task="classification",
        labels=[str(digit) for digit in range(10)],
    )
    spec = BuildSpec(
        team="vision",
        model="digits",
        version=version,
        release_counter=counter,
        channel="prod",
        created_ms=1_792_000_000_000,
        contract=contract,
        variants=[VariantSource("onnx-int8", "onnxruntime", DATA / f"digits-{version}.onnx")],
        goldens=DATA / f"digits-goldens-{version}.npz",
        rows=read_rows(DATA / "digits-train.npz", contract),
    )
    return build(spec, folder / f"{version}.wgb").archive


@pytest.fixture(scope="session")
def origin(tmp_path_factory):
    """The world that every test begins with a copy of: (its folder, what a director says of each release)."""
    folder = tmp_path_factory.mktemp("origin")
    root, wanted = found_server(folder / "server")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(link, "FIRST_CONNECT_S", 0.0)
        site = Site(folder, has_broker=True)
        try:
            make_devices(site, root)
            for version in ("1.0.0", "1.1.0"):
                site.assign(wanted[version])
                until(lambda version=version: has_committed(site, wanted[version].sha256), version)
            site.stop()
            finished = folder / "finished"
            shutil.copytree(site.folder, finished)
        finally:
            site.close()
    (finished / "victim" / "status.json").unlink(missing_ok=True)
    return finished, wanted


def make_devices(site: Site, root: bytes) -> None:
    """Enrol the victim and the attacker's own device, as every device enrols."""
    folder = site.victim.folder
    folder.mkdir()
    probe_runtimes(folder, SETTINGS.runtimes)
    enroll_over_https(
        folder / "identity", url=site.url, token=site.token(), server_ca_pem=site.server_ca_pem, name=VICTIM
    )
    (folder / "root.json").write_bytes(root)
    site.start_victim()
    key = ec.generate_private_key(ec.SECP256R1())
    answer = site.enrol(key, THIEF, site.token()).json()
    (site.folder / "thief.pem").write_text(answer["certificate"])
    write_private(site.folder / "thief.key", key_pem(key))


def has_committed(site: Site, sha256: str) -> bool:
    state = site.victim.agent.device.updates.states.get(MODEL)
    return state is not None and state.step.is_rest and state.committed is not None and state.committed.sha256 == sha256


@pytest.fixture
def new_site(origin, monkeypatch):
    """Return a function that runs a copy of the world; ``disabled`` replaces named checks while it runs."""
    monkeypatch.setattr(link, "FIRST_CONNECT_S", 0.0)
    with contextlib.ExitStack() as stack:

        def make(disabled=None, *, has_broker: bool = True) -> Site:
            patched = stack.enter_context(pytest.MonkeyPatch.context())
            for name, replacement in (disabled or {}).items():
                patched.setattr(name, replacement)
            site = Site(origin[0], has_broker=has_broker)
            stack.callback(site.close)
            site.wanted = origin[1]
            return site

        yield make


@pytest.fixture
def attack(new_site):
    """Play an attack that must fail: ``attack(script, refused)``.

    The script does what the attacker does and returns what came of it, which must be ``refused``; and the victim runs
    its model with the same answer, floors, journal and slots, and the control plane's books about it are as before.
    Returns the site for more assertions.
    """

    def play(script, refused, *, has_broker: bool = True) -> Site:
        site = new_site(has_broker=has_broker)
        until(lambda: site.victim.answer() is not None, "the victim's model")
        before = site.snapshot()
        assert script(site) == refused
        until(lambda: site.victim.answer() is not None, "the victim's model, where the script restarted it")
        assert site.snapshot() == before
        return site

    return play


@pytest.fixture
def with_teeth(new_site):
    """Play the same script with named checks taken away: ``with_teeth(script, succeeded, {"dotted.name": ...})``.

    ``succeeded`` is what the script returns then: the attack has come through, so it was this check that stopped it.
    """

    def play(script, succeeded, disabled, *, has_broker: bool = True) -> Site:
        site = new_site(disabled, has_broker=has_broker)
        assert script(site) == succeeded
        return site

    return play
