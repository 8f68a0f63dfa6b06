"""A small control plane for agent tests: throwaway CAs, a real mosquitto with mutual TLS, a real HTTPS server.

It speaks the device surface and nothing else. Misbehaviour is one attribute away (``fail_next``, ``old_nonces``).
"""

from __future__ import annotations

import datetime
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from agent.runner.wiring import probe_runtimes
from bundles.build import BuildSpec, VariantSource, build, read_rows
from bundles.contract import Contract, TensorSpec
from bundles.digest import sha256_hex
from bundles.trust.director import sign_desired
from bundles.trust.drafting.release import add_release, current_team
from bundles.trust.fetch import folder_fetch
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.signing.ceremony import PROFILES, hold_ceremony
from bundles.trust.signing.signers import load_signer, new_key
from bundles.wire import codec, commands, topics
from bundles.wire.messages import Ack, Desired, DesiredModel, Profile
from bundles.wire.proof import read_proof, verify_proof

LOOPBACK = "127.0.0.1"


def wait_until(condition, seconds=20.0, what="condition"):
    """Poll until true; the limit only ends a broken run."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come true in {seconds} s")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return sock.getsockname()[1]


def watermark(messages, device: str, epoch: str) -> int:
    """Return the highest seq up to which every report of a device has arrived."""
    stored = set()
    for sender, leaf, payload in list(messages):
        if sender == device and leaf in (topics.UP_EVENT, topics.UP_TELEMETRY):
            message = codec.decode_up(leaf, payload)
            if message.boot_epoch == epoch:
                stored.add(message.seq)
    upto = 0
    while upto + 1 in stored:
        upto += 1
    return upto


class Authority:
    """A throwaway CA."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._build(name, self.key.public_key(), ca=True)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, name: str, public_key, *, server: bool = False, life=datetime.timedelta(days=30), age=None) -> str:
        certificate = self._build(name, public_key, server=server, life=life, age=age)
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def write_pair(self, folder: Path, name: str, *, server: bool = False) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        cert_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
        cert_path.write_text(self.issue(name, key.public_key(), server=server))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        key_path.chmod(0o600)
        return cert_path, key_path

    def _build(self, name, public_key, *, ca=False, server=False, life=datetime.timedelta(days=30), age=None):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = subject if ca else self.certificate.subject
        start = datetime.datetime.now(datetime.UTC) - (age or datetime.timedelta(minutes=5))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + life)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if server:
            import ipaddress

            names = [x509.IPAddress(ipaddress.ip_address(LOOPBACK)), x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if not ca:
            usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


class Broker:
    """A private mosquitto, configured as the control plane's own."""

    def __init__(self, folder: Path, server_ca: Authority, device_ca: Authority) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(exist_ok=True)
        cert, key = server_ca.write_pair(folder, "broker", server=True)
        (folder / "device-ca.pem").write_text(device_ca.pem)
        (folder / "acl").write_text(
            "user cp.ingest\ntopic readwrite wg/1/d/#\npattern read wg/1/d/%u/down/#\npattern write wg/1/d/%u/up/#\n"
        )
        import getpass

        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} {LOOPBACK}\ncafile {folder / 'device-ca.pem'}\ncertfile {cert}\nkeyfile {key}\n"
            "require_certificate true\nuse_identity_as_username true\nuse_username_as_clientid true\n"
            f"allow_anonymous false\nacl_file {folder / 'acl'}\nuser {getpass.getuser()}\nmax_packet_size 262144\n"
            f"persistence true\npersistence_location {folder}/\nset_tcp_nodelay true\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        assert program, "mosquitto is not installed: apt-get install mosquitto"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([program, "-c", self.folder / "mosquitto.conf"], stdout=log, stderr=log)

        def listening():
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with socket.socket() as sock:
                return sock.connect_ex((LOOPBACK, self.port)) == 0

        wait_until(listening, what="broker listening")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Consumer:
    """The control plane's side of the broker: sees everything devices say, and may speak to them."""

    def __init__(self, broker: Broker, server_ca: Authority, device_ca: Authority) -> None:
        cert, key = device_ca.write_pair(broker.folder, "cp.ingest")
        context = ssl.create_default_context(cadata=server_ca.pem)
        context.load_cert_chain(cert, key)
        self.messages: list[tuple[str, str, bytes]] = []
        self.acks = False
        self.client = Client(CallbackAPIVersion.VERSION2, client_id="cp.ingest", protocol=MQTTv5)
        self.client.tls_set_context(context)
        subscribed = threading.Event()
        self.client.on_connect = lambda c, *_: c.subscribe("wg/1/d/+/up/#", 1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = self._on_message
        self.client.connect(LOOPBACK, broker.port)
        self.client.loop_start()
        assert subscribed.wait(10)

    def of(self, device: str, leaf: str):
        return [codec.decode_up(leaf, p) for d, kind, p in list(self.messages) if (d, kind) == (device, leaf)]

    def tell(self, device: str, leaf: str, payload: bytes, retain: bool = False) -> None:
        self.client.publish(topics.topic(device, leaf), payload, 1, retain).wait_for_publish(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_message(self, _client, _userdata, message) -> None:
        split = topics.split_up_topic(message.topic)
        if split is None:
            return
        device, leaf = split
        self.messages.append((device, leaf, bytes(message.payload)))
        if self.acks and leaf in (topics.UP_EVENT, topics.UP_TELEMETRY):
            epoch = codec.decode_up(leaf, bytes(message.payload)).boot_epoch
            ack = codec.encode(Ack(epoch, watermark(self.messages, device, epoch)))
            self.client.publish(topics.topic(device, topics.DOWN_ACK), ack, 1)


@dataclass
class Server:
    """The HTTPS device surface, in memory."""

    server_ca: Authority
    device_ca: Authority
    folder: Path
    desired: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    metadata_dir: Path | None = None
    mqtt: dict | None = None
    poll_s: float = 60.0
    certificate_life: datetime.timedelta = datetime.timedelta(days=365)
    certificate_age: datetime.timedelta = datetime.timedelta(minutes=5)
    public_keys: dict = field(default_factory=dict)
    tokens: dict = field(default_factory=lambda: {"good-token": None})
    reports: list[tuple[str, str, bytes]] = field(default_factory=list)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    fail_next: list[int] = field(default_factory=list)
    commands: list[commands.Command] = field(default_factory=list)
    results: dict[str, commands.CommandResult] = field(default_factory=dict)
    nonce: str = "nonce-1"
    renewals: int = 0
    jtis: set = field(default_factory=set)

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args):
                pass

            def do_GET(self):
                outer.answer(self, b"")

            def do_POST(self):
                outer.answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client_address):
                pass  # handshakes that fail on purpose

        cert, key = self.server_ca.write_pair(self.folder, "server", server=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self.httpd = Quiet((LOOPBACK, 0), Handler)
        self.httpd.socket = context.wrap_socket(self.httpd.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://{LOOPBACK}:{self.httpd.server_port}"
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.httpd.shutdown()
        self.httpd.server_close()

    def answer(self, handler, body: bytes) -> None:
        status, headers, content = self._route(handler, body)
        self.requests.append((handler.command, handler.path, status))
        handler.send_response(status)
        for name, value in {"WG-Nonce": self.nonce, "Content-Type": "application/json", **headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if status != 304:
            handler.wfile.write(content)

    def _route(self, handler, body: bytes):
        path = handler.path
        if self.fail_next:
            return _problem(self.fail_next.pop(0), "planned")
        if path == "/v1/time":
            return 200, {}, json.dumps({"now_ms": int(time.time() * 1000), "nonce": self.nonce}).encode()
        if path.startswith("/metadata/"):
            return self._file(path.removeprefix("/metadata/"))
        if path == "/v1/enroll":
            return self._enroll(json.loads(body))
        token = handler.headers.get("Authorization", "").removeprefix("WG-ES256 ")
        try:
            device = read_proof(token).sub
            claims = verify_proof(
                token, self.public_keys[device], handler.command, path, body, lambda n: n == self.nonce
            )
            if claims.jti in self.jtis:
                return _problem(401, "replayed")
            self.jtis.add(claims.jti)
        except Exception as error:
            return _problem(401, str(error))
        if path == "/v1/renew":
            return self._renew(device, json.loads(body))
        if path == "/v1/device/desired":
            return self._desired(device, handler.headers.get("If-None-Match", ""))
        if path == "/v1/device/reports":
            return self._reports(device, body)
        if path == "/v1/device/commands":
            return 200, {}, commands.encode([one for one in self.commands if one.id not in self.results])
        if path.startswith("/v1/device/commands/"):
            self.results[path.split("/")[4]] = commands.decode_result(body)
            return 204, {}, b""
        if path.startswith("/v1/blobs/sha256/"):
            return self._blob(path.rpartition("/")[2], handler.headers.get("Range", ""))
        return _problem(404, "no such path")

    def _enroll(self, request):
        if request["token"] not in self.tokens:
            return _problem(403, "unknown token", "ENROL_TOKEN")
        csr = x509.load_pem_x509_csr(request["csr"].encode())
        names = csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        device = str(names[0].value) if names else "dev-1"
        return self._certify(device, csr.public_key())

    def _renew(self, device, request):
        self.renewals += 1
        return self._certify(device, x509.load_pem_x509_csr(request["csr"].encode()).public_key())

    def _certify(self, device, public_key):
        self.public_keys[device] = public_key
        pem = self.device_ca.issue(device, public_key, life=self.certificate_life, age=self.certificate_age)
        answer = {"device": device, "certificate": pem, "server_ca": self.server_ca.pem, "mqtt": self.mqtt}
        return 200, {}, json.dumps({**answer, "poll_s": self.poll_s, "something_new": 1}).encode()

    def _desired(self, device, etag):
        if device not in self.desired:
            return _problem(404, "nothing assigned")
        data, current = self.desired[device]
        if etag == f'"{current}"':
            return 304, {"ETag": etag}, b""
        return 200, {"ETag": f'"{current}"'}, data

    def _reports(self, device, body):
        highest: dict[str, int] = {}
        for envelope in codec.decode_batch(body):
            self.reports.append((device, envelope.leaf, envelope.payload))
            message = codec.decode_up(envelope.leaf, envelope.payload)
            highest[message.boot_epoch if hasattr(message, "boot_epoch") else ""] = getattr(message, "seq", 0)
        epoch = next((e for e in highest if e), "")
        waiting = sum(one.id not in self.results for one in self.commands)
        return 200, {}, codec.encode(Ack(epoch, watermark(self.reports, device, epoch), commands=waiting))

    def _blob(self, sha256, range_header):
        blob = self.blobs.get(sha256)
        if blob is None:
            return _problem(404, "no such blob")
        headers = {"Content-Type": "application/octet-stream"}
        if range_header:
            start = int(range_header.removeprefix("bytes=").partition("-")[0])
            return 206, {**headers, "Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"}, blob[start:]
        return 200, headers, blob

    def _file(self, name):
        path = self.metadata_dir / name if self.metadata_dir and "/" not in name else None
        if path is None or not path.is_file():
            return _problem(404, "no such metadata")
        return 200, {}, path.read_bytes()


def _problem(status: int, detail: str, code: str = "PLANNED"):
    body = {"title": "no", "detail": detail, "code": code, "status": status}
    return status, {"Content-Type": "application/problem+json"}, msgspec.json.encode(body)


DATA = Path(__file__).parents[3] / "control_plane" / "demo" / "data"
MODEL = "vision/digits"
CONTRACT = Contract(
    inputs=[TensorSpec("image", "float32", [1, 8, 8, 1], min=0.0, max=16.0, kind="image")],
    outputs=[TensorSpec("probabilities", "float32", [1, 10])],
    task="classification",
    labels=[str(digit) for digit in range(10)],
)
FAST = Profile(
    heartbeat_s=0.3,
    report_s=1.0,
    canary_report_s=0.5,
    probation_s=1.0,
    accept_s=30,
    download_s=30,
    activate_s=30,
    poll_s=0.3,
)


class Publisher:
    """Really signed bundles and desired documents, with all keys at hand, put on a ``Server``."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server, self.gen = folder, server, 0
        ceremony = hold_ceremony(
            folder, PROFILES["solo"], ["vision"], passphrase=None, now_ms=self.now(), scheme="ecdsa"
        )
        self.root_path = ceremony.root
        self.root = ceremony.root.read_bytes()
        keys = ceremony.server / "keys"
        self.metadata = ceremony.server / "metadata"
        self.repository = OnlineRepository(
            self.metadata, load_signer(keys / "snapshot.pem"), load_signer(keys / "timestamp.pem"), self.now
        )
        self.director = load_signer(keys / "director.pem")
        self.team = load_signer(folder / "keys" / "team-vision.pem")
        self.stranger = new_key(folder / "stranger.pem")
        self.rows = read_rows(DATA / "digits-train.npz", CONTRACT)
        self.data = DATA
        self.stream = DATA / "digits-stream.npz"
        server.metadata_dir = self.metadata

    def now(self) -> int:
        return int(time.time() * 1000)

    def publish(self, version: str, counter: int, *, channel="prod", variants=None, goldens=None) -> DesiredModel:
        """Build, sign and publish a release of the demo's models."""
        variants = variants or [
            VariantSource("onnx-int8", "onnxruntime", DATA / f"digits-{version}.onnx"),
            VariantSource("litert-int8", "litert", DATA / f"digits-{version}.tflite"),
            VariantSource("tflite-int8", "tflite", DATA / f"digits-{version}.tflite"),
        ]
        spec = BuildSpec(
            team="vision",
            model="digits",
            version=version,
            release_counter=counter,
            channel=channel,
            created_ms=self.now(),
            contract=CONTRACT,
            variants=variants,
            goldens=goldens or DATA / f"digits-goldens-{version}.npz",
            rows=self.rows,
        )
        archive = build(spec, self.folder / f"{version}-{counter}.wgb").archive
        state = current_team(folder_fetch(self.metadata), self.root, "vision", self.now())
        role = add_release(state, archive.manifest_bytes, [self.team], self.now())
        self.repository.publish({role.name: role.data})
        self.server.blobs[archive.sha256] = archive.manifest_bytes
        for entry in archive.manifest.files:
            self.server.blobs[entry.sha256] = archive.read(entry)
        return DesiredModel(archive.manifest.target_path, archive.sha256, len(archive.manifest_bytes), counter)

    def desire(
        self, device: str, wanted: DesiredModel | None, *, rollout="", gen=None, signer=None, **changes
    ) -> bytes:
        """Sign a desired document for a device and serve it."""
        self.gen = gen if gen is not None else self.gen + 1
        now = self.now()
        fields = {"profile": FAST, "trust_version": self.repository.timestamp_version, "rollout": rollout, **changes}
        models = {MODEL: wanted} if wanted else {}
        desired = Desired(device, self.gen, now, now + 86_400_000, models, **fields)
        data = sign_desired(desired, signer or self.director)
        self.server.desired[device] = (data, f"{self.gen}.{sha256_hex(data)[:8]}")
        return data


@pytest.fixture
def server_ca() -> Authority:
    return Authority("test server CA")


@pytest.fixture
def device_ca() -> Authority:
    return Authority("test device CA")


@pytest.fixture
def broker(tmp_path, server_ca, device_ca) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker", server_ca, device_ca)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def consumer(broker, server_ca, device_ca) -> Iterator[Consumer]:
    consumer = Consumer(broker, server_ca, device_ca)
    yield consumer
    consumer.close()


@pytest.fixture
def server(tmp_path, server_ca, device_ca) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(server_ca, device_ca, folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def until():
    return wait_until


@pytest.fixture
def publisher(tmp_path, server) -> Publisher:
    return Publisher(tmp_path / "ceremony", server)


@pytest.fixture
def short_path():
    """A folder with a short name: a Unix socket's path holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="wg-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def probed():
    """Put what the probe finds of some runtimes into an agent's folder; it is found once for all tests."""
    found: dict[tuple[str, ...], bytes] = {}

    def put(folder: Path, *names: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if names not in found:
            probe_runtimes(folder, names)
            found[names] = (folder / "probe.json").read_bytes()
        (folder / "probe.json").write_bytes(found[names])

    return put
