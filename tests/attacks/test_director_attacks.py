"""Attacks 15 and 16 of the trust design: what the director says, forged, replayed or with its key stolen."""

from __future__ import annotations

import json

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from bundles.digest import canonical_json
from bundles.errors import TrustRefused, TryAgain
from bundles.trust.device.authorize import check_manifest
from bundles.wire.messages import DesiredModel

DAY_MS = 86_400_000


@pytest.fixture
def store(lab):
    lab.publish("1.0.0", 3)
    store = lab.store()
    store.refresh(lab.now())
    return store


def refused(code, action, *arguments, **options):
    with pytest.raises(TrustRefused) as caught:
        action(*arguments, **options)
    assert caught.value.code == code
    assert caught.value.remedy


def test_honest_assignment_is_accepted_again_and_signed_again(lab, store):
    wanted = lab.publish("1.1.0", 5)
    first = store.accept_desired(lab.desired(4, wanted), lab.now())
    assert first.models["vision/digits"] == wanted
    again = lab.desired(4, wanted, issued=lab.now() + 1000, life_ms=40 * DAY_MS, trust_version=9)
    assert store.accept_desired(again, lab.now()).expires > first.expires
    assert store.floors.gen == 4


def test_attack_15_forged_by_another_key(lab, store):
    lab.keys["thief"] = CryptoSigner.generate_ecdsa()
    refused("TRUST_UNSIGNED_DIRECTOR", store.accept_desired, lab.desired(1, key="thief"), lab.now())
    refused("TRUST_UNSIGNED_DIRECTOR", store.accept_desired, lab.desired(1, key="vision"), lab.now())
    assert store.floors.gen == 0


@pytest.mark.parametrize("place", range(0, 900, 37))
def test_attack_15_one_byte_changed(lab, store, place):
    wanted = DesiredModel("vision/digits/1.0.0/bundle.json", "0" * 64, 300, 3)
    data = bytearray(lab.desired(1, wanted))
    place %= len(data)
    data[place] ^= 0x01
    if json_or_none(bytes(data)) == json.loads(lab.desired(1, wanted)):
        pytest.skip("the change is not visible")
    with pytest.raises(TrustRefused):
        store.accept_desired(bytes(data), lab.now())
    assert store.floors.gen == 0


def json_or_none(data):
    try:
        return json.loads(data)
    except ValueError:
        return None


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b'{"signed":{},"signatures":[]}', b"\xff\xfe", b"[" * 5000])
def test_attack_15_no_document(lab, store, data):
    refused("TRUST_UNSIGNED_DIRECTOR", store.accept_desired, data, lab.now())


def test_attack_15_for_another_device(lab, store):
    refused("TRUST_WRONG_DEVICE", store.accept_desired, lab.desired(1, device="dev-2"), lab.now())


def test_attack_15_replayed(lab, store):
    old, new = lab.desired(1), lab.desired(2)
    store.accept_desired(new, lab.now())
    refused("TRUST_ROLLBACK_DIRECTOR", store.accept_desired, old, lab.now())
    store.close()
    with lab.store() as restarted:
        refused("TRUST_ROLLBACK_DIRECTOR", restarted.accept_desired, old, lab.now())
        restarted.accept_desired(new, lab.now())


def test_attack_15_two_documents_of_one_generation(lab, store):
    wanted = lab.publish("1.1.0", 5)
    store.accept_desired(lab.desired(2, wanted), lab.now())
    refused("TRUST_ROLLBACK_DIRECTOR", store.accept_desired, lab.desired(2), lab.now())


def test_attack_15_expired(lab, store):
    refused("TRUST_EXPIRED_DIRECTOR", store.accept_desired, lab.desired(1, life_ms=-1), lab.now())
    document = lab.desired(1, life_ms=DAY_MS)
    refused("TRUST_EXPIRED_DIRECTOR", store.accept_desired, document, lab.now() + 2 * DAY_MS)


def test_attack_15_another_document_signed_with_the_directors_key(lab, store):
    """Its type is part of what is signed, so nothing else the key signs can be read as an assignment."""
    honest = msgspec.json.decode(lab.desired(1))["signed"]
    for change in ({"_type": "wavegate-kit"}, {"_type": None}):
        fields = {name: value for name, value in {**honest, **change}.items() if value is not None}
        signed = canonical_json(fields)
        signature = lab.keys["director"].sign(signed)
        entry = {"keyid": signature.keyid, "sig": signature.signature}
        data = b'{"signed":' + signed + b',"signatures":[' + canonical_json(entry) + b"]}"
        refused("TRUST_UNSIGNED_DIRECTOR", store.accept_desired, data, lab.now())


def test_attack_15_before_anything_was_fetched(lab):
    with pytest.raises(TryAgain) as caught:
        lab.store("fresh").accept_desired(lab.desired(1, device="fresh"), lab.now())
    assert caught.value.code == "METADATA_NOT_REFRESHED"


@pytest.mark.parametrize("field", ["sha256", "length", "counter"])
def test_attack_15_says_otherwise_than_the_listing(lab, store, field):
    wanted = lab.publish("1.1.0", 5)
    other = {"sha256": "a" * 64, "length": wanted.length + 1, "counter": wanted.counter + 1}[field]
    forged = msgspec.structs.replace(wanted, **{field: other})
    store.refresh(lab.now())
    refused("TRUST_DIRECTOR_MISMATCH", store.authorize, "vision/digits", forged, hardware="x", now_ms=lab.now())


