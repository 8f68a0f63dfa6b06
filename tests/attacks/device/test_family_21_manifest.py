"""Attack 21: a manifest that two readers read differently, or that no reader survives, signed by its own team.

The attacker has a team's key, or its tools: length, digest and listing match. What he wants: devices that run what a
reviewer did not see, that fall over, or that pass over a condition they do not understand.
"""

import json

import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from bundles.digest import sha256_hex
from bundles.manifest import MAX_MANIFEST_BYTES
from bundles.trust.roles import file_name
from bundles.wire.messages import DesiredModel

TARGET = "vision/digits/2.0.0/bundle.json"


def listed(lab, data):
    """Have the team sign and publish ``data`` as the manifest of 2.0.0, whatever it is."""
    role = Targets.from_dict(lab.repository.state.roles["team-vision"].to_dict())
    role.version += 1
    custom = {"release_counter": 6, "hardware": [], "channel": "prod", "model": "vision/digits"}
    role.targets[TARGET] = TargetFile(len(data), {"sha256": sha256_hex(data)}, TARGET, {"custom": custom})
    metadata = Metadata(role)
    metadata.sign(lab.keys["vision"])
    lab.repository.publish({file_name("team-vision", role.version): metadata.to_bytes()})
    lab.front.blobs[sha256_hex(data)] = data
    return DesiredModel(TARGET, sha256_hex(data), len(data), 6)


def with_parameter(value):
    return lambda honest: honest[:-1] + b',"parameters":{"x":' + value + b"}}"


MANIFESTS = {
    "a key twice": (lambda honest: b'{"version":"1.1.0",' + honest[1:], "BUNDLE_JSON"),
    "not a number": (with_parameter(b"NaN"), "BUNDLE_JSON"),
    "a number without bound": (with_parameter(b"1e999"), "BUNDLE_JSON"),
    "a huge integer": (with_parameter(b"1" + b"0" * 400), "BUNDLE_JSON"),
    "nested deeply": (with_parameter(b"[" * 64 + b"]" * 64), "BUNDLE_JSON"),
    "nested beyond any stack": (with_parameter(b"[" * 100_000 + b"]" * 100_000), "BUNDLE_JSON"),
    "more than a manifest may have": (lambda honest: honest + b" " * MAX_MANIFEST_BYTES, "TRUST_LENGTH"),
    "a condition nobody knows": (lambda honest: honest[:-1] + b',"critical":["two-people-watch"]}', "BUNDLE_CRITICAL"),
}


def signing(change):
    def script(lab, device):
        lab.assign(listed(lab, change(lab.manifest("2.0.0", 6, base=lab.better))))
        device.poll()
        device.later(600)

    return script


def runs_it(lab, device):
    return device.running() == "2.0.0"


@pytest.mark.parametrize("what", MANIFESTS)
def test_attack_21_manifest(attack, what):
    change, code = MANIFESTS[what]
    lab, device = attack(signing(change), code, is_instructed=True)
    lab.assign(lab.publish("2.0.1", 7, base=lab.better))
    device.poll()
    assert device.running() == "2.0.1", "an honest one is still taken"


LAX = {"bundles.manifest._strict_json": json.loads}


@pytest.mark.parametrize(
    "what", ["a key twice", "not a number", "a number without bound", "a huge integer", "nested deeply"]
)
def test_attack_21_has_teeth(with_teeth, what):
    """Python's own JSON reader takes every one of these."""
    with_teeth(signing(MANIFESTS[what][0]), runs_it, LAX)


def test_attack_21_a_condition_nobody_knows_has_teeth(with_teeth):
    disabled = {"bundles.manifest.UNDERSTOOD_CRITICAL": frozenset({"two-people-watch"})}
    with_teeth(signing(MANIFESTS["a condition nobody knows"][0]), runs_it, disabled)


def test_attack_21_more_than_a_manifest_may_have_has_teeth(with_teeth):
    """Without that check every byte of it is fetched before it is refused."""

    def fetched_it(lab, device):
        too_long = [f"/v1/blobs/sha256/{d}" for d, data in lab.front.blobs.items() if len(data) > MAX_MANIFEST_BYTES]
        return any(path in too_long for _, path in lab.front.requests)

    disabled = {"bundles.trust.device.authorize.check_listed_length": lambda target, length: None}
    with_teeth(signing(MANIFESTS["more than a manifest may have"][0]), fetched_it, disabled)
