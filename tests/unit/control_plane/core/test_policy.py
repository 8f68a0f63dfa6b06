"""A policy that cannot be read, or contradicts itself, is refused when written."""

import json
from dataclasses import replace

import msgspec
import pytest

from bundles.wire.messages import Profile
from control_plane.core.cohorts import Selector, is_selected, parse_selector, stratum_of
from control_plane.core.policy import OnFail, parse_policy
from control_plane.core.spec import WaveSpec, check_spec, decode_spec, encode_spec, parse_waves, spec_sha256
from control_plane.errors import PlanRefused, PolicyRefused
from control_plane.simulation.scenarios import DEMO_PROFILE, demo_spec

PROFILE = Profile()


def test_an_empty_policy_is_the_written_defaults():
    policy = parse_policy({}, PROFILE)
    assert policy.install.p0 == 0.02
    assert policy.on_fail is OnFail.ROLLBACK_ALL
    assert policy.deadlines.accept_s == PROFILE.accept_s
    assert policy.holdout_pct == 5.0


def test_the_demo_profile_and_soak_are_valid():
    policy = parse_policy({"holdout_pct": 0, "caps": {"latency_p95_ms": 50}}, DEMO_PROFILE)
    assert policy.shortest_soak_s(DEMO_PROFILE) == 10
    check_spec(demo_spec(1, has_incumbent=False))


@pytest.mark.parametrize(
    ("document", "code", "named"),
    [
        ({"caps": {"error_rate": "5 %"}}, "POLICY_FIELD", "error_rate"),
        ({"caps": {"error_rat": 0.05}}, "POLICY_FIELD", "caps.error_rat"),
        ({"output": {"effect_flor": 0.1}}, "POLICY_FIELD", "effect_flor"),
        ({"gates": []}, "POLICY_FIELD", "gates"),
        ({"deadlines": 5}, "POLICY_FIELD", "deadlines"),
        ({"caps": {"error_rate": float("nan")}}, "POLICY_FIELD", "error_rate"),
        ({"caps": {"latency_p95_ms": float("inf")}}, "POLICY_FIELD", "latency_p95_ms"),
        ({"on_fail": "ignore"}, "POLICY_FIELD", "on_fail"),
        ({"on_inconclusive": "pass"}, "POLICY_VALUE", "on_inconclusive"),
        ({"install": {"p0": 0.2, "p1": 0.1}}, "POLICY_VALUE", "p0"),
        ({"install": {"halt_threshold": 1000.0}}, "POLICY_VALUE", "halt_threshold"),
        ({"quorum": 0.1}, "POLICY_VALUE", "quorum"),
        ({"caps": {"error_rate": 1.5}}, "POLICY_VALUE", "error_rate"),
        ({"output": {"min_devices": 1}}, "POLICY_VALUE", "min_devices"),
        ({"deadlines": {"probation_s": 1}}, "POLICY_VALUE", "probation_s"),
        ({"deadlines": {"accept_s": 1}}, "POLICY_VALUE", "accept_s"),
        ({"looks": 0}, "POLICY_VALUE", "looks"),
        ({"pause_expiry_s": 0}, "POLICY_VALUE", "pause_expiry_s"),
        ({"version": 2}, "POLICY_VERSION", "2"),
    ],
)
def test_a_policy_that_could_never_trip_is_refused(document, code, named):
    with pytest.raises(PolicyRefused) as refused:
        parse_policy(document, PROFILE)
    assert refused.value.code == code
    assert named in str(refused.value)
    assert refused.value.remedy


@pytest.mark.parametrize("soak_s", [1, 8, 10])
def test_a_soak_that_races_a_deadline_is_refused(soak_s):
    spec = demo_spec(1, has_incumbent=True)
    with pytest.raises(PolicyRefused) as refused:
        check_spec(replace(spec, waves=(WaveSpec(soak_s=soak_s, rest=True),)))
    assert refused.value.code == "POLICY_SOAK"
    assert refused.value.details == {"soak_s": soak_s, "floor_s": 10.0}


