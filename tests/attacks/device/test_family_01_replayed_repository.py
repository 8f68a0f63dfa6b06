"""Attack 1: the whole repository of an earlier day, every file of it honestly signed and unexpired, is served again.

What the attacker wants: the director, whose key was stolen with the server, sends devices back to a release that the
release managers have since forbidden by a signed floor. On the day served again, the floor was not there yet.
"""

from bundles.trust.drafting.offline import raise_signed_floors

MODEL = "vision/digits"


def replay(lab, device):
    yesterday = {path.name: path.read_bytes() for path in lab.repository_folder.iterdir()}
    floors = raise_signed_floors(lab.repository.targets, {MODEL: 5}, lab.some("targets1", "targets2"), lab.now())
    lab.repository.publish(floors)
    device.refresh()
    assert device.snapshot().floors.signed == {MODEL: 5}
    for path in lab.repository_folder.iterdir():
        lab.served[path.name] = 404
    lab.served.update(yesterday)
    device.refresh()
    lab.assign(lab.wanted("1.0.0"), trust_version=99)
    device.poll()


def runs_the_forbidden_release(lab, device):
    return device.running() == "1.0.0"


def test_attack_01_replayed_repository(attack):
    _, device = attack(replay, "TRUST_ROLLBACK_TIMESTAMP", is_instructed=True)
    assert device.snapshot().floors.signed == {MODEL: 5}


def test_attack_01_has_teeth(with_teeth, forget_what_was_cached):
    """Versions are kept twice, by TUF's client in its cache and by our floors outside it: both are taken away."""
    with_teeth(
        replay,
        runs_the_forbidden_release,
        {
            "bundles.trust.device.cache.MetadataCache._rebuild_scratch": forget_what_was_cached,
            "bundles.trust.device.floors.Floors.version_floor": lambda floors, role, keys: 0,
        },
    )
