"""Attack 4: the stolen online keys and director against a device that holds no metadata, only floors.

One device has lost its cache, or had it taken away, and keeps its own floors; the other has never seen anything and
learns the floor that release managers sign.
"""

import shutil

from bundles.trust.drafting.offline import raise_signed_floors

MODEL = "vision/digits"


def take_the_cache_away_and_roll_back(lab, device):
    versions = {role: signed.version for role, signed in lab.repository.state.roles.items()}
    lab.repository.publish(
        raise_signed_floors(lab.repository.targets, {MODEL: 5}, lab.some("targets1", "targets2"), lab.now())
    )
    device.refresh()
    device.stop()
    shutil.rmtree(device.folder / "trust" / "metadata")
    shutil.rmtree(device.folder / "trust" / "scratch")
    lab.serve_state({**versions, "targets": 1}, snapshot=90, timestamp=900)
    device.start()
    device.refresh()
    lab.assign(lab.wanted("1.0.0"), trust_version=999)
    device.poll()


def choose_below_the_signed_floor(lab, device):
    """Nothing was installed here yet; the director chooses a bundle that is listed and below the signed floor."""
    lab.repository.publish(
        raise_signed_floors(lab.repository.targets, {MODEL: 5}, lab.some("targets1", "targets2"), lab.now())
    )
    device.stop()
    for name in ("trust", "journal", "slots"):
        shutil.rmtree(device.folder / name)
    lab.assign(lab.wanted("0.9.0"))
    device.start()
    device.poll()


def runs_what_is_forbidden(lab, device):
    return device.running() in ("0.9.0", "1.0.0")


def test_attack_04_snapshot_rollback_on_a_device_with_floors_alone(attack):
    _, device = attack(take_the_cache_away_and_roll_back, "TRUST_ROLLBACK_TARGETS", is_instructed=True)
    assert device.snapshot().floors.signed == {MODEL: 5}


def test_attack_04_floors_have_teeth(with_teeth):
    """With its cache gone, TUF's own client accepts this: the durable floors alone stop it."""
    disabled = {"bundles.trust.device.checks.check_versions": lambda roles, floors: None}
    with_teeth(take_the_cache_away_and_roll_back, runs_what_is_forbidden, disabled)


def test_attack_04_below_the_signed_floor_on_a_new_device(lab):
    device = lab.device()
    choose_below_the_signed_floor(lab, device)
    assert "TRUST_FLOOR" in device.codes()
    assert device.running() == ""


def test_attack_04_the_signed_floor_has_teeth(with_teeth):
    disabled = {"bundles.trust.device.floors.Floors.release_floor": lambda floors, model: 0}
    with_teeth(choose_below_the_signed_floor, runs_what_is_forbidden, disabled)
