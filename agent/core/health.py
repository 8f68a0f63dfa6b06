"""Whether the answering model is healthy, from the engine's numbers since it was activated. Pure.

A local judgement on one device, for probation and for crash loops afterwards. It looks for what is plainly broken;
finer statistics over many devices are the control plane's gates. Unknown is never success: with nothing to judge by,
the answer is ``unknown`` and the updater keeps waiting until its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.state import Verdict


@dataclass(frozen=True)
class HealthNumbers:
    """Counters of one model since its activation.

    Attributes:
        requests: requests that reached the model (contract rejects are not the model's fault and are left out).
        errors: of those, how many ended in an error of any kind, ``nonfinite`` included.
        nonfinite: of those, how many produced NaN or infinity.
        crashes: deaths and hangs of the worker within the last five minutes.
        latency_p95_ms: 95th percentile of the model's latency, None before the first answer.
        self_tests_ok: golden inputs sent through the live engine since the activation that came back right.
        self_tests_failed: the same, wrong or without an answer.
        distinct_inputs: different inputs among the last answers (the engine keeps marks of a bounded number of them).
        distinct_outputs: different answers to them; 0 = not known, or golden inputs showed that they may be the same.
    """

    requests: int = 0
    errors: int = 0
    nonfinite: int = 0
    crashes: int = 0
    latency_p95_ms: float | None = None
    self_tests_ok: int = 0
    self_tests_failed: int = 0
    distinct_inputs: int = 0
    distinct_outputs: int = 0


@dataclass(frozen=True)
class HealthLimits:
    """Thresholds. Defaults and where they come from:

    Attributes:
        max_crashes: three crashes or hangs in five minutes end a model's time (design page 04, watchdog).
        max_nonfinite_ratio: above 1 % of at least ``min_for_nonfinite`` requests (page 04, guards).
        min_for_nonfinite: 200 (page 04, guards).
        max_error_ratio: our choice: 10 %. A gate sees 5 % over many devices; on one device and few requests only
            gross failure can be told from chance (20 requests, true rate 2 %: 3 errors or more in < 1 % of cases).
        min_for_errors: 20 requests before a ratio is taken.
        min_all_failed: as few as 3 requests condemn where every one of them failed.
        max_latency_p95_ms: hard cap; 0 = none. From the manifest's ``health_check.max_latency_ms``.
        min_for_latency: 20 requests before a 95th percentile means anything.
        min_for_constant: different inputs that may not all have the very same answer (design page 04 asks for a guard
            against constant output and leaves the number open): 20, our choice. On its own it is a suspicion (a
            camera may see nothing but good parts); the runner counts it only where golden inputs bear it out.
        min_requests: answers that prove health without a self-test.
    """

    max_crashes: int = 3
    max_nonfinite_ratio: float = 0.01
    min_for_nonfinite: int = 200
    max_error_ratio: float = 0.10
    min_for_errors: int = 20
    min_all_failed: int = 3
    max_latency_p95_ms: float = 0.0
    min_for_latency: int = 20
    min_for_constant: int = 20
    min_requests: int = 1


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason.

    Attributes:
        verdict: ``healthy``, ``unhealthy`` or ``unknown``.
        reason: ``crash``, ``nonfinite``, ``errors``, ``latency``, ``constant``, ``self_test``; ``no_data`` where
            unknown; empty if healthy.
        detail: one sentence with the numbers.
    """

    verdict: Verdict
    reason: str = ""
    detail: str = ""


def judge(numbers: HealthNumbers, limits: HealthLimits) -> Judgement:
    """Judge one model by its counters since activation.

    Returns:
        ``unhealthy`` at the first limit passed, worst first; ``healthy`` where at least ``min_requests`` answers or a
        self-test say so; ``unknown`` where there is nothing to judge by.
    """
    n = numbers.requests
    if numbers.crashes >= limits.max_crashes:
        return Judgement("unhealthy", "crash", f"The worker crashed or hung {numbers.crashes} times in five minutes.")
    if numbers.self_tests_failed:
        return Judgement(
            "unhealthy", "self_test", f"{numbers.self_tests_failed} golden inputs failed in the live engine."
        )
    if n >= limits.min_for_nonfinite and numbers.nonfinite > limits.max_nonfinite_ratio * n:
        return Judgement("unhealthy", "nonfinite", f"{numbers.nonfinite} of {n} answers were not finite.")
    all_failed = n >= limits.min_all_failed and numbers.errors >= n
    if all_failed or (n >= limits.min_for_errors and numbers.errors > limits.max_error_ratio * n):
        is_nonsense = numbers.nonfinite * 2 > numbers.errors  # the word for what most of them failed of
        return Judgement(
            "unhealthy", "nonfinite" if is_nonsense else "errors", f"{numbers.errors} of {n} requests failed."
        )
    if numbers.distinct_outputs == 1 and numbers.distinct_inputs >= limits.min_for_constant:
        return Judgement(
            "unhealthy", "constant", f"{numbers.distinct_inputs} different inputs had the very same answer."
        )
    slow = numbers.latency_p95_ms
    if (
        limits.max_latency_p95_ms > 0
        and n >= limits.min_for_latency
        and slow is not None
        and slow > limits.max_latency_p95_ms
    ):
        return Judgement(
            "unhealthy",
            "latency",
            f"The 95th percentile is {slow:.1f} ms; {limits.max_latency_p95_ms:.1f} ms is the cap.",
        )
    if n - numbers.errors >= limits.min_requests or numbers.self_tests_ok:
        return Judgement("healthy")
    return Judgement("unknown", "no_data", f"{n} requests and no self-test are too little to judge by.")
