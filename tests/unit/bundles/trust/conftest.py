"""A repository with real keys in a folder, and what its holders do with it. No network: fetches read the folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from bundles.digest import sha256_hex
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.trust.client import TrustStore
from bundles.trust.fetch import folder_fetch
from bundles.trust.offline import Quorum, new_repository
from bundles.trust.release import add_release, current_team
from bundles.trust.repository import OnlineRepository
from bundles.wire.messages import DesiredModel


class Holders:
    """Everybody who signs, and the folder the server serves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.offset_ms = folder, 0
        names = ("root1", "root2", "targets", "vision1", "vision2", "snapshot", "timestamp", "director")
        self.keys = {name: CryptoSigner.generate_ed25519() for name in names}
        self.metadata = folder / "metadata"
        self.metadata.mkdir()
        files = new_repository(
            root=Quorum(self.some("root1", "root2"), 2),
            targets=Quorum(self.some("targets"), 1),
            teams={"vision": Quorum(self.some("vision1", "vision2"), 1)},
            snapshot=self.keys["snapshot"],
            timestamp=self.keys["timestamp"],
            director=self.keys["director"].public_key,
            now_ms=self.now(),
        )
        for name, data in files.items():
            (self.metadata / name).write_bytes(data)
        self.root = files["1.root.json"]
        self.fetch = folder_fetch(self.metadata)

    def now(self) -> int:
        return int(time.time() * 1000) + self.offset_ms

    def some(self, *names: str) -> list[CryptoSigner]:
        return [self.keys[name] for name in names]

    def repository(self) -> OnlineRepository:
        return OnlineRepository(self.metadata, self.keys["snapshot"], self.keys["timestamp"], self.now)

    def manifest(self, version: str, counter: int, *, team="vision", model="digits", note="") -> bytes:
        file = BundleFile("m", sha256_hex(f"{version}{note}".encode()), 3, "model")
        variants = [Variant("a", "onnxruntime", "m")]
        return encode_manifest(Manifest(team, model, version, counter, "prod", 1, files=[file], variants=variants))

    def sign(self, manifest: bytes, *names: str, pending: bytes | None = None):
        state = current_team(self.fetch, self.root, "vision", self.now())
        return add_release(state, manifest, self.some(*(names or ("vision1",))), self.now(), pending=pending)

    def publish(self, version: str, counter: int, **options) -> DesiredModel:
        data = self.manifest(version, counter, **options)
        signed = self.sign(data)
        self.repository().publish({signed.name: signed.data})
        model = options.get("model", "digits")
        return DesiredModel(f"vision/{model}/{version}/bundle.json", sha256_hex(data), len(data), counter)

    def store(self, device: str = "dev-1", **options) -> TrustStore:
        return TrustStore(self.folder / device, self.root, device=device, fetch=self.fetch, **options)


@pytest.fixture
def holders(tmp_path):
    return Holders(tmp_path)
