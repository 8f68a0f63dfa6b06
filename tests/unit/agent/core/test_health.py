import pytest

from agent.core.health import HealthLimits, HealthNumbers, judge

LIMITS = HealthLimits(max_latency_p95_ms=50.0)


@pytest.mark.parametrize(
    ("numbers", "verdict", "reason"),
    [
        (HealthNumbers(), "unknown", "no_data"),
        (HealthNumbers(requests=2, errors=2), "unknown", "no_data"),
        (HealthNumbers(self_tests_ok=1), "healthy", ""),
        (HealthNumbers(requests=1), "healthy", ""),
        (HealthNumbers(requests=3, errors=3), "unhealthy", "errors"),
        (HealthNumbers(requests=3, errors=3, nonfinite=2), "unhealthy", "nonfinite"),
        (HealthNumbers(requests=20, errors=4, nonfinite=2), "unhealthy", "errors"),
        (HealthNumbers(requests=20, errors=2), "healthy", ""),
        (HealthNumbers(requests=20, errors=3), "unhealthy", "errors"),
        (HealthNumbers(requests=19, errors=9), "healthy", ""),
        (HealthNumbers(requests=200, errors=2, nonfinite=2), "healthy", ""),
        (HealthNumbers(requests=200, errors=3, nonfinite=3), "unhealthy", "nonfinite"),
        (HealthNumbers(requests=500, crashes=2), "healthy", ""),
        (HealthNumbers(requests=500, crashes=3), "unhealthy", "crash"),
        (HealthNumbers(requests=500, self_tests_ok=3, self_tests_failed=1), "unhealthy", "self_test"),
        (HealthNumbers(requests=20, latency_p95_ms=50.0), "healthy", ""),
        (HealthNumbers(requests=20, latency_p95_ms=50.1), "unhealthy", "latency"),
        (HealthNumbers(requests=19, latency_p95_ms=500.0), "healthy", ""),
        (HealthNumbers(requests=64, distinct_inputs=20, distinct_outputs=1), "unhealthy", "constant"),
        (HealthNumbers(requests=64, distinct_inputs=20, distinct_outputs=2), "healthy", ""),
        (HealthNumbers(requests=64, distinct_inputs=19, distinct_outputs=1), "healthy", ""),
        (HealthNumbers(requests=64, distinct_inputs=64, distinct_outputs=0), "healthy", ""),
    ],
)
def test_verdict_and_reason(numbers, verdict, reason):
    judgement = judge(numbers, LIMITS)
    assert (judgement.verdict, judgement.reason) == (verdict, reason)
    assert bool(judgement.detail) == (verdict != "healthy")


def test_without_a_cap_latency_is_not_judged():
    assert judge(HealthNumbers(requests=100, latency_p95_ms=1e6), HealthLimits()).verdict == "healthy"
