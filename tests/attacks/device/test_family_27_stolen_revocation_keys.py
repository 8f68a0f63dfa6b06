"""Attack 27: the revocation keys are stolen, and everything that there is is revoked, for the whole fleet at once.

Four devices, as fleets have them: one that can go back, one in its first release, one made with its release, and one
whose bundle asks to stop rather than go on. What the attacker wants: a fleet without models. With one key he gets a
fleet that takes nothing new; with two, each device does what its bundle declares for that case. Neither reaches what
devices were made with, and release managers undo both without touching a device.
"""

import dataclasses

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from bundles.trust import revocation
from bundles.trust.device import client
from bundles.trust.drafting.drafts import Keys
from bundles.trust.drafting.rotation import rotate_revocation

ONE, BOTH = ("revocation1",), ("revocation1", "revocation2")


@dataclasses.dataclass
class Fleet:
    """The four devices, and what each answered before."""

    lab: object
    long: object
    first: object
    made_with_it: object
    stopping: object

    def __post_init__(self):
        self.versions = self.running()

    @property
    def devices(self):
        return [self.long, self.first, self.made_with_it, self.stopping]

    def running(self):
        return [device.running() for device in self.devices]

    def refresh(self):
        for device in self.devices:
            device.refresh()

    def order(self, wanted):
        self.lab.assign(wanted)
        for device in self.devices:
            device.poll()

    def standings(self):
        return [(device.reported().revoked, device.reported().safe_mode) for device in self.devices]


@pytest.fixture
def fleet(lab):
    """1.1.0, 1.0.0, 1.1.0 from the factory, and 2.0.0 that declares ``stop``, after 1.1.0."""
    long, first = lab.device(), lab.first_device()
    settings = dataclasses.replace(long.settings, factory=(lab.wanted("1.1.0").sha256,))
    made_with_it, stopping = lab.device(settings=settings), lab.device()
    lab.assign(lab.publish("2.0.0", 6, safe_mode="stop"))
    stopping.poll()
    fleet = Fleet(lab, long, first, made_with_it, stopping)
    assert fleet.versions == ["1.1.0", "1.0.0", "1.1.0", "2.0.0"]
    return fleet


def revoke_everything(fleet, keys, *versions):
    lab = fleet.lab
    lab.publish("3.0.0", 8, base=lab.better)
    for version in versions or ("1.0.0", "1.1.0", "2.0.0", "3.0.0"):
        lab.revoke(lab.wanted(version).sha256, *keys)
    fleet.refresh()


def rotate_the_keys(fleet):
    """What release managers do: two new keys for the on-call people, and an empty list signed by both."""
    lab = fleet.lab
    lab.keys["new1"], lab.keys["new2"] = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    keys = Keys([lab.keys["new1"].public_key, lab.keys["new2"].public_key])
    drafts = rotate_revocation(lab.repository.state, keys, lab.now(), keep=())
    lab.publish_drafts(drafts, "targets1", "targets2", "new1", "new2")


def revoke_with_the_old_keys(fleet):
    """The thief owns the control plane as well: he signs his list and serves it himself."""
    lab = fleet.lab
    versions = {role: signed.version for role, signed in lab.repository.state.roles.items()}
    role = Targets.from_dict(lab.repository.state.roles["revocation"].to_dict())
    role.version += 1
    role.unrecognized_fields["x-revoked"] = {lab.wanted("3.0.0").sha256: {"reason": "mine", "at_ms": 1}}
    metadata = Metadata(role)
    for holder in lab.some(*BOTH):
        metadata.sign(holder, append=True)
    lab.served[f"{role.version}.revocation.json"] = metadata.to_bytes()
    versions |= {"targets": lab.repository.targets.version, "revocation": role.version}
    lab.serve_state(versions, snapshot=90, timestamp=900)
    fleet.refresh()


