"""Attack 17: what was revoked is to run, or to go on running; and the list that says so is rolled back or withheld.

The attacker owns the control plane with every online key and the director's: he may send any listed bundle, and serve
any state that the offline keys have ever signed.
"""

import dataclasses
import shutil

import pytest

from bundles.trust import revocation
from bundles.wire import topics

MODEL = "vision/digits"
BOTH = ("revocation1", "revocation2")
TARGETS = ("targets1", "targets2")
standing = revocation.standing


def clear(sha256, **what_was_said):
    """Stand for a device that asks nobody."""
    return "clear"


def versions(lab):
    named = {role: signed.version for role, signed in lab.repository.state.roles.items()}
    return {"targets": lab.repository.targets.version, **named}


def order(lab, device, version, **options):
    lab.assign(lab.wanted(version), **options)
    device.poll()


# A bundle that does not run: one signature forbids it.


def revoked_offer(lab, device):
    lab.revoke(lab.publish("2.0.0", 6, base=lab.better).sha256, "revocation2")
    order(lab, device, "2.0.0")


def revoked_previous(lab, device):
    lab.revoke(lab.wanted("1.0.0").sha256, "revocation1")
    device.refresh()
    order(lab, device, "1.0.0")


def runs_another(lab, device):
    return device.running() not in ("1.1.0", "")


def test_attack_17_revoked_offer(attack):
    attack(revoked_offer, "TRUST_REVOKED", is_instructed=True)


def test_attack_17_revoked_previous(lab):
    """It is gone from the disk besides: there is nothing to fall back to."""
    device = lab.device()
    before = device.snapshot()
    revoked_previous(lab, device)
    after = device.snapshot()
    assert "TRUST_REVOKED" in device.codes()
    assert (after.answer, after.active, after.floors.releases) == (before.answer, before.active, before.floors.releases)
    assert lab.wanted("1.0.0").sha256 not in after.slots.values(), "its slot is free for others"
    assert device.reported().previous_sha256 == ""


@pytest.mark.parametrize("script", [revoked_offer, revoked_previous])
def test_attack_17_what_does_not_run_has_teeth(with_teeth, script):
    with_teeth(script, runs_another, {"bundles.trust.revocation.standing": clear})


# The bundle that runs: one signature warns, two stop it.


def revoked_active_by_one(lab, device):
    lab.revoke(lab.wanted("1.1.0").sha256, "revocation1")
    device.refresh()
    device.refresh()


def revoked_active_by_both_is_ordered_back(lab, device):
    lab.revoke(lab.wanted("1.1.0").sha256, *BOTH)
    device.refresh()
    order(lab, device, "1.1.0")


def was_stopped(lab, device):
    return device.running() == "1.0.0"


def runs_what_was_revoked(lab, device):
    return lab.repository.state.roles["revocation"].version > 1 and device.running() == "1.1.0"


def test_attack_17_one_signature_does_not_stop_what_runs(attack):
    lab, device = attack(revoked_active_by_one, "TRUST_REVOKED", is_instructed=True)
    assert device.reported().revoked == "warned"
    told = [m for leaf, m in lab.front.reports if leaf == topics.UP_EVENT and m.kind == "revocation"]
    assert [event.data["standing"] for event in told] == ["warned"], "told once"


def test_attack_17_one_signature_has_teeth(with_teeth):
    with_teeth(revoked_active_by_one, was_stopped, {"bundles.trust.revocation.RUNNING_THRESHOLD": 1})


def test_attack_17_the_active_one_revoked_by_both_is_left_and_does_not_come_back(lab):
    device = lab.device()
    lab.revoke(lab.wanted("1.1.0").sha256, *BOTH)
    device.refresh()
    assert device.running() == "1.0.0"
    reported = device.reported()
    assert (reported.phase, reported.reason, reported.safe_mode) == ("rolled_back", "revoked", "")
    assert "TRUST_REVOKED" in device.codes()
    order(lab, device, "1.1.0")
    assert device.running() == "1.0.0"
    assert "TRUST_REVOKED" in device.codes()
    assert device.snapshot().floors.releases == {MODEL: 3}
    device.restart()
    assert device.running() == "1.0.0"


def test_attack_17_the_active_one_has_teeth(with_teeth):
    disabled = {"bundles.trust.revocation.standing": clear}
    with_teeth(revoked_active_by_both_is_ordered_back, runs_what_was_revoked, disabled)


# The bundle a device was made with: nobody but the release managers.


def revoking_factory(*holders):
    def script(lab, device):
        lab.revoke(lab.wanted("1.1.0").sha256, *holders)
        device.refresh()

    return script


def with_factory(lab):
    return dataclasses.replace(lab.device().settings, factory=(lab.wanted("1.1.0").sha256,))


@pytest.mark.parametrize("holders", [("revocation1",), BOTH])
def test_attack_17_the_factory_bundle_is_beyond_the_revocation_keys(lab, holders):
    device = lab.device(settings=with_factory(lab))
    before = device.snapshot()
    revoking_factory(*holders)(lab, device)
    assert device.snapshot().all == before.all
    assert lab.wanted("1.1.0").sha256 in device.snapshot().floors.denied, "seen and, for this one, without effect"
    assert device.codes() == []


