"""A small honest repository with keys that are always the same, so that a saved input means the same tomorrow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from bundles.digest import sha256_hex
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.trust.device.client import BUILT_MS
from bundles.trust.director import sign_desired
from bundles.trust.drafting.offline import Quorum, new_repository, raise_signed_floors
from bundles.trust.drafting.release import add_release, current_team
from bundles.trust.fetch import table_fetch
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.revocation import REVOKED_FIELD
from bundles.trust.roles import Lifetimes
from bundles.wire.messages import Desired, DesiredModel

NOW_MS = BUILT_MS + 90 * 86_400_000
DEVICE, MODEL, TEAM_ROLE = "cam-01", "vision/digits", "team-vision"
_AGE_S = 100 * 365 * 86_400
"""TUF's client reads the system's clock; metadata that is to be good on any day lives a hundred years."""
LIVES = Lifetimes(_AGE_S, _AGE_S, _AGE_S, _AGE_S, _AGE_S)


def key(name: str) -> CryptoSigner:
    """Return the key called ``name``; it is as secret as its name."""
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(sha256_hex(name.encode()))))


KEYS = {
    "root": [key("root1"), key("root2"), key("root3")],
    "targets": [key("targets1"), key("targets2")],
    TEAM_ROLE: [key("vision")],
    "team-audio": [key("audio")],
    "snapshot": [key("snapshot")],
    "timestamp": [key("timestamp")],
    "director": [key("director")],
    "revocation": [key("revocation1"), key("revocation2")],
    "kit": [key("kit1"), key("kit2")],
}


@dataclass(frozen=True)
class World:
    """Two states of the repository, one after the other, and what the director says in the second.

    Attributes:
        manifests: ``bundle.json`` of the releases, by digest; each names one file, whose content is its version.
        before: file name -> bytes: what a device has seen.
        now: what is served.
        following: what people could publish next: file name -> bytes.
        desired: the director's document.
        wanted: the one bundle it names.
    """

    manifests: dict[str, bytes]
    before: dict[str, bytes]
    now: dict[str, bytes]
    following: dict[str, bytes]
    desired: bytes
    wanted: DesiredModel


def open_repository(folder: Path, files: dict[str, bytes]) -> OnlineRepository:
    """Write ``files`` to ``folder`` and return the server's side of it."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return OnlineRepository(folder, KEYS["snapshot"][0], KEYS["timestamp"][0], lambda: NOW_MS, LIVES)


def make_world(folder: Path) -> World:
    """Hold the ceremony, publish a bundle, then another, and let the director choose it.

    Args:
        folder: for the server's files; must not exist.
    """
    first = new_repository(
        root=Quorum(KEYS["root"], 2),
        targets=Quorum(KEYS["targets"], 2),
        teams={"vision": Quorum(KEYS[TEAM_ROLE], 1), "audio": Quorum(KEYS["team-audio"], 1)},
        snapshot=KEYS["snapshot"][0],
        timestamp=KEYS["timestamp"][0],
        director=KEYS["director"][0].public_key,
        now_ms=NOW_MS,
        lifetimes=LIVES,
        floors={MODEL: 1},
        revocation=Quorum(KEYS["revocation"], 1),
        kit=Quorum(KEYS["kit"], 2),
    )
    server = open_repository(folder, first)
    manifests: dict[str, bytes] = {}

    def release(version: str, counter: int) -> tuple[dict[str, bytes], DesiredModel]:
        file = BundleFile("m.onnx", sha256_hex(version.encode()), 5, "model")
        variant = Variant("a", "onnxruntime", "m.onnx", hardware=["cam-a"])
        manifest = encode_manifest(
            Manifest("vision", "digits", version, counter, "prod", BUILT_MS, files=[file], variants=[variant])
        )
        manifests[sha256_hex(manifest)] = manifest
        team = current_team(table_fetch(_read(folder)), first["1.root.json"], "vision", NOW_MS)
        signed = add_release(team, manifest, KEYS[TEAM_ROLE], NOW_MS, lifetimes=LIVES)
        target = f"vision/digits/{version}/bundle.json"
        return {signed.name: signed.data}, DesiredModel(target, sha256_hex(manifest), len(manifest), counter)

    server.publish(release("1.0.0", 1)[0])
    before = _read(folder)
    files, wanted = release("1.1.0", 2)
    server.publish({**files, **_revoking(first["1.revocation.json"], 2, "e" * 64)})
    targets = raise_signed_floors(server.targets, {MODEL: 2}, KEYS["targets"], NOW_MS, LIVES)
    document = Desired(DEVICE, 3, NOW_MS, NOW_MS + 30 * 86_400_000, {MODEL: wanted})
    return World(
        manifests,
        before,
        _read(folder),
        {**release("1.2.0", 3)[0], **targets, **_revoking(first["1.revocation.json"], 3, "e" * 64, "d" * 64)},
        sign_desired(document, KEYS["director"][0]),
        wanted,
    )


def _revoking(first: bytes, version: int, *digests: str) -> dict[str, bytes]:
    """Return the next list of the revocation role, signed by both of its holders."""
    metadata = Metadata[Targets].from_bytes(first)
    metadata.signed.version = version
    metadata.signed.unrecognized_fields[REVOKED_FIELD] = {
        digest: {"reason": "bad", "at_ms": NOW_MS} for digest in digests
    }
    for signer in KEYS["revocation"]:
        metadata.sign(signer, append=signer is not KEYS["revocation"][0])
    return {f"{version}.revocation.json": metadata.to_bytes()}


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}
