"""The world around one device: a repository signed by real keys, four releases, and instructions to run them."""

from __future__ import annotations

import io
import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from agent.core.state import Release
from bundles.delta.form import MIN_FILE_BYTES
from bundles.delta.make import make_delta
from bundles.digest import sha256_hex
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.trust.director import sign_desired
from bundles.trust.drafting.drafts import encode_drafts
from bundles.trust.drafting.offline import Quorum, new_repository
from bundles.trust.drafting.release import add_release, current_team
from bundles.trust.drafting.statements import revoke_bundle
from bundles.trust.fetch import folder_fetch
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.signing.signatures import add_signatures
from bundles.wire.messages import Desired, DesiredModel, Profile

MODEL = "vision/digits"
DEVICE = "dev-1"
PROFILE = Profile(
    heartbeat_s=600, report_s=600, canary_report_s=600, probation_s=2, accept_s=60, download_s=120, activate_s=20,
    poll_s=5,
)  # fmt: skip
VERSIONS = ("0.9.0", "1.0.0", "1.1.0", "1.2.0")
COUNTERS = {"0.9.0": 2, "1.0.0": 3, "1.1.0": 5, "1.2.0": 7}
DAY_MS = 86_400_000
MODEL_BYTES = MIN_FILE_BYTES + 2000


@dataclass
class World:
    """What the outside holds; plain bytes, so that it can be handed to another process.

    Attributes:
        root: the root of trust the device is made with.
        metadata: what the repository serves, by the newest release that is published; ``1.1.0 revoked`` and ``all
            revoked`` are the states after those. Name of the state -> file name -> bytes.
        blobs: sha256 -> content.
        releases: version -> what a director says of it.
        desired: version -> the signed instruction to run it; generations rise with ``VERSIONS``.
        deltas: address below ``/v1/deltas/`` -> delta.
    """

    root: bytes
    metadata: dict[str, dict[str, bytes]]
    blobs: dict[str, bytes]
    releases: dict[str, DesiredModel]
    desired: dict[str, bytes]
    deltas: dict[str, bytes]

    def release(self, version: str) -> Release:
        """Return a release as the updater names it."""
        return Release.from_desired(self.releases[version])

    def version_of(self, sha256: str) -> str:
        """Return the version of a bundle, empty for no digest."""
        return next((version for version, entry in self.releases.items() if entry.sha256 == sha256), "")


def make_world() -> World:
    """Hold the ceremony, sign the releases, write the instructions."""
    with tempfile.TemporaryDirectory(prefix="powercut-world-") as name:
        return _make_world(Path(name))


def _make_world(folder: Path) -> World:
    names = ("root", "targets", "vision", "snapshot", "timestamp", "director", "revocation1", "revocation2")
    keys = {name: CryptoSigner.generate_ed25519() for name in names}
    now_ms = time.time_ns() // 1_000_000
    files = new_repository(
        root=Quorum([keys["root"]], 1),
        targets=Quorum([keys["targets"]], 1),
        teams={"vision": Quorum([keys["vision"]], 1)},
        snapshot=keys["snapshot"],
        timestamp=keys["timestamp"],
        director=keys["director"].public_key,
        revocation=Quorum([keys["revocation1"], keys["revocation2"]], 1),
        now_ms=now_ms,
    )
    for name, data in files.items():
        (folder / name).write_bytes(data)
    repository = OnlineRepository(folder, keys["snapshot"], keys["timestamp"], lambda: now_ms)
    blobs: dict[str, bytes] = {}
    releases: dict[str, DesiredModel] = {}
    desired: dict[str, bytes] = {}
    metadata: dict[str, dict[str, bytes]] = {}
    for gen, version in enumerate(VERSIONS, 1):
        data = _bundle(version, blobs)
        team = current_team(folder_fetch(folder), files["1.root.json"], "vision", now_ms)
        signed = add_release(team, data, [keys["vision"]], now_ms)
        repository.publish({signed.name: signed.data})
        metadata[version] = _read(folder)
        target = f"{MODEL}/{version}/bundle.json"
        releases[version] = DesiredModel(target, sha256_hex(data), len(data), COUNTERS[version])
        document = Desired(
            DEVICE, gen, now_ms, now_ms + 30 * DAY_MS, {MODEL: releases[version]}, profile=PROFILE,
            trust_version=json.loads(metadata[version]["timestamp.json"])["signed"]["version"],
        )  # fmt: skip
        desired[version] = sign_desired(document, keys["director"])
    for version in sorted(releases, key=lambda version: version != "1.1.0"):
        drafts = revoke_bundle(repository.state, releases[version].sha256, "it harms", now_ms)
        both = [keys["revocation1"], keys["revocation2"]]
        repository.publish(add_signatures(repository.state, encode_drafts(drafts), both))
        metadata.setdefault("1.1.0 revoked", _read(folder))
    metadata["all revoked"] = _read(folder)
    return World(files["1.root.json"], metadata, blobs, releases, desired, _deltas(blobs))


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _deltas(blobs: dict[str, bytes]) -> dict[str, bytes]:
    """Make the deltas between all model files, as a control plane does on demand."""
    models = {sha256: data for sha256, data in blobs.items() if len(data) >= MIN_FILE_BYTES}
    found = {}
    for old in models:
        for new in models:
            sink = io.BytesIO()
            if old != new and make_delta(models[old], models[new], sink):
                found[f"{old}/{new}"] = sink.getvalue()
    return found


def _bundle(version: str, blobs: dict[str, bytes]) -> bytes:
    """Make a small bundle; its contract is shared with the others, as in life."""
    weights = random.Random(5).randbytes(MODEL_BYTES)
    contents = {
        "nested/model.onnx": f"model {version} ".encode() + weights,
        "contract.json": b"{}",
        "goldens.npz": f"goldens {version}".encode(),
    }
    roles = {"nested/model.onnx": "model", "contract.json": "contract", "goldens.npz": "goldens"}
    files = [BundleFile(path, sha256_hex(data), len(data), roles[path]) for path, data in contents.items()]
    manifest = Manifest(
        *MODEL.split("/"), version, COUNTERS[version], "prod", 1_792_000_000_000, files,
        [Variant("any", "onnxruntime", "nested/model.onnx")], safe_mode="stop",
    )  # fmt: skip
    data = encode_manifest(manifest)
    blobs.update({sha256_hex(content): content for content in (data, *contents.values())})
    return data
