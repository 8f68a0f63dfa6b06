"""A repository with real keys behind a real local HTTP server, and devices that use it; misbehaviour is one line."""

from __future__ import annotations

import datetime
import ipaddress
import json
import shutil
import ssl
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from bundles.digest import sha256_hex
from bundles.errors import TryAgain
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest, parse_manifest
from bundles.trust.device.client import TrustStore
from bundles.trust.director import sign_desired
from bundles.trust.drafting.drafts import encode_drafts
from bundles.trust.drafting.offline import Quorum, new_repository
from bundles.trust.drafting.release import add_release, current_team
from bundles.trust.drafting.statements import revoke_bundle
from bundles.trust.fetch import NotServed, folder_fetch
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.roles import utc
from bundles.trust.signing.signatures import add_signatures
from bundles.wire import codec, topics
from bundles.wire.messages import Ack, Desired, DesiredModel

LOOPBACK = "127.0.0.1"
DAY_MS = 86_400_000
KEYS = ("root1", "root2", "root3", "targets1", "targets2", "vision", "audio", "snapshot", "timestamp", "director")
MORE_KEYS = ("revocation1", "revocation2", "kit1", "kit2")


def http_fetch(client: httpx.Client):
    """Return a fetch over HTTP, as a device's is."""

    def fetch(name: str, max_length: int) -> Iterable[bytes]:
        try:
            answer = client.get(f"/{name}")
        except httpx.HTTPError as error:
            raise TryAgain(str(error)) from error
        if answer.status_code != 200:
            raise NotServed(name, answer.status_code)
        return [answer.content]

    return fetch


