"""Offline kits: attack 24 of the trust design, and what a device without a network may install."""

from __future__ import annotations

import struct
import zipfile

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from bundles.digest import canonical_json, sha256_hex
from bundles.errors import AskPerson, BundleRefused, MessageRefused, TrustRefused
from bundles.trust.device import kitfile
from bundles.trust.device.authorize import check_manifest
from bundles.trust.device.kit import check_kit, current_metadata, make_kit
from bundles.trust.device.kitfile import KitDocument, write_archive
from bundles.wire.messages import DesiredModel

MODEL = "vision/digits"
DAY_MS = 86_400_000


def refused(code, action, *arguments, **options):
    with pytest.raises(TrustRefused) as caught:
        action(*arguments, **options)
    assert caught.value.code == code
    assert caught.value.remedy


class Maker:
    """Who makes kits, and the bundles that go into them."""

    def __init__(self, holders):
        self.holders, self.folder = holders, holders.folder / "kits"
        self.folder.mkdir()
        self.desired, self.blobs = {}, {}

    def release(self, version, counter):
        manifest = self.holders.manifest(version, counter)
        wanted = self.holders.publish(version, counter)
        content = version.encode()
        for data in (manifest, content):
            (self.folder / sha256_hex(data)).write_bytes(data)
        self.blobs = {sha256_hex(data): self.folder / sha256_hex(data) for data in (manifest, content)}
        self.desired = {MODEL: wanted}
        return wanted

    def metadata(self):
        return current_metadata(self.holders.metadata, [wanted.target for wanted in self.desired.values()])

    def make(self, version, *, keys=("kit1", "kit2"), **options):
        path = self.folder / f"{version}.zip"
        made = {
            "metadata": self.metadata(),
            "desired": self.desired,
            "blobs": self.blobs,
            "signers": self.holders.some(*keys),
            "now_ms": self.holders.now(),
            **options,
        }
        make_kit(path, version=version, **made)
        return path

    def forge(self, path, *, keys=("kit1", "kit2"), metadata=None, blobs=None, change=None, **fields):
        """Write whatever an attacker with these keys would; nothing checks it."""
        metadata = self.metadata() if metadata is None else metadata
        now = self.holders.now()
        named = {name: kitfile.described(data) for name, data in metadata.items()}
        lengths = {digest: source.stat().st_size for digest, source in self.blobs.items()}
        document = KitDocument(1, now, now + DAY_MS, named, self.desired, lengths)
        content = {**msgspec.to_builtins(msgspec.structs.replace(document, **fields)), **(change or {})}
        signed = canonical_json(content)
        made = [self.holders.keys[key].sign(signed) for key in keys]
        entries = canonical_json([{"keyid": entry.keyid, "sig": entry.signature} for entry in made])
        data = b'{"signed":' + signed + b',"signatures":' + entries + b"}"
        write_archive(path, data, metadata, self.blobs if blobs is None else blobs)
        return path


@pytest.fixture
def maker(oncall):
    maker = Maker(oncall)
    maker.release("1.0.0", 1)
    return maker


def test_kit_brings_a_bundle_to_a_device_that_never_saw_a_network(maker, oncall):
    path = maker.make(1)
    with oncall.store("field") as store:
        kit = store.open_kit(path, oncall.now())
        bundle = store.authorize_from_kit(kit, MODEL, hardware="x")
        manifest = b"".join(kit.blob(bundle.sha256))
        assert check_manifest(bundle, manifest).version == "1.0.0"
        assert b"".join(kit.blob(sha256_hex(b"1.0.0"))) == b"1.0.0"
        assert store.floors.roles["team-vision"].version == 2
        assert store.summary(oncall.now()) is None


def test_kit_is_good_long_after_every_online_signature_has_expired(maker, oncall):
    path = maker.make(1, life_ms=180 * DAY_MS)
    with oncall.store("field") as store:
        late = oncall.now() + 150 * DAY_MS
        kit = store.open_kit(path, late)
        store.authorize_from_kit(kit, MODEL, hardware="x")


def test_same_kit_is_opened_again_after_a_restart_and_an_older_one_is_not(maker, oncall):
    first, second = maker.make(1), maker.make(2)
    with oncall.store("field") as store:
        store.open_kit(second, oncall.now())
    with oncall.store("field") as store:
        store.open_kit(second, oncall.now())
        before = store.floors
        refused("TRUST_ROLLBACK_KIT", store.open_kit, first, oncall.now())
        again = maker.make(2, now_ms=oncall.now() + 5_000)
        refused("TRUST_ROLLBACK_KIT", store.open_kit, again, oncall.now())
        assert store.floors == before