def test_attack_15_an_invented_bundle(lab, store):
    invented = DesiredModel("vision/digits/6.6.6/bundle.json", "a" * 64, 300, 66)
    refused("TRUST_NOT_LISTED", store.authorize, "vision/digits", invented, hardware="x", now_ms=lab.now())


def test_attack_15_a_listed_bundle_in_another_models_place(lab, store):
    other = lab.publish("1.0.0", 8, model="letters")
    store.refresh(lab.now())
    refused("TRUST_DIRECTOR_MISMATCH", store.authorize, "vision/digits", other, hardware="x", now_ms=lab.now())
    refused("TRUST_DIRECTOR_MISMATCH", store.authorize, "audio/letters", other, hardware="x", now_ms=lab.now())


def test_attack_16_stolen_director_goes_below_the_floor(lab, store):
    old, new = lab.publish("1.1.0", 5), lab.publish("1.2.0", 7)
    store.refresh(lab.now())
    assert store.raise_floor("vision/digits", 7, 5) == 5
    before = store.floors
    below = DesiredModel("vision/digits/1.0.0/bundle.json", *listed(lab, "1.0.0", 3), 3)
    refused("TRUST_FLOOR", store.authorize, "vision/digits", below, hardware="x", now_ms=lab.now())
    for allowed in (old, new):
        store.authorize("vision/digits", allowed, hardware="x", now_ms=lab.now())
    assert store.floors.releases == before.releases


def listed(lab, version, counter):
    from bundles.digest import sha256_hex

    data = lab.manifest(version, counter)
    return sha256_hex(data), len(data)


def test_attack_16_stolen_director_below_the_signed_floor_on_a_fresh_device(lab):
    """Attack 4: the floor that release managers sign holds on a device that has seen nothing yet."""
    from bundles.trust.drafting.offline import raise_signed_floors

    old = lab.publish("1.0.0", 1)
    new = lab.publish("1.1.0", 4)
    keys = lab.some("targets1", "targets2")
    lab.repository.publish(raise_signed_floors(lab.repository.targets, {"vision/digits": 4}, keys, lab.now()))
    store = lab.store("fresh")
    store.refresh(lab.now())
    refused("TRUST_FLOOR", store.authorize, "vision/digits", old, hardware="x", now_ms=lab.now())
    store.authorize("vision/digits", new, hardware="x", now_ms=lab.now())


def test_attack_16_canary_bundle_on_a_prod_device(lab):
    canary = lab.publish("2.0.0", 9, channel="canary")
    prod, lax = lab.store("p"), lab.store("c", pin="canary")
    for store in (prod, lax):
        store.refresh(lab.now())
    refused("TRUST_CHANNEL", prod.authorize, "vision/digits", canary, hardware="x", now_ms=lab.now())
    lax.authorize("vision/digits", canary, hardware="x", now_ms=lab.now())


def test_attack_16_wrong_hardware(lab, store):
    wanted = lab.publish("1.1.0", 5, hardware=("cam-b", "cam-c"))
    store.refresh(lab.now())
    refused("TRUST_HW", store.authorize, "vision/digits", wanted, hardware="cam-a", now_ms=lab.now())
    store.authorize("vision/digits", wanted, hardware="cam-b", now_ms=lab.now())


def test_attack_14_manifest_swapped_or_cut(lab, store):
    wanted = lab.publish("1.1.0", 5)
    store.refresh(lab.now())
    bundle = store.authorize("vision/digits", wanted, hardware="x", now_ms=lab.now())
    honest = lab.manifests[wanted.target]
    assert check_manifest(bundle, honest).version == "1.1.0"
    refused("TRUST_LENGTH", check_manifest, bundle, honest[:-1])
    flipped = bytearray(honest)
    flipped[10] ^= 1
    refused("TRUST_DIGEST", check_manifest, bundle, bytes(flipped))


def test_rotated_director_key_starts_generations_anew(lab, store):
    """A stolen director key can use up every generation; rotating it offline is the way back."""
    from tuf.api.metadata import Metadata, Targets

    store.accept_desired(lab.desired(2**62), lab.now())
    refused("TRUST_ROLLBACK_DIRECTOR", store.accept_desired, lab.desired(10), lab.now())
    targets = Targets.from_dict(lab.repository.targets.to_dict())
    targets.version = 2
    targets.revoke_key(lab.keys["director"].public_key.keyid, "director")
    stolen = lab.keys["director"]
    lab.keys["director"] = CryptoSigner.generate_ecdsa()
    targets.add_key(lab.keys["director"].public_key, "director")
    metadata = Metadata(targets)
    for key in lab.some("targets1", "targets2"):
        metadata.sign(key, append=True)
    lab.repository.publish({"2.targets.json": metadata.to_bytes()})
    store.refresh(lab.now())
    assert store.accept_desired(lab.desired(10), lab.now()).gen == 10
    lab.keys["thief"] = stolen
    refused("TRUST_UNSIGNED_DIRECTOR", store.accept_desired, lab.desired(2**62 + 1, key="thief"), lab.now())