@pytest.mark.parametrize(
    ("waves", "code"),
    [
        ([], "PLAN_WAVES"),
        ("all", "PLAN_WAVES"),
        ([{"soak_s": 60}], "PLAN_WAVES"),
        ([{"soak_s": 60, "percent": 10, "count": 5}], "PLAN_WAVES"),
        ([{"soak_s": 60, "rest": True}, {"soak_s": 60, "rest": True}], "PLAN_WAVES"),
        ([{"soak_s": 60, "percent": 10}, {"soak_s": 60, "count": 5}], "PLAN_WAVES"),
        ([{"soak_s": 60, "count": 0}], "PLAN_WAVES"),
        ([{"soak_s": 60, "rest": True, "min_resolved": 0}], "PLAN_WAVES"),
        ([{"soak_s": 60, "percent": 10}, {"soak_s": 60, "percent": 80}], "PLAN_WAVES_SUM"),
        ([{"soak_s": 60, "percent": 100}, {"soak_s": 60, "rest": True}], "PLAN_WAVES_SUM"),
    ],
)
def test_waves_that_cannot_add_up_are_refused(waves, code):
    with pytest.raises(PlanRefused) as refused:
        parse_waves(waves)
    assert refused.value.code == code


def test_an_unknown_field_of_a_wave_is_refused():
    with pytest.raises(PolicyRefused, match="soak_seconds"):
        parse_waves([{"soak_seconds": 5, "rest": True}])


def test_a_spec_survives_storing_and_keeps_the_digest_approvals_are_bound_to():
    spec = demo_spec(5, has_incumbent=True)
    stored = json.loads(json.dumps(encode_spec(spec)))
    assert decode_spec(stored) == spec
    assert spec_sha256(decode_spec(stored)) == spec_sha256(spec)
    edited = replace(spec, policy=replace(spec.policy, quorum=0.9))
    assert spec_sha256(edited) != spec_sha256(spec)
    with pytest.raises(PolicyRefused):
        decode_spec({**stored, "spec_version": 9})


def test_a_stored_spec_with_fields_of_tomorrow_is_read():
    stored = {**encode_spec(demo_spec(5, has_incumbent=True)), "window": "nights"}
    assert decode_spec(msgspec.json.decode(msgspec.json.encode(stored))) == demo_spec(5, has_incumbent=True)


@pytest.mark.parametrize("document", [{}, {"labels": {}}, {"devices": []}, {"exclude": ["a"]}, {"all": False}])
def test_an_empty_selector_is_refused(document):
    with pytest.raises(PlanRefused) as refused:
        parse_selector(document)
    assert refused.value.code == "PLAN_SELECTOR_EMPTY"


@pytest.mark.parametrize("document", [{"every": True}, {"devices": "cam-1"}, {"labels": ["a"]}, {"all": "yes"}])
def test_a_selector_that_cannot_be_read_is_refused(document):
    with pytest.raises(PlanRefused) as refused:
        parse_selector(document)
    assert refused.value.code == "PLAN_SELECTOR"


def test_labels_must_all_match_and_named_devices_come_in_addition():
    selector = parse_selector({"labels": {"site": "north", "hardware": "cam-a"}, "devices": ["cam-9"]})
    assert is_selected(selector, "cam-1", {"site": "north", "hardware": "cam-a"})
    assert not is_selected(selector, "cam-1", {"site": "north", "hardware": "cam-b"})
    assert is_selected(selector, "cam-9", {})
    assert not is_selected(Selector(devices=("cam-9",)), "cam-1", {})


def test_strata_are_made_of_the_keys_asked_for():
    assert stratum_of(("hardware",), "cam-a", {}) == "cam-a"
    assert stratum_of(("hardware", "label:site"), "cam-a", {"site": "north"}) == "cam-a/north"
    assert stratum_of(("label:site",), "cam-a", {}) == "-"
