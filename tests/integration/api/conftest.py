"""The whole operators' API over a real database, real blobs and a real trust repository, called in process."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from securesystemslib.signer import CryptoSigner

from bundles.archive import Archive, add_metadata, pack
from bundles.contract import Contract, TensorSpec, encode_contract
from bundles.digest import sha256_hex
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.sketch.baseline import encode_baseline
from bundles.sketch.build import build_baseline
from bundles.trust.drafting.drafts import Keys, encode_drafts
from bundles.trust.drafting.founding import first_metadata, found_repository
from bundles.trust.drafting.release import add_release, current_team
from bundles.trust.fetch import folder_fetch
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.signing.eventfolder import new_event, zip_event
from bundles.trust.signing.signatures import add_signatures
from bundles.trust.signing.signers import new_key
from bundles.wire.messages import Profile
from control_plane.api.application import create_api
from control_plane.api.deps import ApiSettings, Deps
from control_plane.api.fanout import Fanout
from control_plane.auth import Role
from control_plane.db.engine import Database
from control_plane.db.tables import Device
from control_plane.online_keys import OnlineKeys
from control_plane.services import desired, tokens
from control_plane.services.changes import look
from control_plane.services.trust import ServedTrust
from control_plane.storage import Blobs

PROFILE = Profile(heartbeat_s=1, report_s=2, canary_report_s=1, probation_s=2, accept_s=4, download_s=5, activate_s=5)


def baseline_of(model: str, version: str) -> bytes:
    """Return the smallest baseline there is."""
    return encode_baseline(build_baseline(model, version, {"x": [1.0, 2.0, 3.0]}, sources={"x": "input"}))


class Clock:
    """A clock the test sets; it starts now, because trust metadata expires in real time."""

    def __init__(self) -> None:
        self.now = time.time_ns() // 1_000_000

    def now_ms(self) -> int:
        return self.now


class Api:
    """One server, its signing people, and a client for each role: ``viewer``, ``operator``, ``approver``, ``admin``."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.db, self.folder, self.clock = database, folder, Clock()
        self.keys = {
            name: CryptoSigner.generate_ed25519()
            for name in ("root", "targets", "vision", "audio", "on-call-1", "on-call-2")
        }
        metadata, online = folder / "metadata", folder / "keys"
        online.mkdir(mode=0o700)
        self.keys |= {role: new_key(online / f"{role}.pem") for role in ("snapshot", "timestamp", "director")}
        public = {name: signer.public_key for name, signer in self.keys.items()}
        drafts = first_metadata(
            root=Keys([public["root"]], 1),
            targets=Keys([public["targets"]], 1),
            teams={team: Keys([public[team]], 1) for team in ("vision", "audio")},
            revocation=Keys([public["on-call-1"], public["on-call-2"]], 1),
            snapshot=public["snapshot"],
            timestamp=public["timestamp"],
            director=public["director"],
            now_ms=self.clock.now,
        )
        people = [self.keys[name] for name in ("root", "targets", "vision", "audio", "on-call-1")]
        files = add_signatures(None, encode_drafts(drafts), people)
        found_repository(metadata, files, self.keys["snapshot"], self.keys["timestamp"], self.clock.now)
        self.root, self.fetch = files["1.root.json"], folder_fetch(metadata)
        self.trust = self.open_trust()
        self.repository = self.trust.repository
        self.blobs = Blobs.at(folder / "blobs")
        self.deps = Deps(
            db=database,
            storage=self.blobs,
            clock=self.clock,
            metadata=self.trust,
            sign=self.trust.sign,
            random_bytes=os.urandom,
            fanout=Fanout(look(database), every_s=0.02),
            settings=ApiSettings(max_publish_bytes=1 << 20, scratch=folder, profile=PROFILE),
        )
        self.app = create_api(self.deps)
        self.viewer = self.client("vera", Role.VIEWER)
        self.operator = self.client("ada", Role.OPERATOR)
        self.approver = self.client("bob", Role.APPROVER)
        self.admin = self.client("root", Role.ADMIN)

    def open_trust(self) -> ServedTrust:
        """Open the folders as a server does when it starts."""
        keys, metadata = OnlineKeys(self.folder / "keys"), self.folder / "metadata"
        repository = OnlineRepository(metadata, keys.ring("snapshot"), keys.ring("timestamp"), self.clock.now_ms)
        return ServedTrust(repository, metadata, keys, self.db, self.clock.now_ms)

    def event(self, drafts, *people: str) -> dict[str, bytes]:
        """Have ``people`` sign ``drafts``; return the files."""
        return add_signatures(self.repository.state, encode_drafts(drafts), [self.keys[name] for name in people])

    def send(self, files, client: TestClient | None = None):
        """Send an event to the server."""
        headers = {"Content-Type": "application/octet-stream"}
        body = zip_event(new_event("test", "", self.clock.now, {}, files))
        return (client or self.approver).post("/api/v1/trust/events", content=body, headers=headers)

    def token(self, principal: str, role: Role, teams=("*",), life_s: int = 3600) -> str:
        with self.db.write() as session:
            made = tokens.create(
                session, principal=principal, role=role, teams=teams, life_s=life_s, actor="test",
                now_ms=self.clock.now, random_bytes=os.urandom,
            )  # fmt: skip
        return made.token

    def client(self, principal: str, role: Role, teams=("*",)) -> TestClient:
        headers = {"Authorization": f"Bearer {self.token(principal, role, teams)}"}
        return TestClient(self.app, headers=headers, raise_server_exceptions=False)

    def bundle(
        self, version: str, counter: int, *, team: str = "vision", signed: bool = True, content=b"model"
    ) -> Path:
        """Build (and sign) a ``.wgb``; return where it lies."""
        tensor = TensorSpec("x", "float32", [1, 2])
        parts = {
            "m.onnx": (content, "model"),
            "contract.json": (encode_contract(Contract(inputs=[tensor], outputs=[tensor])), "contract"),
            "goldens.npz": (b"goldens are read on the device", "goldens"),
            "baseline.json": (baseline_of(f"{team}/digits", version), "baseline"),
        }
        files = [BundleFile(name, sha256_hex(data), len(data), role) for name, (data, role) in parts.items()]
        manifest = encode_manifest(
            Manifest(
                team=team, model="digits", version=version, release_counter=counter, channel="prod", created_ms=1,
                files=files, variants=[Variant("onnx", "onnxruntime", "m.onnx")],
            )
        )  # fmt: skip
        path = self.folder / f"{team}-{version}-{counter}-{sha256_hex(content)[:6]}{'' if signed else '-bare'}.wgb"
        archive = pack(path, manifest, {name: data for name, (data, _) in parts.items()})
        return self.sign(archive) if signed else path

    def sign(self, archive: Archive) -> Path:
        team = archive.manifest.team
        state = current_team(self.fetch, self.root, team, self.clock.now)
        role = add_release(state, archive.manifest_bytes, [self.keys[team]], self.clock.now)
        return add_metadata(archive, archive.path, {role.name: role.data}).path

    def publish(self, path: Path, client: TestClient | None = None, **headers: str):
        headers = {"Content-Type": "application/octet-stream", **headers}
        return (client or self.operator).post("/api/v1/releases", content=path.read_bytes(), headers=headers)

    def approved(self, version: str = "1.0.0", counter: int = 1) -> str:
        """Publish and approve a release; return its digest."""
        sha256 = self.publish(self.bundle(version, counter)).json()["sha256"]
        assert self.approver.post(f"/api/v1/releases/{sha256}/approve").status_code == 200
        return sha256

    def enrol(self, *names: str) -> None:
        with self.db.write() as session:
            for name in names:
                session.add(Device(id=name, public_key_pem=name, enrolled_ms=self.clock.now, hardware="cam-a"))
                session.flush()
                desired.ensure_desired(session, name, PROFILE, self.clock.now)


@pytest.fixture
def api(database, tmp_path) -> Api:
    return Api(database, tmp_path)


@pytest.fixture
def sqlite_api(sqlite_template, tmp_path) -> Api:
    path = tmp_path / "wavegate.db"
    path.write_bytes(sqlite_template.read_bytes())
    opened = Database(f"sqlite:///{path}")
    yield Api(opened, tmp_path)
    opened.close()
