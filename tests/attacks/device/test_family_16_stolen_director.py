"""Attack 16: with the stolen director's key, a device is sent what was honestly signed, and is not for it."""

import dataclasses

import pytest

from bundles.wire.messages import DesiredModel


def below_the_floor(lab, device):
    lab.assign(lab.wanted("0.9.0"))
    device.poll()


def canary_only(lab, device):
    lab.assign(lab.publish("2.0.0", 6, channel="canary", base=lab.better))
    device.poll()


def other_hardware(lab, device):
    lab.assign(lab.publish("2.0.0", 6, hardware=("cam-z",), base=lab.better))
    device.poll()


def a_lower_counter_told(lab, device):
    """The bundle below the floor, with a counter above it in the assignment."""
    old = lab.wanted("0.9.0")
    lab.assign(DesiredModel(old.target, old.sha256, old.length, 9))
    device.poll()


def runs_it(lab, device):
    return device.running() in ("0.9.0", "2.0.0")


def without_pins(bundle, *, pin, hardware, floor):
    """Take the device's own channel, hardware and floor away."""


ATTACKS = {
    "below the floor": (below_the_floor, "TRUST_FLOOR"),
    "a canary bundle on a prod device": (canary_only, "TRUST_CHANNEL"),
    "wrong hardware": (other_hardware, "TRUST_HW"),
}


@pytest.mark.parametrize("words", ATTACKS)
def test_attack_16_stolen_director(attack, words):
    script, code = ATTACKS[words]
    attack(script, code, is_instructed=True)


@pytest.mark.parametrize("words", ["below the floor", "a canary bundle on a prod device"])
def test_attack_16_has_teeth(with_teeth, words):
    with_teeth(ATTACKS[words][0], runs_it, {"bundles.trust.device.client.check_pins": without_pins})


def test_attack_16_wrong_hardware_has_teeth(with_teeth):
    """The variant is chosen by hardware once more, after trust has spoken: both are taken away."""
    from agent.runner import steps

    original = steps.choose_variant

    def whatever_the_hardware(manifest, **options):
        return original(manifest, **{**options, "hardware": "cam-z"})

    disabled = {
        "bundles.trust.device.client.check_pins": without_pins,
        "agent.runner.steps.choose_variant": whatever_the_hardware,
    }
    with_teeth(other_hardware, runs_it, disabled)


def test_attack_16_a_counter_that_is_not_the_listings(attack):
    attack(a_lower_counter_told, "TRUST_DIRECTOR_MISMATCH", is_instructed=True)


def test_attack_16_a_device_pinned_to_canary_takes_the_canary_bundle(lab):
    """The refusal above is the pin's, not the bundle's."""
    device = lab.device()
    device.stop()
    device.settings = dataclasses.replace(device.settings, channel="canary")
    device.start()
    canary_only(lab, device)
    assert device.running() == "2.0.0", device.codes()
