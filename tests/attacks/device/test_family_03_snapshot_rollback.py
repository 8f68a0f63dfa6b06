"""Attack 3: with the stolen online keys, a new snapshot names the versions of an earlier day."""

from bundles.trust.drafting.offline import raise_signed_floors

MODEL = "vision/digits"


def name_old_versions(lab, device):
    """The targets role before the floor, and the team's role before it, under a newer snapshot and timestamp."""
    versions = {role: signed.version for role, signed in lab.repository.state.roles.items()}
    lab.repository.publish(
        raise_signed_floors(lab.repository.targets, {MODEL: 5}, lab.some("targets1", "targets2"), lab.now())
    )
    device.refresh()
    lab.serve_state({**versions, "targets": 1}, snapshot=90, timestamp=900)
    device.refresh()
    lab.assign(lab.wanted("1.0.0"), trust_version=999)
    device.poll()


def runs_the_forbidden_release(lab, device):
    return device.running() == "1.0.0"


def test_attack_03_snapshot_rollback_on_a_device_with_state(attack):
    _, device = attack(name_old_versions, "TRUST_ROLLBACK_TARGETS", is_instructed=True)
    assert device.snapshot().floors.signed == {MODEL: 5}


def test_attack_03_has_teeth(with_teeth, forget_what_was_cached):
    """Versions are kept twice, by TUF's client in its cache and by our floors outside it: both are taken away."""
    with_teeth(
        name_old_versions,
        runs_the_forbidden_release,
        {
            "bundles.trust.device.cache.MetadataCache._rebuild_scratch": forget_what_was_cached,
            "bundles.trust.device.checks.check_versions": lambda roles, floors: None,
        },
    )
