"""A repository with real keys behind a real local HTTP server, and devices that use it; misbehaviour is one line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from bundles.digest import sha256_hex
from bundles.errors import TryAgain
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.trust.client import TrustStore
from bundles.trust.director import sign_desired
from bundles.trust.fetch import NotServed, folder_fetch
from bundles.trust.offline import Quorum, new_repository
from bundles.trust.release import add_release, current_team
from bundles.trust.repository import OnlineRepository
from bundles.trust.roles import utc
from bundles.wire.messages import Desired, DesiredModel

DAY_MS = 86_400_000
KEYS = ("root1", "root2", "root3", "targets1", "targets2", "vision", "audio", "snapshot", "timestamp", "director")


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

    Attributes:
        keys: every key by name: an attacker uses the ones a test says were stolen.
        served: file name -> bytes (or an HTTP status) served instead of the honest file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.served = folder, {}
        self.keys = {
            name: CryptoSigner.generate_ecdsa() if name in ("vision", "director") else CryptoSigner.generate_ed25519()
            for name in KEYS
        }
        self.repository_folder = folder / "repository"
        self.repository_folder.mkdir()
        files = new_repository(
            root=Quorum(self.some("root1", "root2", "root3"), 2),
            targets=Quorum(self.some("targets1", "targets2"), 2),
            teams={"vision": Quorum(self.some("vision"), 1), "audio": Quorum(self.some("audio"), 1)},
            snapshot=self.keys["snapshot"],
            timestamp=self.keys["timestamp"],
            director=self.keys["director"].public_key,
            now_ms=self.now(),
        )
        for name, data in files.items():
            (self.repository_folder / name).write_bytes(data)
        self.repository = OnlineRepository(
            self.repository_folder, self.keys["snapshot"], self.keys["timestamp"], self.now
        )
        self.manifests: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._client = httpx.Client(base_url=url, timeout=5, trust_env=False, verify=False)
        self._stores: list[TrustStore] = []

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

    def manifest(self, version: str, counter: int, *, model="digits", team="vision", channel="prod", hardware=()):
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

    def desired(self, gen: int, *wanted: DesiredModel, device="dev-1", key="director", **options) -> bytes:
        models = {"/".join(model.target.split("/")[:2]): model for model in wanted}
        life = options.pop("life_ms", 30 * DAY_MS)
        issued = options.pop("issued", self.now())
        document = Desired(device, gen, issued, issued + life, models, **options)
        return sign_desired(document, self.keys[key])

    def serve_state(self, meta: dict[str, int], *, snapshot: int, timestamp: int, life_ms=10 * DAY_MS) -> None:
        """With stolen online keys: serve a state that names these versions of the roles."""
        files = {f"{role}.json": MetaFile(version) for role, version in meta.items()}
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


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.close()
