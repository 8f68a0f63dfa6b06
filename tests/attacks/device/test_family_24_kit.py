"""Attack 24: an offline kit that is old, expired, or not what the field people signed, carried to a device.

The attacker can put any stick into the device; of the two kit keys he has one at most. The kit is opened as its user
would open it: on the real folder of a device that was stopped, through the agent's own trust store.
"""

import dataclasses
import zipfile

import msgspec
import pytest

from bundles.digest import canonical_json, sha256_hex
from bundles.errors import Refused
from bundles.trust.device.client import TrustStore
from bundles.trust.device.kit import current_metadata, make_kit
from bundles.trust.device.kitfile import KitDocument, described, write_archive
from bundles.wire.messages import DesiredModel

MODEL = "vision/digits"
DAY_MS = 86_400_000
BOTH = ("kit1", "kit2")


def blobs_of(lab, folder, *wanted):
    contents = {sha256_hex(lab.manifests[w.target]): lab.manifests[w.target] for w in wanted} | lab.front.blobs
    folder.mkdir(exist_ok=True)
    for digest, data in contents.items():
        (folder / digest).write_bytes(data)
    return {digest: folder / digest for digest in contents}


def kit(lab, version, wanted, **options):
    """An honest kit, made by both holders."""
    path = lab.folder / f"{version}.kit"
    make_kit(
        path,
        metadata=current_metadata(lab.repository_folder, [wanted.target]),
        desired={MODEL: wanted},
        blobs=blobs_of(lab, lab.folder / "kit-blobs", wanted),
        version=version,
        signers=lab.some(*BOTH),
        **{"now_ms": lab.now(), **options},
    )
    return path


def forged(lab, wanted, *keys, life_ms=DAY_MS):
    """A kit as whoever holds ``keys`` writes it; nothing of ours has checked it."""
    path = lab.folder / "forged.kit"
    metadata = current_metadata(lab.repository_folder, [wanted.target])
    blobs = blobs_of(lab, lab.folder / "kit-blobs", wanted)
    named = {name: described(data) for name, data in metadata.items()}
    lengths = {digest: source.stat().st_size for digest, source in blobs.items()}
    document = KitDocument(9, lab.now(), lab.now() + life_ms, named, {MODEL: wanted}, lengths)
    signed = canonical_json(document)
    made = [lab.keys[key].sign(signed) for key in keys]
    entries = canonical_json([{"keyid": entry.keyid, "sig": entry.signature} for entry in made])
    write_archive(path, b'{"signed":' + signed + b',"signatures":' + entries + b"}", metadata, blobs)
    return path


def use(lab, device, path, *, shift_ms=0):
    """Stop the device, open the kit with its own trust, read all that it would install, and start it again.

    Remembers the code of the refusal in ``lab.code``, and in ``lab.allowed`` what was let in.
    """
    device.stop()
    folder, now = device.folder, lab.now() + shift_ms
    try:
        with TrustStore(folder / "trust", (folder / "root.json").read_bytes(), device="dev-1", fetch=None) as store:
            opened = store.open_kit(path, now)
            bundle = store.authorize_from_kit(opened, MODEL, hardware="cam-a")
            for digest in opened.document.blobs:
                for _ in opened.blob(digest):
                    pass
        lab.allowed.append(bundle.target)
    except Refused as error:
        lab.codes.append(error.code)
    device.start()


def replayed(lab, device):
    """The kit of last month, with the release before, after this month's was used."""
    old, new = kit(lab, 1, lab.wanted("1.0.0")), kit(lab, 2, lab.wanted("1.1.0"))
    use(lab, device, new)
    assert lab.allowed == ["vision/digits/1.1.0/bundle.json"]
    lab.before = device.snapshot()
    use(lab, device, old)


def expired(lab, device):
    path = kit(lab, 1, lab.wanted("1.0.0"), now_ms=lab.now() - 1000, life_ms=DAY_MS)
    use(lab, device, path, shift_ms=2 * DAY_MS)


def for_ever(lab, device):
    """Both field keys are stolen or careless: a kit that is to last ten years."""
    use(lab, device, forged(lab, lab.wanted("1.0.0"), *BOTH, life_ms=3_650 * DAY_MS))


def older_than_the_device(lab, device):
    """Made before the newest release was signed; the device has that one from the network, and saw no kit before."""
    path = kit(lab, 1, lab.wanted("1.1.0"))
    lab.assign(lab.publish("2.0.0", 6, base=lab.better))
    device.poll()
    lab.before = device.snapshot()
    assert lab.before.answer[0] == "2.0.0"
    use(lab, device, path)


def below_the_floor(lab, device):
    use(lab, device, kit(lab, 1, lab.wanted("0.9.0")))