def test_attack_17_the_factory_bundle_has_teeth(lab, with_teeth):
    def as_any_other(sha256, **options):
        return standing(sha256, **{**options, "factory": ()})

    disabled = {"bundles.trust.revocation.standing": as_any_other}
    with_teeth(revoking_factory(*BOTH), was_stopped, disabled, settings=with_factory(lab))


def test_attack_17_the_factory_bundle_is_revoked_by_targets(lab):
    device = lab.device(settings=with_factory(lab))
    revoking_factory(*TARGETS)(lab, device)
    assert device.running() == "1.0.0"
    assert "TRUST_REVOKED" in device.codes()


# The list itself.


def rolled_back(lab, device):
    """The device has seen the list; the one before it is served, under a new snapshot, and the bundle is sent."""
    before = versions(lab)
    lab.revoke(lab.wanted("1.0.0").sha256, "revocation1")
    device.refresh()
    lab.serve_state({**before, "revocation": 1}, snapshot=90, timestamp=900)
    device.refresh()
    order(lab, device, "1.0.0", trust_version=900)


def rolled_back_behind_a_lost_cache(lab, device):
    before = versions(lab)
    lab.revoke(lab.wanted("1.0.0").sha256, "revocation1")
    device.refresh()
    device.stop()
    shutil.rmtree(device.folder / "trust" / "metadata")
    shutil.rmtree(device.folder / "trust" / "scratch")
    lab.serve_state({**before, "revocation": 1}, snapshot=90, timestamp=900)
    device.start()
    device.refresh()
    order(lab, device, "1.0.0", trust_version=900)


def withheld(lab, device):
    """The device has not seen the list yet: a state that names none is served, and what it forbids is sent."""
    lab.revoke(lab.publish("2.0.0", 6, base=lab.better).sha256, *BOTH)
    lab.serve_state({**versions(lab), "revocation": 0}, snapshot=90, timestamp=900)
    device.refresh()
    order(lab, device, "2.0.0", trust_version=900)


def withheld_from_a_new_device(lab, device):
    """Nothing was ever fetched here, so that TUF's client misses nothing either."""
    device.stop()
    for name in ("trust", "journal", "slots"):
        shutil.rmtree(device.folder / name)
    lab.revoke(lab.wanted("1.1.0").sha256, *BOTH)
    lab.serve_state({**versions(lab), "revocation": 0}, snapshot=90, timestamp=900)
    lab.assign(lab.wanted("1.1.0"), trust_version=900)
    device.start()
    device.poll()


def never_asked(store, repository, now_ms):
    """Stand for a device that knows no revocation role."""


@pytest.mark.parametrize("script", [rolled_back, rolled_back_behind_a_lost_cache])
def test_attack_17_the_list_is_rolled_back(lab, script):
    device = lab.device()
    before = device.snapshot()
    script(lab, device)
    after, codes = device.snapshot(), device.codes()
    assert "TRUST_ROLLBACK_REVOCATION" in codes
    assert lab.wanted("1.0.0").sha256 in after.floors.denied, "what was forbidden stays so, whatever is served"
    assert (after.answer, after.active, after.floors.releases) == (before.answer, before.active, before.floors.releases)


@pytest.mark.parametrize("script", [rolled_back, rolled_back_behind_a_lost_cache])
def test_attack_17_the_list_is_rolled_back_has_teeth(with_teeth, script, forget_what_was_cached):
    """Kept three times: TUF's cache, our version floors, and every digest ever forbidden. All are taken away."""
    disabled = {
        "bundles.trust.device.cache.MetadataCache._rebuild_scratch": forget_what_was_cached,
        "bundles.trust.device.checks.check_versions": lambda roles, floors: None,
        "bundles.trust.device.floors.remember": lambda known, listed, strength: {},
    }
    with_teeth(script, runs_another, disabled)


def test_attack_17_the_list_is_withheld(attack):
    attack(withheld, "TRUST_MIX", is_instructed=True)


def test_attack_17_the_list_is_withheld_has_teeth(with_teeth, forget_what_was_cached):
    """A device with state misses it twice, in the snapshot and when it asks for the role; both are taken away."""
    disabled = {
        "bundles.trust.device.cache.MetadataCache._rebuild_scratch": forget_what_was_cached,
        "bundles.trust.device.client.TrustStore._judge_revocations": never_asked,
    }
    with_teeth(withheld, runs_another, disabled)


def test_attack_17_the_list_is_withheld_from_a_new_device(lab):
    device = lab.device()
    withheld_from_a_new_device(lab, device)
    assert "TRUST_MIX" in device.codes()
    assert device.running() == ""


def test_attack_17_the_list_is_withheld_from_a_new_device_has_teeth(with_teeth):
    def runs_it_as_its_first(lab, device):
        return lab.repository.state.roles["revocation"].version > 1 and device.running() == "1.1.0"

    disabled = {"bundles.trust.device.client.TrustStore._judge_revocations": never_asked}
    with_teeth(withheld_from_a_new_device, runs_it_as_its_first, disabled)
