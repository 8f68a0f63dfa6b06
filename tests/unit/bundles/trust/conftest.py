"""A repository with real keys in a folder, and what its holders do with it. No network: fetches read the folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from bundles.digest import sha256_hex
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.trust.device.client import TrustStore
from bundles.trust.drafting.offline import Quorum, new_repository
from bundles.trust.drafting.release import add_release, current_team
from bundles.trust.fetch import folder_fetch
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.roles import split_file
from bundles.wire.messages import DesiredModel


class Holders:
    """Everybody who signs, and the folder the server serves."""

    def __init__(self, folder: Path, **extra) -> None:
        self.folder, self.offset_ms = folder, 0
        names = ("root1", "root2", "targets", "vision1", "vision2", "snapshot", "timestamp", "director")
        names += ("oncall1", "oncall2", "kit1", "kit2")
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
            **{role: Quorum(self.some(*names), threshold) for role, (names, threshold) in extra.items()},
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

    def sign_role(self, role: str, change, *names: str) -> dict[str, bytes]:
        """Let the holders of ``names`` sign the next version of a role, after ``change`` was made to it."""
        repository = self.repository()
        current = repository.targets if role == "targets" else self.newest(role)
        fresh = Targets.from_dict(current.to_dict())
        fresh.version = current.version + 1
        change(fresh)
        metadata = Metadata(fresh)
        for name in names:
            metadata.sign(self.keys[name], append=True)
        return {f"{fresh.version}.{role}.json": metadata.to_bytes()}

    def newest(self, role: str) -> Targets:
        names = [path for path in self.metadata.glob(f"*.{role}.json") if split_file(path.name)[0] == role]
        newest = max(names, key=lambda path: split_file(path.name)[1])
        return Metadata[Targets].from_file(str(newest)).signed

    def serve(self, files: dict[str, bytes]) -> None:
        """With the online keys, and no check at all: serve a state with these new files (a hostile server's way)."""
        stamp = Metadata[Timestamp].from_file(str(self.metadata / "timestamp.json"))
        version = stamp.signed.snapshot_meta.version
        state = Metadata[Snapshot].from_file(str(self.metadata / f"{version}.snapshot.json"))
        for name, data in files.items():
            (self.metadata / name).write_bytes(data)
            role, number = split_file(name)
            state.signed.meta[f"{role}.json"] = MetaFile(number)
        state.signed.version = version + 1
        state.sign(self.keys["snapshot"])
        state.to_file(str(self.metadata / f"{version + 1}.snapshot.json"))
        stamp.signed.version += 1
        stamp.signed.snapshot_meta = MetaFile(version + 1)
        stamp.sign(self.keys["timestamp"])
        stamp.to_file(str(self.metadata / "timestamp.json"))

    def store(self, device: str = "dev-1", **options) -> TrustStore:
        return TrustStore(self.folder / device, self.root, device=device, fetch=self.fetch, **options)


@pytest.fixture
def holders(tmp_path):
    return Holders(tmp_path)


@pytest.fixture
def oncall(tmp_path):
    """A repository whose revocation role has two keys, and whose kits two people sign."""
    return Holders(tmp_path, revocation=(("oncall1", "oncall2"), 1), kit=(("kit1", "kit2"), 2))


@pytest.fixture
def found(tmp_path):
    """Found a repository with other roles than usual."""
    return lambda **extra: Holders(tmp_path, **extra)