def of_a_revoked_bundle(lab, device):
    """The list is in the kit: it cannot be left at home."""
    wanted = lab.publish("2.0.0", 6, base=lab.better)
    lab.revoke(wanted.sha256, "revocation1")
    use(lab, device, kit(lab, 1, wanted))


def signed_by_one(lab, device):
    use(lab, device, forged(lab, lab.wanted("1.0.0"), "kit1"))


def signed_by_one_twice(lab, device):
    use(lab, device, forged(lab, lab.wanted("1.0.0"), "kit1", "kit1"))


def signed_by_the_control_plane(lab, device):
    use(lab, device, forged(lab, lab.wanted("1.0.0"), "director", "snapshot", "timestamp"))


def of_foreign_content(lab, device):
    """Both have signed, for a bundle that no team has listed."""
    data = lab.manifest("6.6.6", 66)
    wanted = DesiredModel("vision/digits/6.6.6/bundle.json", sha256_hex(data), len(data), 66)
    lab.manifests[wanted.target] = data
    use(lab, device, forged(lab, wanted, *BOTH))


def with_a_blob_exchanged(lab, device):
    """An honest kit in which, afterwards, one byte of the model was changed."""
    path = kit(lab, 1, lab.wanted("1.1.0"))
    model = lab.better.file_with_role("model").sha256
    # The zip's own checksum is the carrier's to mend: whoever changes the content does that too.
    changed = lab.folder / "changed.kit"
    with zipfile.ZipFile(path) as honest, zipfile.ZipFile(changed, "w") as forgery:
        for entry in honest.infolist():
            content = bytearray(honest.read(entry))
            if entry.filename.endswith(model):
                content[100] ^= 1
            forgery.writestr(entry, bytes(content))
    use(lab, device, changed)


ATTACKS = {
    replayed: ("TRUST_ROLLBACK_KIT", {"bundles.trust.device.client.check_kit_newer": lambda *_: None}),
    expired: ("TRUST_EXPIRED_KIT", {"bundles.trust.device.client.check_kit_expiry": lambda *_: None}),
    for_ever: ("TRUST_EXPIRED_KIT", {"bundles.trust.device.client.check_kit_expiry": lambda *_: None}),
    older_than_the_device: ("TRUST_ROLLBACK_TEAM", {"bundles.trust.device.checks.check_versions": lambda *_: None}),
    below_the_floor: ("TRUST_FLOOR", {"bundles.trust.device.authorize.check_floor": lambda *_: None}),
    of_a_revoked_bundle: ("TRUST_REVOKED", {"bundles.trust.device.checks.check_not_revoked": lambda *_: None}),
    signed_by_one: ("TRUST_THRESHOLD", "signatures"),
    signed_by_one_twice: ("TRUST_THRESHOLD", "signatures"),
    signed_by_the_control_plane: ("TRUST_UNSIGNED_KIT", "signatures"),
    of_foreign_content: ("TRUST_NOT_LISTED", "listing"),
    with_a_blob_exchanged: ("TRUST_DIGEST", {"bundles.trust.device.kitfile.check_blob_digest": lambda *_: None}),
}


def believe_any_signature(data, targets):
    return bytes(msgspec.json.decode(data, type=dict[str, msgspec.Raw])["signed"])


def allow_what_the_kit_says(store, opened, model, *, hardware):
    return dataclasses.make_dataclass("Bundle", ["target"])(opened.wanted(model).target)


NAMED = {
    "signatures": {"bundles.trust.device.kit.check_kit_signatures": believe_any_signature},
    "listing": {"bundles.trust.device.client.TrustStore.authorize_from_kit": allow_what_the_kit_says},
}


def prepared(script):
    def play(lab, device):
        lab.codes, lab.allowed, lab.before = [], [], None
        script(lab, device)

    return play


@pytest.mark.parametrize("script", ATTACKS)
def test_attack_24_kit(lab, script):
    device = lab.device()
    honest = device.snapshot()
    prepared(script)(lab, device)
    before, after = lab.before or honest, device.snapshot()
    assert lab.codes == [ATTACKS[script][0]]
    assert before.answer is not None
    assert after.all == before.all
    assert after.floors.kit == before.floors.kit or script in OPENED, "a kit that is refused is not remembered"


OPENED = {below_the_floor, of_a_revoked_bundle, of_foreign_content, with_a_blob_exchanged}
"""Honestly signed and newer, so opened and remembered; what it would install is refused after that."""


@pytest.mark.parametrize("script", ATTACKS)
def test_attack_24_kit_has_teeth(with_teeth, script):
    disabled = ATTACKS[script][1]
    honest_kits = 1 if script is replayed else 0

    def brought_it_in(lab, device):
        return len(getattr(lab, "allowed", [])) > honest_kits

    with_teeth(prepared(script), brought_it_in, NAMED[disabled] if isinstance(disabled, str) else disabled)
