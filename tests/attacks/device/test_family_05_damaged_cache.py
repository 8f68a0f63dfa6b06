"""Attack 5: each cached file truncated, zeroed, filled with garbage or deleted, and then the rollback of attack 3.

The attack that made durable floors mandatory: a truncated cached snapshot once let an older team role through.
"""

import pytest

from bundles.trust.drafting.offline import raise_signed_floors

MODEL = "vision/digits"
FILES = ["root.json", "root_history/1.root.json", "timestamp.json", "snapshot.json", "targets.json", "team-vision.json"]
DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbage": lambda path: path.write_bytes(b"\xff{]" * 7),
    "deleted": lambda path: path.unlink(),
}


def damaging(file, damage):
    def script(lab, device):
        versions = {role: signed.version for role, signed in lab.repository.state.roles.items()}
        lab.repository.publish(
            raise_signed_floors(lab.repository.targets, {MODEL: 5}, lab.some("targets1", "targets2"), lab.now())
        )
        device.refresh()
        device.stop()
        for path in (device.folder / "trust" / "metadata").glob(file):
            DAMAGES[damage](path)
        lab.serve_state({**versions, "targets": 1}, snapshot=90, timestamp=900)
        device.start()
        device.refresh()
        lab.assign(lab.wanted("1.0.0"), trust_version=999)
        device.poll()

    return script


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_attack_05_rollback_behind_a_damaged_cache(attack, file, damage):
    _, device = attack(damaging(file, damage), "TRUST_ROLLBACK_TARGETS", is_instructed=True)
    assert device.snapshot().floors.signed == {MODEL: 5}


@pytest.mark.parametrize("damage", DAMAGES)
def test_attack_05_has_teeth(with_teeth, damage):
    """TUF's client starts anew where its snapshot cannot be read: the durable floors alone stop the attack."""
    with_teeth(
        damaging("snapshot.json", damage),
        lambda lab, device: device.running() == "1.0.0",
        {"bundles.trust.device.checks.check_versions": lambda roles, floors: None},
    )
