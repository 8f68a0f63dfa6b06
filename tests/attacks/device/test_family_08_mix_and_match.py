"""Attack 8: files that never stood together are served as one state.

What the attacker wants: a device that believes itself up to date and has not seen the floor signed that day.
"""

from bundles.trust.drafting.offline import raise_signed_floors

MODEL = "vision/digits"


def mix(lab, device):
    """The newest timestamp, and under the newest snapshot's name the snapshot of the day before."""
    before = lab.repository.state.snapshot.version
    lab.repository.publish(
        raise_signed_floors(lab.repository.targets, {MODEL: 5}, lab.some("targets1", "targets2"), lab.now())
    )
    lab.served[f"{before + 1}.snapshot.json"] = lab.honest(f"{before}.snapshot.json")
    lab.newest = lab.repository.timestamp_version
    device.refresh()


def believes_itself_up_to_date(lab, device):
    known = device.agent.device.parts.assurance._version
    return known == getattr(lab, "newest", -1) and not device.snapshot().floors.signed


def test_attack_08_mix_and_match(attack):
    lab, device = attack(mix, "TRUST_MIX")
    assert not believes_itself_up_to_date(lab, device)
    lab.served.clear()
    device.refresh()
    assert device.snapshot().floors.signed == {MODEL: 5}, "the honest state is still taken"


def test_attack_08_has_teeth(with_teeth):
    disabled = {
        "tuf.ngclient._internal.trusted_metadata_set.TrustedMetadataSet._check_final_snapshot": lambda known: None
    }
    with_teeth(mix, believes_itself_up_to_date, disabled)
