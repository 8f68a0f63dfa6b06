"""Every family of attacks that the trust design lists has a test by its number, and one that shows its teeth."""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FAMILIES = {
    1: "whole-repository replay",
    2: "timestamp rollback",
    3: "snapshot rollback with stolen online keys, device with state",
    4: "the same on a fresh device with a floor",
    5: "the same after each cache file is truncated, zeroed, garbage or deleted",
    6: "freeze: each role expired",
    7: "fast-forward and root recovery",
    8: "mix-and-match",
    9: "role missing from snapshot",
    10: "threshold short; duplicate signatures; one key under two key ids",
    11: "wrong-role key, cross-team path, delegation cycle and depth, path tricks",
    12: "root version skip; signed only by old or only by new keys; more than 256 rotations",
    13: "oversize, endless or slow data; gzip bomb",
    14: "truncated, flipped or swapped blob; change between check and use; symlink; power cut at every fsync",
    15: "director: other device, replay, expired, invented, mismatch, delegations, two targets, empty without device",
    16: "stolen director key: lower counter, canary on prod, wrong hardware",
    17: "revoked active, previous, factory; revocation-list rollback",
    18: "revoked team key, old metadata served",
    19: "clock 1970, clock ten years ahead then back, no RTC",
    20: "delta: wrong base, bomb, out of range, overlap, wrong result",
    21: "manifest: duplicate keys, NaN, huge integers, deep nesting, unknown critical",
    22: "MQTT: forged retained message, foreign topic, huge payload, flood, takeover, revoked certificate, odd names",
    23: "enrolment: token reuse, other key, bad CSR signature, CA:true/SAN/CN spoof, parallel race",
    24: "kit replayed, expired, older than the device",
    25: "captive portal answering 200 HTML; 403 everywhere",
    26: "tuf-conformance",
    27: "stolen revocation key against a whole fleet",
    28: "a device-signed request replayed, altered, sent to another path, or with an old nonce",
}
ELSEWHERE = {26: HERE.parent / "integration" / "tuf_client"}
"""The public suite is run from a scratch copy (docs/security.md records it); the command it drives is tested here."""


def functions_in(folder):
    """Return the names of the test functions in ``folder``, without running any of them."""
    trees = [ast.parse(path.read_text("utf-8")) for path in sorted(folder.rglob("test_*.py"))]
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    names = [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]
    return [name for name in names if name.startswith("test_")]


@pytest.fixture(scope="module")
def attacks():
    return functions_in(HERE)


@pytest.mark.parametrize("number", sorted(FAMILIES.keys() - ELSEWHERE.keys()))
def test_family_is_played(attacks, number):
    named = [name for name in attacks if name.startswith(f"test_attack_{number:02}_")]
    assert named, f"nothing plays attack {number}: {FAMILIES[number]}"
    assert any("teeth" in name for name in named), f"nothing shows the teeth of attack {number}: {FAMILIES[number]}"


@pytest.mark.parametrize("number", sorted(ELSEWHERE))
def test_family_is_played_elsewhere(number):
    assert functions_in(ELSEWHERE[number]), f"nothing plays attack {number}: {FAMILIES[number]}"


def test_no_attack_has_a_number_of_its_own(attacks):
    numbers = {int(name.split("_")[2]) for name in attacks if name.startswith("test_attack_")}
    assert sorted(FAMILIES) == list(range(1, 29))
    assert numbers <= set(FAMILIES)
