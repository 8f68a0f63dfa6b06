"""The rules that answer pass, hold or halt, always with reasons and numbers.

Pure judgements over tallies and evidence. What follows from a verdict is ``rollout``'s. Missing data is NO_DATA and
never passes; NOT_APPLICABLE is an answer only where the plan predicted it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bundles.sketch.form import LATENCY_SCALE
from control_plane.core.evidence import ArmStats, Ratio, WaveEvidence
from control_plane.core.policy import InstallGate, OutputGate, Policy
from control_plane.core.statistics import (
    Sprt,
    compare_classes,
    histogram_quantile,
    proven_below,
    ratio_and_error,
    wilson,
)

INSTALL, OUTPUT, ERROR_RATE, LATENCY = "install", "output", "error_rate", "latency_p95"
P95_SHARE = 0.05
CAP_Z = 1.644854
"""One-sided 95 %: a cap fails only if it is broken by more than one odd device can explain."""


class Verdict(StrEnum):
    """A gate's answer."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no_data"
    ENV_SHIFT = "env_shift"
    NOT_APPLICABLE = "not_applicable"


@dataclass(frozen=True)
class GateResult:
    """One gate's answer at one look.

    Attributes:
        gate: ``install``, ``output``, ``error_rate`` or ``latency_p95``.
        verdict: the answer.
        reason: short stable word for programs and deduplication.
        sentence: the same for people, with the numbers that decided.
        numbers: (name, value) pairs: counts, statistic, bounds.
    """

    gate: str
    verdict: Verdict
    reason: str
    sentence: str
    numbers: tuple[tuple[str, float | int | str], ...] = ()


@dataclass(frozen=True)
class Installs:
    """What the install gate counts.

    Attributes:
        confirmed: devices that were seen with the new digest throughout probation.
        failures: devices that failed for a model reason, or fell silent.
        carried: log likelihood ratio brought along from promoted waves, at best the bound of acceptance.
        by_stratum: (stratum, confirmed, failures), so that a verdict names who carries it.
    """

    confirmed: int
    failures: int
    carried: float = 0.0
    by_stratum: tuple[tuple[str, int, int], ...] = ()


def required_gates(policy: Policy) -> tuple[str, ...]:
    """Return the gates a wave must pass under ``policy``."""
    gates = [INSTALL]
    if policy.output is not None:
        gates.append(OUTPUT)
    if policy.caps.error_rate is not None:
        gates.append(ERROR_RATE)
    if policy.caps.latency_p95_ms is not None:
        gates.append(LATENCY)
    return tuple(gates)


def judge(
    policy: Policy,
    installs: Installs,
    evidence: WaveEvidence,
    not_applicable: Mapping[str, str],
    restarts: int = 0,
) -> tuple[GateResult, ...]:
    """Judge every required gate once.

    Args:
        policy: gates and limits.
        installs: from the wave's tally.
        evidence: gathered for this look.
        not_applicable: gate -> reason, as the plan predicted for this wave.
        restarts: how often this wave was watched anew; each time the false alarm risk of a look is halved.
    """
    results = []
    for gate in required_gates(policy):
        if gate in not_applicable:
            reason = not_applicable[gate]
            text = f"The plan foresaw that this gate cannot judge here ({reason}); absolute caps decide."
            results.append(GateResult(gate, Verdict.NOT_APPLICABLE, reason, text))
        elif gate == INSTALL:
            results.append(judge_install(policy.install, installs))
        elif gate == OUTPUT and policy.output is not None:
            alpha = policy.output.alpha / policy.looks / 2.0**restarts
            results.append(judge_outputs(policy.output, evidence, alpha))
        else:
            results.append(judge_cap(gate, policy, evidence))
    return tuple(results)