class Lab:
    """The honest repository, the attacker's hands on what is served, and devices.

    Args:
        folder: for the repository and the devices.
        like: a lab to begin as a copy of: the same keys, repository and bundles.

    Attributes:
        keys: every key by name: an attacker uses the ones a test says were stolen.
        served: file name -> bytes (or an HTTP status) served instead of the honest file.
        base: a real bundle's manifest that releases are variations of; None = releases of a made-up file.
    """

    def __init__(self, folder: Path, like: Lab | None = None) -> None:
        self.folder, self.served = folder, {}
        self.repository_folder = folder / "repository"
        self.base: Manifest | None = None
        self.manifests: dict[str, bytes] = {}
        if like is None:
            self._found()
        else:
            shutil.copytree(like.repository_folder, self.repository_folder)
            self.keys, self.base, self.manifests = dict(like.keys), like.base, dict(like.manifests)
        self.repository = OnlineRepository(
            self.repository_folder, self.keys["snapshot"], self.keys["timestamp"], self.now
        )
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._client = httpx.Client(base_url=url, timeout=5, trust_env=False, verify=False)
        self._stores: list[TrustStore] = []

    def _found(self) -> None:
        self.keys = {
            name: CryptoSigner.generate_ecdsa() if name in ("vision", "director") else CryptoSigner.generate_ed25519()
            for name in (*KEYS, *MORE_KEYS)
        }
        self.repository_folder.mkdir()
        files = new_repository(
            root=Quorum(self.some("root1", "root2", "root3"), 2),
            targets=Quorum(self.some("targets1", "targets2"), 2),
            teams={"vision": Quorum(self.some("vision"), 1), "audio": Quorum(self.some("audio"), 1)},
            snapshot=self.keys["snapshot"],
            timestamp=self.keys["timestamp"],
            director=self.keys["director"].public_key,
            revocation=Quorum(self.some("revocation1", "revocation2"), 1),
            kit=Quorum(self.some("kit1", "kit2"), 2),
            now_ms=self.now(),
        )
        for name, data in files.items():
            (self.repository_folder / name).write_bytes(data)

    def now(self) -> int:
        return int(time.time() * 1000)

    def some(self, *names: str) -> list[CryptoSigner]:
        return [self.keys[name] for name in names]

    def root(self) -> bytes:
        return (self.repository_folder / "1.root.json").read_bytes()

    def honest(self, name: str) -> bytes:
        return (self.repository_folder / name).read_bytes()

    def store(self, device: str = "dev-1", **options) -> TrustStore:
        fetch = http_fetch(self._client)
        store = TrustStore(
            self.folder / device, options.pop("root", self.root()), device=device, fetch=fetch, **options
        )
        self._stores.append(store)
        return store

    def manifest(
        self, version: str, counter: int, *, model="digits", team="vision", channel="prod", hardware=(), **options
    ):
        if (base := options.pop("base", self.base)) is not None:
            changes = {"team": team, "model": model, "version": version, "release_counter": counter}
            variants = [msgspec.structs.replace(v, hardware=list(hardware)) for v in base.variants]
            return encode_manifest(
                msgspec.structs.replace(base, **changes, channel=channel, variants=variants, **options)
            )
        variant = Variant("a", "onnxruntime", "m.onnx", hardware=list(hardware))
        file = BundleFile("m.onnx", sha256_hex(version.encode()), len(version), "model")
        return encode_manifest(
            Manifest(team, model, version, counter, channel, 1_792_000_000_000, files=[file], variants=[variant])
        )

    def sign_release(self, version: str, counter: int, **options):
        """Let the team sign a bundle; returns (its new role, what a director would say of it)."""
        data = self.manifest(version, counter, **options)
        team = options.get("team", "vision")
        state = current_team(folder_fetch(self.repository_folder), self.root(), team, self.now())
        target = f"{team}/{options.get('model', 'digits')}/{version}/bundle.json"
        wanted = DesiredModel(target, sha256_hex(data), len(data), counter)
        self.manifests[target] = data
        return add_release(state, data, [self.keys[team]], self.now()), wanted

    def publish(self, version: str, counter: int, **options) -> DesiredModel:
        signed, wanted = self.sign_release(version, counter, **options)
        self.repository.publish({signed.name: signed.data})
        return wanted

    def publish_drafts(self, drafts, *keys: str) -> None:
        """Have the named holders sign drafts of ``bundles.trust``, and publish them."""
        self.repository.publish(add_signatures(self.repository.state, encode_drafts(drafts), self.some(*keys)))

    def revoke(self, sha256: str, *keys: str) -> None:
        """Have the named holders (``revocation1``..., or ``targets1`` and ``targets2``) revoke a bundle."""
        by_targets = keys[0].startswith("targets")
        drafts = revoke_bundle(self.repository.state, sha256, "it harms", self.now(), by_targets=by_targets)
        self.publish_drafts(drafts, *keys)

    def wanted(self, version: str, *, model="digits", team="vision") -> DesiredModel:
        """Return what a director says of a bundle that was signed before."""
        target = f"{team}/{model}/{version}/bundle.json"
        data = self.manifests[target]
        return DesiredModel(target, sha256_hex(data), len(data), parse_manifest(data).release_counter)

    def desired(self, gen: int, *wanted: DesiredModel, device="dev-1", key="director", **options) -> bytes:
        models = {"/".join(model.target.split("/")[:2]): model for model in wanted}
        life = options.pop("life_ms", 30 * DAY_MS)
        issued = options.pop("issued", self.now())
        document = Desired(device, gen, issued, issued + life, models, **options)
        return sign_desired(document, self.keys[key])

    def serve_state(self, meta: dict[str, int], *, snapshot: int, timestamp: int, life_ms=10 * DAY_MS) -> None:
        """With stolen online keys: serve a state that names these versions of the roles (0 = leaves it out).

        The revocation list is named as it is unless a test says otherwise.
        """
        meta = {"revocation": self.repository.state.roles["revocation"].version, **meta}
        files = {f"{role}.json": MetaFile(version) for role, version in meta.items() if version}
        listing = Metadata(Snapshot(snapshot, expires=utc(self.now() + life_ms), meta=files))
        listing.sign(self.keys["snapshot"])
        stamp = Metadata(Timestamp(timestamp, expires=utc(self.now() + life_ms), snapshot_meta=MetaFile(snapshot)))
        stamp.sign(self.keys["timestamp"])
        self.served[f"{snapshot}.snapshot.json"] = listing.to_bytes()
        self.served["timestamp.json"] = stamp.to_bytes()

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self._client.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(lab):  # noqa: N805 - the handler's own self is another
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/")
                path = lab.repository_folder / name
                content = lab.served.get(name, path.read_bytes() if path.is_file() else 404)
                status, body = (content, b"") if isinstance(content, int) else (200, content)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


