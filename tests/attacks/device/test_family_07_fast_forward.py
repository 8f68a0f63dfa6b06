"""Attack 7: with the stolen online keys, versions are raised so far that the honest repository never gets there.

What the attacker wants: devices that refuse every honest state from now on. The way back needs no visit to a device:
root holders rotate the online keys, or the honest repository signs past the attacker's numbers.
"""

import pytest
from securesystemslib.signer import CryptoSigner

from bundles.trust.drafting.drafts import encode_drafts
from bundles.trust.drafting.rotation import rotate_online
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.signing.signatures import add_signatures

FAR = 2**30


def current(lab):
    return {"targets": lab.repository.targets.version} | {
        role: signed.version for role, signed in lab.repository.state.roles.items()
    }


def fast_forward(lab, device):
    lab.serve_state(current(lab), snapshot=FAR, timestamp=FAR)
    device.refresh()
    lab.served.clear()
    device.refresh()


def rotate_the_online_keys(lab):
    snapshot, timestamp = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    drafts = rotate_online(lab.repository.state, snapshot.public_key, timestamp.public_key, lab.now())
    files = add_signatures(lab.repository.state, encode_drafts(drafts), lab.some("root1", "root2"))
    lab.repository = OnlineRepository(
        lab.repository_folder, [lab.keys["snapshot"], snapshot], [lab.keys["timestamp"], timestamp], lab.now
    )
    lab.repository.publish(files)
    lab.keys |= {"stolen-timestamp": lab.keys["timestamp"], "snapshot": snapshot, "timestamp": timestamp}


def sign_past_the_numbers(lab):
    lab.repository.advance(to_timestamp=FAR + 1, to_snapshot=FAR + 1)


def recovered_by(way):
    def script(lab, device):
        fast_forward(lab, device)
        way(lab)
        device.refresh()
        lab.assign(lab.publish("2.0.0", 6, base=lab.better))
        device.poll()
        lab.is_recovered = True

    return script


def is_shut_out(lab, device):
    return getattr(lab, "is_recovered", False) and device.running() == "1.1.0"


def test_attack_07_fast_forward(attack):
    attack(fast_forward, "TRUST_ROLLBACK_TIMESTAMP")


@pytest.mark.parametrize("way", [rotate_the_online_keys, sign_past_the_numbers])
def test_attack_07_the_way_back_reaches_every_device(lab, way):
    device = lab.device()
    recovered_by(way)(lab, device)
    assert device.running() == "2.0.0", device.codes()


def test_attack_07_the_old_key_is_worth_nothing_afterwards(lab):
    device = lab.device()
    recovered_by(rotate_the_online_keys)(lab, device)
    device.codes()
    lab.keys["timestamp"] = lab.keys["stolen-timestamp"]
    lab.serve_state(current(lab), snapshot=FAR + 9, timestamp=FAR + 9)
    device.refresh()
    assert device.codes() == ["TRUST_UNSIGNED_TIMESTAMP"]
    assert device.running() == "2.0.0"


def test_attack_07_has_teeth(with_teeth):
    """Floors that outlive the keys they were learned under would keep the device shut out for ever."""
    never_forget = {
        "bundles.trust.device.floors.Floors.version_floor": lambda floors, role, keys: (
            floors.roles[role].version if role in floors.roles else 0
        )
    }
    with_teeth(recovered_by(rotate_the_online_keys), is_shut_out, never_forget)
