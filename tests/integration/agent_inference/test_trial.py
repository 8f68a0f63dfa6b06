"""Trials in a real throwaway child: what each kind of bad model is called."""

from dataclasses import replace

import numpy as np
import pytest

from agent.inference.trial import TrialLimits, TrialSpec, run_deadline_s, run_trial
from bundles.manifest import HealthCheck

CLOSE = HealthCheck(comparator="allclose")


def try_fake(spec, goldens_path, rule=CLOSE, limits=None):
    return run_trial(TrialSpec(spec, goldens_path, rule), limits)


@pytest.mark.parametrize("backend", ["onnxruntime", "litert", "tflite"])
def test_the_projects_own_model_passes_on_every_runtime(digits, backend):
    spec = digits("1.0.0", backend)
    goldens = spec.model_path.parent / "digits-goldens-1.0.0.npz"
    result = run_trial(TrialSpec(spec, goldens, HealthCheck()))
    assert result.ok, result
    assert result.reason is None
    assert result.top1_agreement >= 0.99
    assert result.mean_abs_diff_ratio <= 0.01
    assert 0 < result.latency_p50_ms <= result.latency_p95_ms <= result.latency_p99_ms
    assert result.placement == "cpu"


def test_a_good_fake_passes(fake, goldens):
    result = try_fake(fake(), goldens())
    assert result.ok
    assert result.top1_agreement is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"behaviour": "crash", "on": "load"}, "native_crash"),
        ({"behaviour": "crash", "after": 5}, "native_crash"),
        ({"behaviour": "abort"}, "native_crash"),
        ({"behaviour": "wrong"}, "golden_mismatch"),
        ({"behaviour": "nan", "after": 6}, "golden_mismatch"),
        ({"behaviour": "error"}, "golden_mismatch"),
        ({"spec_accelerator": "absent"}, "accel_fallback"),
        ({"spec_accelerator": "npu0"}, "load"),
        ({"spec_backend": "abacus"}, "load"),
        ({"spec_backend": "litert"}, "load"),
        ({"outputs": [["y", "float32", [1, 3]]]}, "load"),
        ({"inputs": "none"}, "load"),
    ],
)
def test_each_bad_model_is_named(fake, goldens, fields, reason):
    result = try_fake(fake(**fields), goldens())
    assert not result.ok
    assert result.reason == reason
    assert result.detail


@pytest.mark.parametrize("on", ["load", "run"])
def test_a_hang_is_a_timeout(fake, goldens, on):
    result = try_fake(fake(behaviour="hang", on=on), goldens(), limits=TrialLimits(wall_s=1.0))
    assert result.reason == "timeout"


def test_running_out_of_memory_is_told_from_a_crash(fake, goldens):
    limits = TrialLimits(address_space_bytes=600 << 20, wall_s=60.0)
    assert try_fake(fake(behaviour="oom"), goldens(), limits=limits).reason == "oom"


def test_a_model_slower_than_its_bundle_promises_is_a_timeout(fake, goldens):
    rule = HealthCheck(comparator="allclose", max_latency_ms=5.0)
    result = try_fake(fake(behaviour="slow", delay_ms=10), goldens(), rule)
    assert result.reason == "timeout"
    assert result.latency_p50_ms >= 10


def test_a_garbage_model_file_is_refused_by_a_real_runtime(digits, tmp_path):
    spec = digits("1.0.0", "onnxruntime")
    goldens = spec.model_path.parent / "digits-goldens-1.0.0.npz"
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(np.random.default_rng(11).bytes(5000))
    result = run_trial(TrialSpec(replace(spec, model_path=garbage), goldens))
    assert result.reason == "load"


@pytest.mark.parametrize("backend", ["onnxruntime", "litert", "tflite"])
def test_a_model_with_flipped_bytes_may_kill_its_child_and_nothing_else(digits, backend, tmp_path):
    spec = digits("1.0.0", backend)
    goldens = spec.model_path.parent / "digits-goldens-1.0.0.npz"
    good = np.frombuffer(spec.model_path.read_bytes(), dtype=np.uint8)
    mutated = tmp_path / f"mutated{spec.model_path.suffix}"
    for seed in range(4):
        random = np.random.default_rng(seed)
        data = good.copy()
        data[random.integers(0, len(data), 64)] = random.integers(0, 256, 64)
        mutated.write_bytes(data.tobytes())
        result = run_trial(TrialSpec(replace(spec, model_path=mutated), goldens))
        assert result.ok is (result.reason is None), f"seed {seed}: {result}"


def test_goldens_that_break_the_contract_fail_before_anything_is_started(fake, tmp_path):
    path = tmp_path / "g.npz"
    np.savez(path, **{"input.x": np.full((4, 4), 5.0, np.float32), "output.y": np.zeros((4, 2), np.float32)})
    result = try_fake(fake(behaviour="crash", on="load"), path)
    assert result.reason == "golden_mismatch"
    assert "-1 to 1" in result.detail


def test_missing_goldens_are_never_success(fake, tmp_path):
    assert try_fake(fake(), tmp_path / "none.npz").reason == "golden_mismatch"


@pytest.mark.parametrize(("p99_ms", "deadline_s"), [(None, 1.0), (5.0, 1.0), (250.0, 2.5)])
def test_the_deadline_in_service_is_ten_times_the_golden_p99(p99_ms, deadline_s):
    assert run_deadline_s(p99_ms) == deadline_s
