"""Attack 10: one of the two keys of the targets role is stolen, with every online key, and has to do for two.

What the attacker wants: a targets role that gives the team's bundles into his own hands.
"""

import copy

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from bundles.digest import sha256_hex
from bundles.errors import TrustRefused
from bundles.trust.roles import utc
from bundles.wire.messages import DesiredModel

TARGET = "vision/digits/6.6.6/bundle.json"


def taken_over(lab, sign):
    """Serve a targets role in which the team's key is the attacker's, signed as ``sign`` does, and his bundle."""
    thief = lab.keys["thief"] = CryptoSigner.generate_ed25519()
    targets = Targets.from_dict(lab.repository.targets.to_dict())
    targets.version += 1
    targets.revoke_key(lab.keys["vision"].public_key.keyid, "team-vision")
    targets.add_key(thief.public_key, "team-vision")
    metadata = Metadata(targets)
    sign(lab, metadata)
    lab.served[f"{targets.version}.targets.json"] = metadata.to_bytes()

    data = lab.manifest("6.6.6", 66)
    lab.front.blobs[sha256_hex(data)] = data
    team = Targets.from_dict(lab.repository.state.roles["team-vision"].to_dict())
    team.version, team.expires = team.version + 1, utc(lab.now() + 10**10)
    listed = copy.deepcopy(team.targets["vision/digits/1.1.0/bundle.json"])
    listed.path, listed.length, listed.hashes = TARGET, len(data), {"sha256": sha256_hex(data)}
    listed.custom["release_counter"] = 66
    team.targets[TARGET] = listed
    role = Metadata(team)
    role.sign(thief)
    lab.served[f"{team.version}.team-vision.json"] = role.to_bytes()
    versions = {name: signed.version for name, signed in lab.repository.state.roles.items()}
    versions |= {"targets": targets.version, "team-vision": team.version}
    lab.serve_state(versions, snapshot=90, timestamp=900)
    return DesiredModel(TARGET, sha256_hex(data), len(data), 66)


def taking_over(sign):
    def script(lab, device):
        wanted = taken_over(lab, sign)
        device.refresh()
        lab.assign(wanted, trust_version=900)
        device.poll()

    return script


def once(lab, metadata):
    metadata.sign(lab.keys["targets1"])


def twice(lab, metadata):
    """The same signature again, under the key id of the holder who did not sign."""
    metadata.sign(lab.keys["targets1"])
    first, second = (lab.keys[name].public_key.keyid for name in ("targets1", "targets2"))
    metadata.signatures[second] = copy.copy(metadata.signatures[first])
    metadata.signatures[second].keyid = second


def with_a_key_of_his_own(lab, metadata):
    metadata.sign(lab.keys["targets1"])
    metadata.sign(lab.keys["thief"], append=True)


def runs_what_one_holder_signed(lab, device):
    return device.running() == "6.6.6"


@pytest.mark.parametrize("sign", [once, twice, with_a_key_of_his_own])
def test_attack_10_threshold_short(attack, sign):
    attack(taking_over(sign), "TRUST_THRESHOLD", is_instructed=True)


@pytest.mark.parametrize("sign", [once, twice, with_a_key_of_his_own])
def test_attack_10_has_teeth(with_teeth, sign):
    from tuf.api._payload import _DelegatorMixin

    original = _DelegatorMixin.verify_delegate

    def one_is_enough(delegator, role, payload, signatures):
        delegator.get_delegated_role(role).threshold = 1
        original(delegator, role, payload, signatures)

    disabled = {"tuf.api._payload._DelegatorMixin.verify_delegate": one_is_enough}
    with_teeth(taking_over(sign), runs_what_one_holder_signed, disabled)


def test_attack_10_one_key_under_two_key_ids(lab):
    """A holder who gets a role signed in which his own key stands twice would be two: the server and devices refuse."""
    targets = Targets.from_dict(lab.repository.targets.to_dict())
    targets.version += 1
    known = targets.delegations.keys[lab.keys["vision"].public_key.keyid]
    alias = copy.deepcopy(known)
    alias.keyid = "0" * 64
    targets.delegations.keys[alias.keyid] = alias
    targets.delegations.roles["team-vision"].keyids.append(alias.keyid)
    targets.delegations.roles["team-vision"].threshold = 2
    metadata = Metadata(targets)
    for holder in lab.some("targets1", "targets2"):
        metadata.sign(holder, append=True)
    name, data = f"{targets.version}.targets.json", metadata.to_bytes()
    with pytest.raises(TrustRefused) as caught:
        lab.repository.publish({name: data})
    assert caught.value.code == "TRUST_THRESHOLD"

    device = lab.device()
    lab.served[name] = data
    versions = {role: signed.version for role, signed in lab.repository.state.roles.items()}
    lab.serve_state({**versions, "targets": targets.version}, snapshot=90, timestamp=900)
    device.refresh()
    assert device.codes() == ["TRUST_THRESHOLD"]
