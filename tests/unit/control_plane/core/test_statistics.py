"""The statistics against known values and their own definitions."""

import math
import random

import pytest

from control_plane.core.evidence import DeviceSample, gather
from control_plane.core.statistics import (
    Sprt,
    compare_classes,
    design_effect,
    f_tail,
    histogram_quantile,
    proven_below,
    ratio_and_error,
    wilson,
)


def test_sprt_bounds_are_computed_and_hold_by_a_thousandth():
    test = Sprt.of(0.02, 0.15, 0.05, 0.10)
    assert test.accept == pytest.approx(math.log(0.10 / 0.95))
    assert test.reject == pytest.approx(math.log(0.90 / 0.05))
    assert test.ratio(8, 2) - test.reject == pytest.approx(0.0009, abs=1e-4)  # two in the first ten halt
    assert test.ratio(9, 2) < test.reject
    assert test.ratio(0, 1) < test.reject  # one failure never halts
    assert test.clean_devices_to_accept == 16
    assert test.clamp(-100.0) == test.accept


# Reference values computed once with scipy 1.17: scipy.stats.f.sf.
@pytest.mark.parametrize(
    ("value", "d1", "d2", "expected"),
    [
        (1.3, 9, 500, 0.23401798475363805),
        (3.0, 4, 20, 0.04320099833421409),
        (0.2, 2, 7, 0.8232507233767773),
        (8.0, 9, 1000, 1.6909837301246076e-11),
        (2.5, 1, 3, 0.21198544267264852),
        (0.0, 3, 9, 1.0),
    ],
)
def test_f_tail_agrees_with_a_reference(value, d1, d2, expected):
    assert f_tail(value, d1, d2) == pytest.approx(expected, rel=1e-9)


def test_wilson_and_the_rule_of_three():
    assert wilson(3, 20) == pytest.approx((0.0523687, 0.3604189), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
    assert proven_below(29) < 0.10 < proven_below(28)
    assert proven_below(59) < 0.05 < proven_below(58)


def arm(rng, devices, rows, spread):
    """Return one sample a device; ``spread`` is the share of answers of a class of the device's own."""
    samples = []
    for _ in range(devices):
        own, classes = rng.randrange(10), [0] * 10
        for _ in range(rows):
            classes[own if rng.random() < spread else rng.randrange(10)] += 1
        samples.append(DeviceSample("a", rows, 0, tuple(classes)))
    return samples


def compare(rng, canary, control, spread, rows=100):
    evidence = gather(
        wave=0,
        look=1,
        at_ms=0,
        since_ms=0,
        canary=arm(rng, canary, rows, spread),
        control=arm(rng, control, rows, spread),
        latency_p95_cap_ms=None,
    )
    return compare_classes(evidence.canary[0].classes, canary, evidence.control[0].classes, control)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_alike_devices_are_not_told_apart_even_when_each_has_its_own_habits(spread):
    rng = random.Random(11)
    found = [compare(rng, 8, 22, spread) for _ in range(200)]
    assert sum(one.p_value < 0.05 for one in found) <= 22  # 5 % of 200, and room for chance
    assert sum(one.p_value < 0.001 for one in found) <= 3
    if spread:
        naive = sum(f_tail(one.g / 9, 9, 1e6) < 0.05 for one in found)
        assert naive > 100, "counting rows instead of devices would raise false alarms more often than not"


def test_a_shift_on_every_device_is_seen():
    rng = random.Random(12)
    control = arm(rng, 22, 100, 0.0)
    canary = [DeviceSample("a", 100, 0, (40, 20, *[5] * 8)) for _ in range(8)]
    evidence = gather(wave=0, look=1, at_ms=0, since_ms=0, canary=canary, control=control, latency_p95_cap_ms=None)
    found = compare_classes(evidence.canary[0].classes, 8, evidence.control[0].classes, 22)
    assert found.p_value < 1e-6
    assert found.effect > 0.3


def test_the_error_of_a_ratio_counts_devices():
    alike = gather(
        wave=0,
        look=1,
        at_ms=0,
        since_ms=0,
        canary=[DeviceSample("a", 90, 10)] * 8,
        control=[DeviceSample("a", 100, 0)] * 7 + [DeviceSample("a", 20, 80)],
        latency_p95_cap_ms=None,
    )
    share, error = ratio_and_error(alike.canary[0].errors, 8)
    assert (share, error) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-6))
    share, error = ratio_and_error(alike.control[0].errors, 8)
    assert share == pytest.approx(0.1)
    assert error == pytest.approx(0.1, rel=0.01), "one device of eight carries all of it"
    assert ratio_and_error(alike.canary[0].errors, 1)[1] == math.inf


def test_design_effect_is_one_without_and_large_with_habits():
    rng = random.Random(13)
    plain = gather(wave=0, look=1, at_ms=0, since_ms=0, canary=arm(rng, 40, 200, 0.0), control=(), latency_p95_cap_ms=1)
    habits = gather(
        wave=0, look=1, at_ms=0, since_ms=0, canary=arm(rng, 40, 200, 0.5), control=(), latency_p95_cap_ms=1
    )
    assert design_effect(plain.canary[0].classes, 40) < 1.5
    assert design_effect(habits.canary[0].classes, 40) > 20


def test_quantiles_of_merged_buckets():
    # 32 buckets double: 100 observations at about 1 ms, 5 at about 8 ms.
    low = int(32 * math.log2(1000))
    counts = [100] + [0] * 95 + [5]
    assert histogram_quantile(low, counts, 0.5, 5) == pytest.approx(1000, rel=0.03)
    assert histogram_quantile(low, counts, 0.99, 5) == pytest.approx(8000, rel=0.03)
    assert histogram_quantile(0, (), 0.95, 5) == 0.0
