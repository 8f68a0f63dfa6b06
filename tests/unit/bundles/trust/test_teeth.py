"""Every check bites: the same attack is refused with it, and succeeds with that one check disabled."""

from __future__ import annotations

import pytest
from tuf.api.metadata import Metadata, Root, Timestamp

from bundles.digest import canonical_json
from bundles.errors import WavegateError
from bundles.trust.device.kit import current_metadata
from bundles.trust.device.kitfile import KitDocument, described, write_archive
from bundles.trust.director import sign_desired
from bundles.trust.roles import utc
from bundles.wire.messages import Desired, DesiredModel

MODEL = "vision/digits"
DAY_MS = 86_400_000


class Attacker:
    """What an attacker tries, with the keys the name of the attempt says were stolen."""

    def __init__(self, holders) -> None:
        self.holders, self.now = holders, holders.now()
        self.wanted = holders.publish("1.0.0", 3)

    def document(self, **fields):
        said = {"device": "dev-1", "gen": 5, "issued": 1, "expires": self.now + DAY_MS, "models": {}, **fields}
        return sign_desired(Desired(**said), self.holders.keys["director"])

    def device(self):
        store = self.holders.store()
        store.refresh(self.now)
        return store

    def authorize(self, wanted=None, hardware="x"):
        with self.device() as store:
            store.authorize(MODEL, wanted or self.wanted, hardware=hardware, now_ms=self.now)

    def accept(self, data, later_ms=0):
        with self.device() as store:
            store.accept_desired(self.document(), self.now)
            store.accept_desired(data, self.now + later_ms)

    def lose_cache_and_roll_back(self):
        old = {"2.team-vision.json": (self.holders.metadata / "2.team-vision.json").read_bytes()}
        newer = self.holders.publish("1.1.0", 4)
        with self.device() as store:
            store.authorize(MODEL, newer, hardware="x", now_ms=self.now)
        for path in (self.holders.folder / "dev-1" / "metadata").glob("*.json"):
            path.unlink()
        self.holders.serve(old)
        self.authorize()

    def stay_long_after_the_timestamp(self):
        with self.device() as store:
            store.authorize(MODEL, self.wanted, hardware="x", now_ms=self.now + 20 * DAY_MS)

    def sign_a_timestamp_of_the_far_future(self):
        path = self.holders.metadata / "timestamp.json"
        stamp = Metadata[Timestamp].from_file(str(path))
        stamp.signed.version, stamp.signed.expires = 9, utc(self.now + 3650 * DAY_MS)
        stamp.sign(self.holders.keys["timestamp"])
        stamp.to_file(str(path))
        self.device().close()

    def turn_the_root_into_a_demos(self):
        root = Metadata[Root].from_bytes(self.holders.root)
        root.signed.version, root.signed.unrecognized_fields["x-demo"] = 2, True
        root.signatures.clear()
        for name in ("root1", "root2"):
            root.sign(self.holders.keys[name], append=True)
        (self.holders.metadata / "2.root.json").write_bytes(root.to_bytes())
        self.authorize()

    def install_what_was_revoked(self):
        def revoke(targets):
            targets.unrecognized_fields["x-revoked"] = {self.wanted.sha256: {"reason": "", "at_ms": 1}}

        self.holders.serve(self.holders.sign_role("revocation", revoke, "oncall1"))
        self.authorize()

    def go_below_the_floor(self):
        with self.holders.store() as store:
            store.raise_floor(MODEL, 9, 8)
        self.authorize()

    def kit(self, **fields):
        path = self.holders.folder / "kit.zip"
        metadata = current_metadata(self.holders.metadata, [self.wanted.target])
        named = {name: described(data) for name, data in metadata.items()}
        keys = fields.pop("keys", ("kit1", "kit2"))
        metadata |= fields.pop("beside", {})
        said = {
            "version": 5,
            "issued": self.now,
            "expires": self.now + DAY_MS,
            "desired": {MODEL: self.wanted},
            **fields,
        }
        signed = canonical_json(KitDocument(metadata=named, blobs={}, **said))
        made = [self.holders.keys[key].sign(signed) for key in keys]
        entries = canonical_json([{"keyid": entry.keyid, "sig": entry.signature} for entry in made])
        write_archive(path, b'{"signed":' + signed + b',"signatures":' + entries + b"}", metadata, {})
        return path

    def open(self, path, later_ms=0):
        with self.holders.store() as store:
            kit = store.open_kit(path, self.now + later_ms)
            store.authorize_from_kit(kit, MODEL, hardware="x")

    def replay_a_kit(self):
        self.open(self.kit())
        self.open(self.kit(version=4))


def other(wanted, **fields):
    said = {"target": wanted.target, "sha256": wanted.sha256, "length": wanted.length, "counter": wanted.counter}
    return DesiredModel(**{**said, **fields})


ATTACKS = {
    "bundles.trust.device.checks.check_versions": (
        "TRUST_ROLLBACK_TEAM",
        lambda thief: thief.lose_cache_and_roll_back(),
    ),
    "bundles.trust.device.checks.check_expiry": (
        "TRUST_EXPIRED_TIMESTAMP",
        lambda thief: thief.stay_long_after_the_timestamp(),
    ),
    "bundles.trust.device.checks.check_signed_time": (
        "TRUST_CLOCK",
        lambda thief: thief.sign_a_timestamp_of_the_far_future(),
    ),
    "bundles.trust.device.checks.check_demo": ("TRUST_DEMO_KEYS", lambda thief: thief.turn_the_root_into_a_demos()),
    "bundles.trust.device.checks.check_not_revoked": ("TRUST_REVOKED", lambda thief: thief.install_what_was_revoked()),
    "bundles.trust.device.checks.check_device": (
        "TRUST_WRONG_DEVICE",
        lambda thief: thief.accept(thief.document(device="dev-2", gen=6)),
    ),
    "bundles.trust.device.checks.check_assignment_expiry": (
        "TRUST_EXPIRED_DIRECTOR",
        lambda thief: thief.accept(thief.document(gen=6), 2 * DAY_MS),
    ),
    "bundles.trust.device.checks.check_generation": (
        "TRUST_ROLLBACK_DIRECTOR",
        lambda thief: thief.accept(thief.document(gen=4)),
    ),
    "bundles.trust.device.authorize.check_agreement": (
        "TRUST_DIRECTOR_MISMATCH",
        lambda thief: thief.authorize(other(thief.wanted, counter=99)),
    ),
    "bundles.trust.device.authorize.check_floor": ("TRUST_FLOOR", lambda thief: thief.go_below_the_floor()),
    "bundles.trust.device.kit.check_contents": (
        "TRUST_MIX",
        lambda thief: thief.open(thief.kit(beside={"8.other.json": b"{}"})),
    ),
    "bundles.trust.device.client.check_kit_expiry": (
        "TRUST_EXPIRED_KIT",
        lambda thief: thief.open(thief.kit(), 2 * DAY_MS),
    ),
    "bundles.trust.device.client.check_kit_newer": ("TRUST_ROLLBACK_KIT", lambda thief: thief.replay_a_kit()),
}


@pytest.mark.parametrize("check", ATTACKS)
def test_attack_is_refused_with_the_check(oncall, check):
    code, attack = ATTACKS[check]
    with pytest.raises(WavegateError) as caught:
        attack(Attacker(oncall))
    assert caught.value.code == code


@pytest.mark.parametrize("check", ATTACKS)
def test_attack_succeeds_without_the_check(oncall, monkeypatch, check):
    monkeypatch.setattr(check, lambda *_, **__: None)
    ATTACKS[check][1](Attacker(oncall))
