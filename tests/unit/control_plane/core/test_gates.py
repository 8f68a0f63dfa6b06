"""Gates answer from evidence, with reasons; what is missing never passes."""

import json

import msgspec
import pytest

from control_plane.core.evidence import DeviceSample, encode_evidence, gather
from control_plane.core.gates import Installs, Verdict, judge, judge_cap, judge_install, judge_outputs, required_gates
from control_plane.core.policy import Caps, InstallGate, OutputGate, Policy, default_deadlines
from control_plane.simulation.scenarios import DEMO_PROFILE

INSTALL = InstallGate()
OUTPUT = OutputGate()
FAST, SLOW = 424, 532  # buckets of about 10 and 100 ms


def policy(**fields):
    return Policy(deadlines=default_deadlines(DEMO_PROFILE), **fields)


def sample(stratum="a", classes=(50, 50), errors=0, slow=0, n=100):
    ok = n - errors
    latency = [n - slow] + [0] * (SLOW - FAST - 1) + [slow]
    return DeviceSample(stratum, ok, errors, tuple(classes), FAST, tuple(latency))


def evidence(canary=(), control=(), cap_ms=50.0, env_shift=""):
    return gather(
        wave=0,
        look=1,
        at_ms=2000,
        since_ms=1000,
        canary=canary,
        control=control,
        latency_p95_cap_ms=cap_ms,
        env_shift=env_shift,
    )


@pytest.mark.parametrize(
    ("confirmed", "failures", "carried", "verdict", "reason"),
    [
        (0, 0, 0.0, Verdict.NO_DATA, "nobody_resolved"),
        (15, 0, 0.0, Verdict.INCONCLUSIVE, "too_few"),
        (16, 0, 0.0, Verdict.PASS, "installs"),
        (0, 1, 0.0, Verdict.INCONCLUSIVE, "between_bounds"),
        (8, 2, 0.0, Verdict.FAIL, "too_many_failures"),
        (9, 2, 0.0, Verdict.INCONCLUSIVE, "between_bounds"),
        (29, 1, 0.0, Verdict.INCONCLUSIVE, "between_bounds"),
        (30, 1, 0.0, Verdict.PASS, "installs"),
        (44, 6, 0.0, Verdict.FAIL, "too_many_failures"),
        (2, 0, -2.2513, Verdict.PASS, "installs"),
        (2, 3, -2.2513, Verdict.FAIL, "too_many_failures"),
        (0, 0, -2.2513, Verdict.PASS, "installs"),
    ],
)
def test_install_gate(confirmed, failures, carried, verdict, reason):
    result = judge_install(INSTALL, Installs(confirmed, failures, carried))
    assert (result.verdict, result.reason) == (verdict, reason)
    assert dict(result.numbers)["failed"] == failures


def test_install_gate_names_the_strata_that_fail():
    result = judge_install(INSTALL, Installs(8, 3, 0.0, (("cam-a", 6, 0), ("cam-b", 2, 3))))
    assert dict(result.numbers)["failed[cam-b]"] == "3/5"
    assert "failed[cam-a]" not in dict(result.numbers)


@pytest.mark.parametrize(
    ("canary", "control", "verdict"),
    [
        ([sample()] * 8, [sample()] * 8, Verdict.PASS),
        ([sample(classes=(90, 10))] * 8, [sample()] * 8, Verdict.FAIL),
        ([sample(classes=(100,))] * 8, [sample()] * 8, Verdict.FAIL),
        ([sample(classes=(54, 46))] * 8, [sample()] * 8, Verdict.PASS),  # significant, and below the floor
        ([sample()] * 4, [sample()] * 8, Verdict.NO_DATA),
        ([sample()] * 8, [sample()] * 4, Verdict.NO_DATA),
        ([sample(classes=(5, 5))] * 8, [sample()] * 8, Verdict.NO_DATA),
        ([], [], Verdict.NO_DATA),
        ([sample(classes=())] * 8, [sample(classes=())] * 8, Verdict.NO_DATA),
        # One device with odd habits among eight is a device, not a model.
        ([sample()] * 7 + [sample(classes=(2000, 0))], [sample()] * 8, Verdict.INCONCLUSIVE),
    ],
)
def test_output_gate(canary, control, verdict):
    assert judge_outputs(OUTPUT, evidence(canary, control), 0.0025).verdict is verdict


