from __future__ import annotations

import time

import pytest

from bundles.archive import add_metadata, pack
from bundles.contract import Contract, TensorSpec, encode_contract
from bundles.digest import sha256_hex
from bundles.errors import AskPerson, BundleRefused, TrustRefused
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.trust.drafting.release import add_release, current_team
from bundles.trust.fetch import folder_fetch
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.signing.ceremony import PROFILES, hold_ceremony
from bundles.trust.signing.signers import load_signer
from bundles.verify import verify_content, verify_signed

CONTRACT = encode_contract(
    Contract(inputs=[TensorSpec("x", "float32", [1])], outputs=[TensorSpec("y", "float32", [1])])
)


class Team:
    """A team with a repository and a key."""

    def __init__(self, folder):
        self.folder = folder
        self.made = hold_ceremony(
            folder / "trust", PROFILES["solo"], ["vision"], passphrase=None, now_ms=int(time.time() * 1000)
        )
        self.key = load_signer(folder / "trust" / "keys" / "team-vision.pem")
        self.metadata = self.made.server / "metadata"

    def now(self):
        return int(time.time() * 1000)

    def state(self):
        return current_team(folder_fetch(self.metadata), self.made.root.read_bytes(), "vision", self.now())

    def bundle(self, version="1.0.0", counter=1, **roles):
        files = {
            "m.onnx": (b"m" + version.encode(), "model"),
            "c.json": (CONTRACT, "contract"),
            "g.npz": (b"", "goldens"),
        }
        files |= {name: (data, role) for role, (name, data) in roles.items()}
        listed = [
            BundleFile(name, sha256_hex(data), len(data), role) for name, (data, role) in files.items() if data or role
        ]
        manifest = Manifest(
            "vision",
            "digits",
            version,
            counter,
            "prod",
            1,
            files=listed,
            variants=[Variant("a", "onnxruntime", "m.onnx")],
        )
        path = self.folder / f"{version}.wgb"
        return pack(path, encode_manifest(manifest), {name: data for name, (data, _) in files.items()})

    def signed(self, archive, key=None):
        role = add_release(self.state(), archive.manifest_bytes, [key or self.key], self.now())
        return add_metadata(archive, archive.path, {role.name: role.data})

    def publish(self, archive):
        keys = {role: load_signer(self.made.server / "keys" / f"{role}.pem") for role in ("snapshot", "timestamp")}
        OnlineRepository(self.metadata, keys["snapshot"], keys["timestamp"], self.now).publish(archive.metadata)


@pytest.fixture
def team(tmp_path):
    return Team(tmp_path)


def refused(kind, code, action, *arguments):
    with pytest.raises(kind) as caught:
        action(*arguments)
    assert caught.value.code == code
    assert caught.value.remedy


def test_signed_then_published(team):
    archive = team.signed(team.bundle())
    verify_content(archive)
    assert verify_signed(archive, team.state()) == "signed"
    team.publish(archive)
    assert verify_signed(archive, team.state()) == "published"


def test_unsigned_bundle_is_refused(team):
    refused(TrustRefused, "TRUST_UNSIGNED_TEAM", verify_signed, team.bundle(), team.state())


def test_signature_by_nobody_of_the_team_is_refused(team):
    archive = team.signed(team.bundle())
    name, data = next(iter(archive.metadata.items()))
    forged = add_metadata(archive, archive.path, {name: data.replace(b'"sig":"', b'"sig":"00', 1)})
    refused(TrustRefused, "TRUST_UNSIGNED_TEAM", verify_signed, forged, team.state())


def test_signature_of_another_bundle_is_refused(team):
    signed, other = team.signed(team.bundle()), team.bundle("2.0.0", 2)
    borrowed = add_metadata(other, other.path, signed.metadata)
    refused(AskPerson, "TRUST_CONFLICT", verify_signed, borrowed, team.state())


def test_other_content_under_a_signed_name_is_refused(team):
    signed = team.signed(team.bundle())
    changed = team.bundle("1.0.0", 1, licence=("LICENCE", b"mine"))
    borrowed = add_metadata(changed, changed.path, signed.metadata)
    refused(TrustRefused, "TRUST_DIRECTOR_MISMATCH", verify_signed, borrowed, team.state())


def test_signature_on_an_old_state_has_to_be_made_again(team):
    first, second = team.signed(team.bundle()), team.signed(team.bundle("2.0.0", 2))
    team.publish(first)
    refused(AskPerson, "TRUST_CONFLICT", verify_signed, second, team.state())
    assert verify_signed(team.signed(second), team.state()) == "signed"


def test_bundle_with_a_baseline_that_is_none_is_refused(team):
    archive = team.bundle(baseline=("baseline.json", b"{}"))
    refused(BundleRefused, "BASELINE_FIELD", verify_content, archive)


def test_bundle_without_a_contract_is_refused(team):
    manifest = Manifest(
        "vision",
        "digits",
        "1",
        1,
        "prod",
        1,
        files=[BundleFile("m", sha256_hex(b"m"), 1, "model")],
        variants=[Variant("a", "onnxruntime", "m")],
    )
    archive = pack(team.folder / "x.wgb", encode_manifest(manifest), {"m": b"m"})
    refused(BundleRefused, "BUNDLE_FILE_MISSING", verify_content, archive)