class Pki:
    """A server certificate of a throwaway CA, and a CA that certifies whoever enrols."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._ca = self._issue("lab CA", self._key.public_key(), is_ca=True)
        self.pem = self._ca.public_bytes(serialization.Encoding.PEM).decode()
        key = ec.generate_private_key(ec.SECP256R1())
        pair = folder / "server.pem"
        pair.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + self._issue("lab", key.public_key(), is_server=True).public_bytes(serialization.Encoding.PEM)
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair)

    def certify(self, csr_pem: str) -> tuple[str, str]:
        """Return the device's id and its certificate."""
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        device = str(csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        return device, self._issue(device, csr.public_key()).public_bytes(serialization.Encoding.PEM).decode()

    def _issue(self, name: str, public_key, *, is_ca=False, is_server=False) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
        builder = x509.CertificateBuilder().subject_name(subject).public_key(public_key)
        builder = builder.issuer_name(subject if is_ca else self._ca.subject)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
        builder = builder.not_valid_after(start + datetime.timedelta(days=365))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        if is_server:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


class Front:
    """The device surface over HTTPS: honest until a test says otherwise.

    Attributes:
        answers: path -> what is answered instead of the honest answer: bytes, an HTTP status, or a function of the
            request's handler that writes whatever it likes to its ``wfile``.
        assigned: the desired document served; None = 404.
        reports: (leaf, message) as they arrived.
        requests: (method, path) as they arrived.
    """

    def __init__(self, lab, pki: Pki) -> None:
        self.lab, self.pki = lab, pki
        self.answers, self.assigned, self.blobs = {}, None, {}
        self.reports, self.requests = [], []
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                front.answer(self, b"")

            def do_POST(self) -> None:
                front.answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Connections that break on purpose are no news."""

        self._server = Server((LOOPBACK, 0), Handler)
        self._server.socket = pki.context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://{LOOPBACK}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.requests.append((handler.command, handler.path))
        planned = self.answers.get(handler.path)
        if callable(planned):
            handler.close_connection = True
            planned(handler)
            return
        status, headers, content = (200, {}, planned) if planned is not None else self._honest(handler, body)
        if isinstance(content, int):
            status, content = content, b""
        handler.send_response(status)
        for name, value in {"WG-Nonce": "n", "Content-Type": "application/octet-stream", **headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _honest(self, handler: BaseHTTPRequestHandler, body: bytes):
        path = handler.path
        if path.startswith("/metadata/"):
            name = path.removeprefix("/metadata/")
            file = self.lab.repository_folder / name
            return 200, {}, self.lab.served.get(name, file.read_bytes() if file.is_file() else 404)
        if path == "/v1/device/desired":
            return self._desired(handler.headers.get("If-None-Match"))
        if path == "/v1/device/reports":
            return 200, {}, self._take(body)
        if path.startswith("/v1/blobs/sha256/"):
            return self._blob(path.rpartition("/")[2], handler.headers.get("Range", ""))
        if path == "/v1/time":
            return 200, {"Content-Type": "application/json"}, b'{"now_ms": %d}' % self.lab.now()
        if path == "/v1/enroll":
            device, certificate = self.pki.certify(json.loads(body)["csr"])
            answer = {"device": device, "certificate": certificate, "mqtt": None, "poll_s": 86_400}
            return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()
        return 404, {}, b""

    def _desired(self, known: str | None):
        if self.assigned is None:
            return 404, {}, b""
        etag = f'"{sha256_hex(self.assigned)}"'
        return (304, {"ETag": etag}, b"") if known == etag else (200, {"ETag": etag}, self.assigned)

    def _take(self, body: bytes) -> bytes:
        epoch, last = "", 0
        for envelope in codec.decode_batch(body):
            message = codec.decode_up(envelope.leaf, envelope.payload)
            self.reports.append((envelope.leaf, message))
            if envelope.leaf in (topics.UP_EVENT, topics.UP_TELEMETRY):
                epoch, last = message.boot_epoch, max(last, message.seq)
        return codec.encode(Ack(epoch, last))

    def _blob(self, sha256: str, ranged: str):
        contents = {**self.blobs, **{sha256_hex(data): data for data in self.lab.manifests.values()}}
        blob = contents.get(sha256)
        if blob is None:
            return 404, {}, b""
        if not ranged:
            return 200, {}, blob
        start = int(ranged.removeprefix("bytes=").partition("-")[0])
        return 206, {"Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"}, blob[start:]


@pytest.fixture(scope="session")
def lab_class():
    """The class itself, for fixtures of folders below."""
    return Lab


@pytest.fixture(scope="session")
def pki_class():
    return Pki


@pytest.fixture(scope="session")
def front_class():
    return Front


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def forget_what_was_cached():
    """A stand-in for ``MetadataCache._rebuild_scratch``: TUF's client begins with no versions to compare with."""

    def forget(cache) -> None:
        shutil.rmtree(cache._scratch, ignore_errors=True)
        cache._scratch.mkdir(parents=True)

    return forget