def test_output_gate_sees_a_shift_in_one_stratum_that_the_whole_would_hide():
    canary = [sample("a", (90, 10))] * 8 + [sample("b", (10, 90))] * 8
    control = [sample("a")] * 8 + [sample("b")] * 8
    result = judge_outputs(OUTPUT, evidence(canary, control), 0.0025)
    assert result.verdict is Verdict.FAIL
    assert dict(result.numbers)["effect[all]"] < OUTPUT.effect_floor
    assert "a (shift" in result.sentence


def test_output_gate_leaves_a_stratum_of_one_device_to_the_whole():
    canary = [sample("a")] * 8 + [sample("rare", (100,))]
    result = judge_outputs(OUTPUT, evidence(canary, [sample("a")] * 8 + [sample("rare")] * 8), 0.0025)
    assert result.verdict is Verdict.PASS
    assert "effect[rare]" not in dict(result.numbers)


def test_a_shifted_world_is_not_the_models_fault():
    shifted = evidence([sample(classes=(90, 10))] * 8, [sample()] * 8, env_shift="brightness drifted in both arms")
    assert judge_outputs(OUTPUT, shifted, 0.0025).verdict is Verdict.ENV_SHIFT


CAPS = Caps(error_rate=0.05, latency_p95_ms=50.0)


@pytest.mark.parametrize(
    ("gate", "canary", "control", "verdict"),
    [
        ("error_rate", [sample(errors=1)] * 8, [], Verdict.PASS),
        ("error_rate", [sample(errors=20)] * 8, [], Verdict.FAIL),
        ("error_rate", [sample(errors=100, classes=())] * 3, [], Verdict.FAIL),
        ("error_rate", [sample(errors=20)] * 2, [], Verdict.NO_DATA),
        ("error_rate", [sample(errors=2, n=10)] * 8, [], Verdict.NO_DATA),
        ("error_rate", [], [], Verdict.NO_DATA),
        ("error_rate", [sample()] * 7 + [sample(errors=60)], [], Verdict.INCONCLUSIVE),
        ("error_rate", [sample(errors=20)] * 8, [sample(errors=20)] * 8, Verdict.ENV_SHIFT),
        ("error_rate", [sample(errors=20)] * 8, [sample(errors=20)] * 2, Verdict.FAIL),
        ("latency_p95", [sample(slow=2)] * 8, [], Verdict.PASS),
        ("latency_p95", [sample(slow=40)] * 8, [], Verdict.FAIL),
        ("latency_p95", [sample()] * 7 + [sample(slow=90)], [], Verdict.INCONCLUSIVE),
        ("latency_p95", [sample(slow=40)] * 8, [sample(slow=40)] * 8, Verdict.ENV_SHIFT),
    ],
)
def test_caps(gate, canary, control, verdict):
    result = judge_cap(gate, policy(caps=CAPS), evidence(canary, control))
    assert result.verdict is verdict, result.sentence


def test_a_cap_names_the_stratum_that_breaks_it():
    canary = [sample("cam-a")] * 8 + [sample("cam-b", slow=40)] * 8
    result = judge_cap("latency_p95", policy(caps=CAPS), evidence(canary))
    assert "cam-b" in result.sentence
    assert "cam-a" not in result.sentence
    assert dict(result.numbers)["p95_ms[cam-b]"] > 50


def test_only_named_gates_are_required():
    assert required_gates(policy(output=None, caps=Caps(error_rate=None))) == ("install",)
    assert required_gates(policy(caps=CAPS)) == ("install", "output", "error_rate", "latency_p95")


def test_not_applicable_is_an_answer_only_where_the_plan_predicted_it():
    nothing = evidence([sample()] * 8)
    foreseen = judge(policy(caps=CAPS), Installs(16, 0), nothing, {"output": "no_incumbent"})
    assert {one.gate: one.verdict for one in foreseen}["output"] is Verdict.NOT_APPLICABLE
    unforeseen = judge(policy(caps=CAPS), Installs(16, 0), nothing, {})
    assert {one.gate: one.verdict for one in unforeseen}["output"] is Verdict.NO_DATA


def test_evidence_is_plain_small_and_has_a_digest():
    one = evidence([sample("a"), sample("b")] * 500, [sample("a")] * 100)
    text = json.dumps(encode_evidence(one))
    assert msgspec.convert(json.loads(text), type(one)) == one
    assert len(text) < 6000, "evidence does not grow with the fleet"
    assert len(one.sha256) == 64
    assert one.sha256 != evidence([sample("a")]).sha256


def test_devices_that_said_nothing_are_not_counted():
    one = evidence([sample(), DeviceSample("a", 0, 0)])
    assert one.canary[0].devices == 1