def test_attack_24_expired_kit(maker, oncall):
    path = maker.make(1, life_ms=DAY_MS)
    with oncall.store("field") as store:
        refused("TRUST_EXPIRED_KIT", store.open_kit, path, oncall.now() + 2 * DAY_MS)
        assert store.floors.kit == 0
        store.open_kit(path, oncall.now())


def test_kit_meant_to_last_for_ever_is_refused(maker, oncall):
    refused("TRUST_EXPIRED_KIT", maker.make, 1, life_ms=181 * DAY_MS)
    path = maker.forge(maker.folder / "f.zip", expires=oncall.now() + 1000 * DAY_MS)
    with oncall.store("field") as store:
        refused("TRUST_EXPIRED_KIT", store.open_kit, path, oncall.now())


def test_attack_24_kit_older_than_the_device(maker, oncall):
    """Its metadata is older than what the device has seen online, though no newer kit was ever opened."""
    path = maker.make(1)
    maker.release("1.1.0", 2)
    with oncall.store("field") as store:
        store.refresh(oncall.now())
        store.look_up("vision/digits/1.1.0/bundle.json", oncall.now())
        refused("TRUST_ROLLBACK_TEAM", store.open_kit, path, oncall.now())
        assert store.floors.kit == 0
        store.open_kit(maker.make(2), oncall.now())


def test_kit_cannot_go_below_the_release_floor(maker, oncall):
    path = maker.make(1)
    with oncall.store("field") as store:
        store.raise_floor(MODEL, 5, 4)
        kit = store.open_kit(path, oncall.now())
        refused("TRUST_FLOOR", store.authorize_from_kit, kit, MODEL, hardware="x")


def test_revocations_travel_in_kits_and_bind_on(maker, oncall):
    wanted = maker.desired[MODEL]

    def revoke(targets):
        targets.unrecognized_fields["x-revoked"] = {wanted.sha256: {"reason": "unsafe", "at_ms": 1}}

    oncall.repository().publish(oncall.sign_role("revocation", revoke, "oncall1", "oncall2"))
    with oncall.store("field") as store:
        kit = store.open_kit(maker.make(1), oncall.now())
        refused("TRUST_REVOKED", store.authorize_from_kit, kit, MODEL, hardware="x")
        assert store.standing(wanted.sha256, running=True) == "revoked"


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        (("kit1",), "TRUST_THRESHOLD"),
        (("kit1", "kit1"), "TRUST_THRESHOLD"),
        (("director", "vision1"), "TRUST_UNSIGNED_KIT"),
        (("kit1", "vision1"), "TRUST_THRESHOLD"),
        ((), "TRUST_UNSIGNED_KIT"),
    ],
)
def test_kit_signed_by_too_few_or_others(maker, oncall, keys, code):
    path = maker.forge(maker.folder / "f.zip", keys=keys)
    with oncall.store("field") as store:
        refused(code, store.open_kit, path, oncall.now())


def test_repository_without_kit_keys_has_no_kits(holders):
    maker = Maker(holders)
    maker.release("1.0.0", 1)
    path = maker.forge(maker.folder / "f.zip")
    with holders.store("field") as store:
        refused("TRUST_UNSIGNED_KIT", store.open_kit, path, holders.now())


@pytest.mark.parametrize("kind", ["wavegate-desired", None, 5])
def test_document_of_another_kind_is_no_kit(maker, oncall, kind):
    path = maker.forge(maker.folder / "f.zip", change={"_type": kind})
    with oncall.store("field") as store:
        refused("TRUST_UNSIGNED_KIT", store.open_kit, path, oncall.now())


def test_kit_of_a_later_format_says_so(maker, oncall):
    path = maker.forge(maker.folder / "f.zip", change={"v": 2})
    with oncall.store("field") as store, pytest.raises(MessageRefused) as caught:
        store.open_kit(path, oncall.now())
    assert caught.value.code == "MESSAGE_VERSION"


