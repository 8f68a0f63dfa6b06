"""The devices' doors as an application on both databases, and a device that signs its requests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from starlette.testclient import TestClient

from agent.identity import signing_request
from bundles.digest import sha256_hex
from bundles.wire.messages import Profile
from bundles.wire.proof import make_proof
from control_plane.api import problems
from control_plane.api.device import DeviceDoors, NonceHeader, device_router
from control_plane.broker.configuration import BrokerDoor
from control_plane.db.tables import EnrolToken
from control_plane.identity.authority import Authority
from control_plane.identity.nonce import Nonces
from control_plane.services import reports
from control_plane.storage import Blobs

NOW = 1_800_000_000_000
TOKEN = "t" * 32


class Server:
    """The doors as an application, with a clock that only moves when told."""

    def __init__(self, database, folder: Path) -> None:
        self.db, self.now_ms, self.outcomes = database, NOW, []
        (folder / "metadata").mkdir()
        (folder / "metadata" / "timestamp.json").write_bytes(b'{"signed": {}}')
        (folder / "metadata" / "1.root.json").write_bytes(b"{}")
        (folder / "secret.json").write_bytes(b"not for everybody")
        self.blobs = Blobs.at(folder / "blobs")
        self.authority = Authority.open_or_create(folder / "keys", "device-ca", NOW)
        self.doors = DeviceDoors(
            db=database,
            blobs=self.blobs,
            metadata_dir=folder / "metadata",
            authority=self.authority,
            server_ca_pem="PIN",
            nonces=Nonces(b"n" * 32),
            sign=lambda document: msgspec.json.encode({"signed": document, "signatures": []}),
            ingest=self._ingest,
            committed=self.outcomes.append,
            profile=Profile(),
            broker=lambda: BrokerDoor("127.0.0.1", 8883),
            now_ms=lambda: self.now_ms,
        )
        self.http = self.app_with()

    def caller(self, device: str, key) -> Caller:
        """A device that signs with ``key``."""
        return Caller(self, device, key)

    def app_with(self, **changed) -> TestClient:
        """The doors as they are, but for ``changed``."""
        app = FastAPI()
        problems.install(app)
        app.include_router(device_router(dataclasses.replace(self.doors, **changed)))
        app.add_middleware(NonceHeader, nonce=lambda: self.doors.nonces.current(self.now_ms))
        return TestClient(app, raise_server_exceptions=False)

    def _ingest(self, session, batch, now_ms):
        return reports.ingest(session, batch, bucket_ms=60_000, observe_reported=lambda *_: None, now_ms=now_ms)

    def add_token(self, token: str = TOKEN, *, uses: int = 1, device: str = "", life_ms: int = 1_000, **bound) -> None:
        with self.db.write() as session:
            session.add(
                EnrolToken(
                    id=sha256_hex(token.encode())[:8],
                    token_sha256=sha256_hex(token.encode()),
                    uses_left=uses,
                    expires_ms=NOW + life_ms,
                    device=device,
                    **bound,
                    labels_json='{"site":"north"}',
                    created_by="ada",
                    created_ms=NOW,
                )
            )

    def enroll(self, key, token: str = TOKEN, name: str = "cam-1", **more):
        body = {"token": token, "csr": signing_request(key, name), "name": name, "hardware": "cam-a", **more}
        return self.http.post("/v1/enroll", json=body)


class Caller:
    """A device that signs its requests, taking nonces from answers."""

    def __init__(self, server: Server, device: str, key) -> None:
        self.server, self.device, self.key = server, device, key
        self.nonce = server.http.get("/v1/time").headers["WG-Nonce"]

    def proof(self, method: str, path: str, body: bytes = b"") -> str:
        return "WG-ES256 " + make_proof(self.key, self.device, method, path, body, self.nonce)

    def call(self, method: str, path: str, body: bytes = b"", **headers: str):
        headers["Authorization"] = self.proof(method, path, body)
        return self.server.http.request(method, path, content=body, headers=headers)


@pytest.fixture
def server(database, tmp_path) -> Server:
    return Server(database, tmp_path)


@pytest.fixture
def key():
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def caller(server, key) -> Caller:
    server.add_token()
    assert server.enroll(key).status_code == 200
    return Caller(server, "cam-1", key)