def test_attack_27_one_stolen_key_stops_no_device(fleet):
    """The documented bound: nothing that runs ends; nothing on the list is installed, nor gone back to."""
    before = [device.snapshot() for device in fleet.devices]
    revoke_everything(fleet, ONE)
    after = [device.snapshot() for device in fleet.devices]
    assert [s.answer for s in after] == [s.answer for s in before]
    assert [s.active for s in after] == [s.active for s in before]
    assert [s.floors.releases for s in after] == [s.floors.releases for s in before]
    assert fleet.standings() == [("warned", ""), ("warned", ""), ("", ""), ("warned", "")]
    assert fleet.long.codes().count("TRUST_REVOKED") == 3, "each device that is concerned told it"

    fleet.order(fleet.lab.wanted("3.0.0"))
    assert fleet.running() == fleet.versions
    assert "TRUST_REVOKED" in fleet.long.codes()
    for device in fleet.devices:
        device.restart()
    assert fleet.running() == fleet.versions


def test_attack_27_one_stolen_key_has_teeth(fleet, monkeypatch):
    """Were the signatures on a list not counted, one key would do what takes two."""
    monkeypatch.setattr("bundles.trust.device.floors.strength_of", lambda signatures, keys: 2)
    revoke_everything(fleet, ONE)
    assert fleet.running() != fleet.versions
    assert fleet.stopping.running() == ""


def test_attack_27_two_stolen_keys_send_devices_to_the_release_before(fleet):
    """As long as the attacker lists only the newest, there is a release to stand on."""
    revoke_everything(fleet, BOTH, "1.1.0", "2.0.0")
    assert fleet.long.running() == "1.0.0"
    assert fleet.first.running() == "1.0.0"
    assert fleet.made_with_it.running() == "1.1.0"
    assert fleet.stopping.running() == "", "the one before was on the list as well, and its bundle says: stop"


def test_attack_27_two_stolen_keys_and_the_way_back(fleet):
    before = [device.snapshot() for device in fleet.devices]
    revoke_everything(fleet, BOTH)
    alarmed = ("revoked", "keep_with_alarm")
    assert fleet.running() == ["1.1.0", "1.0.0", "1.1.0", ""], "each as its own bundle declares, none by surprise"
    said = fleet.standings()
    assert said[:3] == [alarmed, alarmed, ("", "")]
    assert said[3][1] == "stop"
    assert [device.snapshot().floors.releases for device in fleet.devices] == [s.floors.releases for s in before]

    rotate_the_keys(fleet)
    fleet.refresh()
    assert fleet.running() == fleet.versions, "all are back, and nobody has touched a device"
    assert fleet.standings() == [("", "")] * 4
    fleet.order(fleet.lab.wanted("3.0.0"))
    assert fleet.running() == ["3.0.0"] * 4

    revoke_with_the_old_keys(fleet)
    assert "TRUST_UNSIGNED_REVOCATION" in fleet.long.codes(), "they are worth nothing any more"
    assert fleet.running() == ["3.0.0"] * 4


def test_attack_27_the_factory_set_has_teeth(fleet, monkeypatch):
    """Without that exception the device that was made with its release would raise its alarm like all others."""
    original = revocation.standing
    monkeypatch.setattr(revocation, "standing", lambda sha256, **o: original(sha256, **{**o, "factory": ()}))
    revoke_everything(fleet, BOTH)
    assert fleet.standings()[2] == ("revoked", "keep_with_alarm")


def test_attack_27_the_way_back_has_teeth(fleet, monkeypatch):
    """Were lists to bind whatever keys signed them, the thief's would outlive his keys."""
    original = client.forbidden_by

    def bound_for_ever(floors, holder):
        return original(msgspec.structs.replace(floors, denied_keys=holder.keys), holder)

    revoke_everything(fleet, BOTH)
    monkeypatch.setattr(client, "forbidden_by", bound_for_ever)
    rotate_the_keys(fleet)
    fleet.refresh()
    assert fleet.stopping.running() == ""