def judge_install(gate: InstallGate, installs: Installs) -> GateResult:
    """Judge installs by Wald's test over this wave's resolved devices on top of what earlier waves proved."""
    test = Sprt.of(gate.p0, gate.p1, gate.alpha, gate.beta)
    ok, failures = installs.confirmed, installs.failures
    statistic = test.ratio(ok, failures, installs.carried)
    low, high = wilson(failures, ok + failures)
    numbers: tuple[tuple[str, float | int | str], ...] = (
        ("confirmed", ok),
        ("failed", failures),
        ("statistic", round(statistic, 4)),
        ("accept_at", round(test.accept, 4)),
        ("reject_at", round(test.reject, 4)),
        ("carried", round(installs.carried, 4)),
        ("wilson_low", round(low, 4)),
        ("wilson_high", round(high, 4)),
        *((f"failed[{name}]", f"{bad}/{well + bad}") for name, well, bad in installs.by_stratum if bad),
    )
    facts = f"{failures} of {ok + failures} resolved devices failed (between {low:.1%} and {high:.1%})"
    if ok + failures == 0 and installs.carried > test.accept:
        return GateResult(INSTALL, Verdict.NO_DATA, "nobody_resolved", "No device is resolved yet.", numbers)
    if statistic >= test.reject:
        text = f"{facts}: {statistic:.2f} is past {test.reject:.2f}, closer to {gate.p1:.0%} than to {gate.p0:.0%}."
        return GateResult(INSTALL, Verdict.FAIL, "too_many_failures", text, numbers)
    if statistic <= test.accept:
        text = f"{facts}: {statistic:.2f} is past {test.accept:.2f}, as a release failing on {gate.p0:.0%} would be."
        return GateResult(INSTALL, Verdict.PASS, "installs", text, numbers)
    if failures == 0:
        text = (
            f"{ok} clean devices prove fewer than {proven_below(ok):.1%} failures; "
            f"{test.clean_devices_to_accept} are needed."
        )
        return GateResult(INSTALL, Verdict.INCONCLUSIVE, "too_few", text, numbers)
    text = f"{facts}: {statistic:.2f} lies between {test.accept:.2f} and {test.reject:.2f}."
    return GateResult(INSTALL, Verdict.INCONCLUSIVE, "between_bounds", text, numbers)


def judge_outputs(gate: OutputGate, evidence: WaveEvidence, alpha: float) -> GateResult:
    """Compare class counts of canaries and controls: each stratum that can decide, and all together.

    Args:
        gate: floor and sizes.
        evidence: both arms.
        alpha: false alarm risk of this look; shared among the strata and the whole.
    """
    whole = (_pool(evidence.canary), _pool(evidence.control))
    controls = {arm.stratum: arm for arm in evidence.control}
    pairs = [(arm.stratum, arm, controls[arm.stratum]) for arm in evidence.canary if arm.stratum in controls]
    decidable = [(name, a, b) for name, a, b in pairs if _is_enough(gate, a) and _is_enough(gate, b)]
    has_strata = len({arm.stratum for arm in (*evidence.canary, *evidence.control)}) > 1
    if has_strata and all(_is_enough(gate, arm) for arm in whole):
        decidable.append(("all", *whole))
    numbers: list[tuple[str, float | int | str]] = [
        ("canary_devices", whole[0].devices),
        ("control_devices", whole[1].devices),
        ("canary_rows", _rows(whole[0])),
        ("control_rows", _rows(whole[1])),
        ("effect_floor", gate.effect_floor),
    ]
    if not decidable:
        text = (
            f"{whole[0].devices} canary and {whole[1].devices} control devices with {_rows(whole[0])} and "
            f"{_rows(whole[1])} answers: {gate.min_devices} devices and {gate.min_rows} answers are needed in each."
        )
        return GateResult(OUTPUT, Verdict.NO_DATA, "too_few", text, tuple(numbers))
    share = alpha / len(decidable)
    failed: list[str] = []
    unsure: list[str] = []
    for name, canary, control in decidable:
        found = compare_classes(canary.classes, canary.devices, control.classes, control.devices)
        numbers += [
            (f"effect[{name}]", round(found.effect, 4)),
            (f"p[{name}]", float(f"{found.p_value:.3g}")),
            (f"design_effect[{name}]", round(found.design_effect, 2)),
        ]
        if found.effect >= gate.effect_floor:
            part = f"{name} (shift {found.effect:.2f}, p {found.p_value:.1g})"
            (failed if found.p_value < share else unsure).append(part)
    numbers.append(("p_needed", float(f"{share:.3g}")))
    if failed and evidence.env_shift:
        text = f"Answers differ in {', '.join(failed)}, but so does the world: {evidence.env_shift}."
        return GateResult(OUTPUT, Verdict.ENV_SHIFT, "inputs_shifted", text, tuple(numbers))
    if failed:
        text = f"Canaries answer differently from devices on the baseline in {', '.join(failed)}."
        return GateResult(OUTPUT, Verdict.FAIL, "outputs_shifted", text, tuple(numbers))
    if unsure:
        text = f"A difference may be chance in {', '.join(unsure)}; needed p < {share:.1g}."
        return GateResult(OUTPUT, Verdict.INCONCLUSIVE, "between_bounds", text, tuple(numbers))
    names = ", ".join(name for name, _, _ in decidable)
    text = f"Canaries answer like devices on the baseline ({names}): every shift is below {gate.effect_floor:.2f}."
    return GateResult(OUTPUT, Verdict.PASS, "outputs_alike", text, tuple(numbers))