def test_metadata_that_was_not_named_or_is_missing_is_refused(maker, oncall):
    honest = maker.metadata()
    named = {name: msgspec.to_builtins(kitfile.described(data)) for name, data in honest.items()}
    more = {**honest, "9.other.json": b"{}"}
    altered = {**honest, "1.root.json": honest["1.root.json"] + b" "}
    without = {name: data for name, data in honest.items() if "revocation" not in name}
    unlisted = {name: data for name, data in honest.items() if "team" not in name}
    with oncall.store("field") as store:
        for number, (metadata, fields, code) in enumerate(
            [
                (more, {"change": {"metadata": named}}, "TRUST_MIX"),
                (altered, {"change": {"metadata": named}}, "TRUST_DIGEST"),
                (without, {}, "TRUST_MIX"),
                ({**honest, "7.targets.json": honest["1.targets.json"]}, {}, "TRUST_MIX"),
                ({**honest, "7.revocation.json": honest["1.revocation.json"]}, {}, "TRUST_MIX"),
            ]
        ):
            path = maker.forge(maker.folder / f"{number}.zip", metadata=metadata, **fields)
            refused(code, store.open_kit, path, oncall.now())
        kit = store.open_kit(maker.forge(maker.folder / "u.zip", metadata=unlisted), oncall.now())
        refused("TRUST_MIX", store.authorize_from_kit, kit, MODEL, hardware="x")
        refused("TRUST_NOT_LISTED", store.authorize_from_kit, kit, "vision/other", hardware="x")


def test_metadata_signed_by_others_is_refused_whoever_signed_the_kit(maker, oncall):
    """With both kit keys stolen: what the offline roles have not signed gets nobody anywhere."""
    thief = CryptoSigner.generate_ed25519()
    oncall.keys["thief"] = thief
    forged = oncall.sign_role("team-vision", lambda role: None, "thief")
    listed = {name: data for name, data in maker.metadata().items() if "team" not in name}
    path = maker.forge(maker.folder / "f.zip", metadata={**listed, **forged})
    with oncall.store("field") as store:
        refused("TRUST_UNSIGNED_TEAM", store.open_kit, path, oncall.now())


def test_stolen_kit_keys_list_no_bundle(maker, oncall):
    honest = maker.desired[MODEL]
    invented = DesiredModel("vision/digits/9.0.0/bundle.json", "e" * 64, 10, 9)
    lower = DesiredModel(honest.target, "e" * 64, honest.length, honest.counter)
    with oncall.store("field") as store:
        for number, (wanted, code) in enumerate([(invented, "TRUST_NOT_LISTED"), (lower, "TRUST_DIRECTOR_MISMATCH")]):
            path = maker.forge(maker.folder / f"{number}.zip", desired={MODEL: wanted}, version=number + 1)
            kit = store.open_kit(path, oncall.now())
            refused(code, store.authorize_from_kit, kit, MODEL, hardware="x")


def test_blob_swapped_or_cut_is_refused_before_its_end(maker, oncall):
    digest = sha256_hex(b"1.0.0")
    swapped = maker.folder / "swapped"
    swapped.write_bytes(b"9.9.9")
    path = maker.forge(maker.folder / "f.zip", blobs={**maker.blobs, digest: swapped})
    with oncall.store("field") as store:
        kit = store.open_kit(path, oncall.now())
        refused("TRUST_DIGEST", lambda: list(kit.blob(digest)))
    refused("TRUST_DIGEST", check_kit, path, oncall.root, oncall.now())
    swapped.write_bytes(b"9.9.9.9")
    path = maker.forge(maker.folder / "g.zip", blobs={**maker.blobs, digest: swapped})
    with oncall.store("field") as store:
        refused("TRUST_MIX", store.open_kit, path, oncall.now())


def test_demo_kit_is_refused_by_a_real_device(maker, oncall):
    from tuf.api.metadata import Metadata

    root = Metadata.from_bytes(oncall.root)
    root.signed.unrecognized_fields["x-demo"] = True
    root.signed.version = 2
    root.signatures.clear()
    for name in ("root1", "root2"):
        root.sign(oncall.keys[name], append=True)
    metadata = {**maker.metadata(), "2.root.json": root.to_bytes()}
    path = maker.forge(maker.folder / "f.zip", metadata=metadata)
    with oncall.store("field") as store, pytest.raises(AskPerson) as caught:
        store.open_kit(path, oncall.now())
    assert caught.value.code == "TRUST_DEMO_KEYS"


def test_kit_that_lacks_a_blob_is_not_made(maker, oncall):
    short = {digest: path for digest, path in maker.blobs.items() if digest != sha256_hex(b"1.0.0")}
    for blobs in (short, {}):
        with pytest.raises(BundleRefused) as caught:
            maker.make(1, blobs=blobs)
        assert caught.value.code == "BUNDLE_FILE_MISSING"