def judge_cap(gate: str, policy: Policy, evidence: WaveEvidence) -> GateResult:
    """Judge an absolute cap, by stratum and together. Both arms over the cap is the world's fault, not the model's."""
    caps = policy.caps
    is_latency = gate == LATENCY
    limit = P95_SHARE if is_latency else (caps.error_rate or 0.0)
    shown = f"p95 <= {caps.latency_p95_ms:g} ms" if is_latency else f"error rate <= {limit:.2%}"
    controls = {arm.stratum: arm for arm in (*evidence.control, _pool(evidence.control))}
    arms = [arm for arm in (*evidence.canary, _pool(evidence.canary)) if _has_load(arm, is_latency, policy)]
    numbers: list[tuple[str, float | int | str]] = [("limit", caps.latency_p95_ms or 0.0 if is_latency else limit)]
    if not arms:
        text = (
            f"Fewer than {caps.min_devices} devices with {caps.min_requests} requests: "
            f"nothing can be said about {shown}."
        )
        return GateResult(gate, Verdict.NO_DATA, "too_few", text, tuple(numbers))
    failed, unsure, shared = [], [], []
    for arm in arms:
        share, error = ratio_and_error(arm.slow if is_latency else arm.errors, arm.devices)
        numbers += [(f"requests[{arm.stratum}]", (arm.slow if is_latency else arm.errors).x)]
        value = f"{share:.2%} of requests"
        if is_latency:
            p95 = histogram_quantile(arm.latency_offset, arm.latency_counts, 0.95, LATENCY_SCALE) / 1000
            value = f"p95 {p95:.3g} ms"
            numbers += [(f"p95_ms[{arm.stratum}]", round(p95, 3)), (f"share_slow[{arm.stratum}]", round(share, 5))]
        else:
            numbers += [(f"error_rate[{arm.stratum}]", round(share, 5))]
        if share <= limit:
            continue
        part = f"{arm.stratum} ({value}, {arm.devices} devices)"
        if not (math.isfinite(error) and share - CAP_Z * error > limit):
            unsure.append(part)
        elif _is_over(controls.get(arm.stratum), is_latency, limit, policy):
            shared.append(part)
        else:
            failed.append(part)
    if failed:
        return GateResult(gate, Verdict.FAIL, "cap", f"Over {shown}: {', '.join(failed)}.", tuple(numbers))
    if shared:
        text = f"Over {shown}: {', '.join(shared)}; devices on the baseline are over it too."
        return GateResult(gate, Verdict.ENV_SHIFT, "controls_over_cap", text, tuple(numbers))
    if unsure:
        text = f"Over {shown} on too few devices to blame the release: {', '.join(unsure)}."
        return GateResult(gate, Verdict.INCONCLUSIVE, "few_devices", text, tuple(numbers))
    return GateResult(gate, Verdict.PASS, "within_cap", f"Within {shown}.", tuple(numbers))


def _has_load(arm: ArmStats, is_latency: bool, policy: Policy) -> bool:
    requests = (arm.slow if is_latency else arm.errors).x
    return arm.devices >= policy.caps.min_devices and requests >= policy.caps.min_requests


def _is_over(arm: ArmStats | None, is_latency: bool, limit: float, policy: Policy) -> bool:
    if arm is None or not _has_load(arm, is_latency, policy):
        return False
    return ratio_and_error(arm.slow if is_latency else arm.errors, arm.devices)[0] > limit


def _rows(arm: ArmStats) -> int:
    return max((ratio.x for ratio in arm.classes), default=0)


def _is_enough(gate: OutputGate, arm: ArmStats) -> bool:
    return arm.devices >= gate.min_devices and _rows(arm) >= gate.min_rows


def _pool(arms: Sequence[ArmStats]) -> ArmStats:
    """Return the arms of all strata as one, called ``all``."""
    width = max((len(arm.classes) for arm in arms), default=0)
    low = min((arm.latency_offset for arm in arms if arm.latency_counts), default=0)
    counts: dict[int, int] = {}
    for arm in arms:
        for index, count in enumerate(arm.latency_counts, start=arm.latency_offset):
            counts[index] = counts.get(index, 0) + count
    return ArmStats(
        stratum="all",
        devices=sum(arm.devices for arm in arms),
        errors=_sum([arm.errors for arm in arms]),
        slow=_sum([arm.slow for arm in arms]),
        classes=tuple(_sum([arm.classes[k] for arm in arms if k < len(arm.classes)]) for k in range(width)),
        latency_offset=low,
        latency_counts=tuple(counts.get(index, 0) for index in range(low, max(counts, default=low - 1) + 1)),
    )


def _sum(ratios: Sequence[Ratio]) -> Ratio:
    return Ratio(*(sum(getattr(ratio, name) for ratio in ratios) for name in ("y", "x", "yy", "xx", "xy")))