def test_kits_are_made_of_the_same_bytes_each_time(maker, oncall):
    at = oncall.now()
    assert maker.make(1, now_ms=at).read_bytes() == maker.make(1, now_ms=at).read_bytes()


def zipped(path, entries, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name", ["../kit.json", "metadata/../x.json", "metadata/timestamp.json", "blobs/short", "/kit.json", "blobs/", "x"]
)
def test_entry_that_kits_do_not_hold_is_refused(tmp_path, name):
    path = zipped(tmp_path / "k.zip", [("kit.json", b"{}"), (name, b"")])
    refused("TRUST_UNSIGNED_KIT", kitfile.read_archive, path)


def test_bombs_are_refused_before_they_go_off(tmp_path):
    compressed = zipped(tmp_path / "c.zip", [("kit.json", b" " * 10**6)], compression=zipfile.ZIP_DEFLATED)
    refused("TRUST_UNSIGNED_KIT", kitfile.read_archive, compressed)
    document = zipped(tmp_path / "d.zip", [("kit.json", b" " * (kitfile.MAX_PAYLOAD_BYTES + 1))])
    refused("TRUST_LENGTH", kitfile.read_archive, document)
    files = [(f"metadata/{n}.root.json", b"") for n in range(1, kitfile.MAX_METADATA_FILES + 2)]
    refused("TRUST_LENGTH", kitfile.read_archive, zipped(tmp_path / "m.zip", [("kit.json", b"{}"), *files]))
    blobs = [(f"blobs/{n:064x}", b"") for n in range(kitfile.MAX_BLOBS + 1)]
    refused("TRUST_LENGTH", kitfile.read_archive, zipped(tmp_path / "b.zip", [("kit.json", b"{}"), *blobs]))
    many = [(f"blobs/{n:064x}", b"") for n in range(10_000)]
    refused("TRUST_LENGTH", kitfile.read_archive, zipped(tmp_path / "y.zip", [("kit.json", b"{}"), *many]))
    root = zipped(tmp_path / "r.zip", [("kit.json", b"{}"), ("metadata/1.root.json", b" " * 600_000)])
    refused("TRUST_LENGTH", kitfile.read_archive, root)


def test_overlapping_entries_are_refused(tmp_path):
    """Two entries over the same bytes: the file is smaller than what it claims to hold."""
    blob = b"x" * 5_000
    path = zipped(tmp_path / "k.zip", [("kit.json", b"{}"), (f"blobs/{'a' * 64}", blob), (f"blobs/{'b' * 64}", blob)])
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    entries = [place for place in range(directory, len(data) - 4) if data[place : place + 4] == b"PK\x01\x02"]
    for size_at in (20, 24):
        for entry in entries[1:]:
            struct.pack_into("<L", data, entry + size_at, 6_000)
    path.write_bytes(bytes(data))
    refused("TRUST_LENGTH", kitfile.read_archive, path)


def test_directory_in_the_64_bit_form_is_bounded_too(tmp_path):
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 2**40, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 0, 0, 0)
    path = tmp_path / "k.zip"
    path.write_bytes(end64 + locator + end)
    refused("TRUST_LENGTH", kitfile.read_archive, path)


@pytest.mark.parametrize("data", [b"", b"PK", b"\0" * 500, b"PK\5\6" + b"\0" * 17 + b"\1", b"PK\5\6" + b"\xff" * 18])
def test_garbage_is_no_kit(tmp_path, data):
    path = tmp_path / "k.zip"
    path.write_bytes(data)
    refused("TRUST_UNSIGNED_KIT", kitfile.read_archive, path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), flip=st.integers(1, 255), cut=st.booleans())
def test_any_damage_is_refused_or_harmless(maker, oncall, place, flip, cut):
    path = maker.folder / "whole.zip"
    if not path.exists():
        maker.make(1).rename(path)
    whole = path.read_bytes()
    place %= len(whole)
    damaged = maker.folder / "damaged.zip"
    damaged.write_bytes(whole[:place] if cut else whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
    try:
        kit = check_kit(damaged, oncall.root, oncall.now())
    except (TrustRefused, MessageRefused):
        return
    assert kit.sha256 == check_kit(path, oncall.root, oncall.now()).sha256  # a byte nobody signs, such as a date
