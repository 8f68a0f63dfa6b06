"""What a rollout must see before it goes on: gates, deadlines, what to do when they fail.

A policy is read from a plain document when it is written; one that cannot be read, names an unknown field or
contradicts itself is refused there, so that no gate can silently never trip. Leaves judging to ``gates``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn, get_args, get_type_hints

import msgspec

from bundles.wire.messages import Profile
from control_plane.errors import PolicyRefused

POLICY_VERSION = 1
DAY_S = 86_400.0


class OnFail(StrEnum):
    """What a failed gate sets in motion."""

    ROLLBACK_ALL = "rollback_all"
    PAUSE = "pause"


@dataclass(frozen=True)
class InstallGate:
    """Does the bundle install and stay up? Only failures for model reasons count.

    Attributes:
        p0: failure ratio a good release may have.
        p1: failure ratio that must be stopped.
        alpha: accepted risk of refusing a release at ``p0``.
        beta: accepted risk of promoting a release at ``p1``.
        halt_threshold: h of the clamped CUSUM that halts at once. At 5.5 it halted none of 250 simulated releases that
            fail on 2 % of devices, whether half or all of the failures are silent. The bounds above halt 2.3 % of such
            releases (Monte Carlo of waves 10/50/250/690 with top-ups; 3.0 % of 500 rollouts of ``scripts/simulate``).
    """

    p0: float = 0.02
    p1: float = 0.15
    alpha: float = 0.05
    beta: float = 0.10
    halt_threshold: float = 5.5


@dataclass(frozen=True)
class OutputGate:
    """Do canaries answer like devices that still run the baseline? Needs no labels.

    Attributes:
        alpha: total risk of a false alarm, shared among looks and strata.
        effect_floor: bias-corrected population stability index below which a difference is harmless (0.10 is the
            usual "moderate shift").
        min_devices: in each arm; answers cluster by device, so devices are counted, not rows.
        min_rows: in each arm.
    """

    alpha: float = 0.01
    effect_floor: float = 0.10
    min_devices: int = 5
    min_rows: int = 200


@dataclass(frozen=True)
class Caps:
    """Absolute limits, which also decide where there is nobody to compare with.

    Attributes:
        error_rate: share of requests that may fail, 0..1; None = no cap.
        latency_p95_ms: 95th percentile of model latency, milliseconds; None = no cap.
        min_devices: below it a cap has no data.
        min_requests: below it a cap has no data.
    """

    error_rate: float | None = 0.05
    latency_p95_ms: float | None = None
    min_devices: int = 3
    min_requests: int = 200


@dataclass(frozen=True)
class Deadlines:
    """How long a device may stay in a stage, seconds; afterwards it is deferred or counted as a failure.

    Attributes:
        accept_s: from the offer to its acceptance.
        download_s: from acceptance to a staged bundle.
        activate_s: from a staged bundle to the first heartbeat with the new digest.
        probation_s: from that heartbeat to confirmation.
    """

    accept_s: float
    download_s: float
    activate_s: float
    probation_s: float

    @property
    def longest_s(self) -> float:
        """The longest single stage."""
        return max(self.accept_s, self.download_s, self.activate_s, self.probation_s)

    @property
    def total_s(self) -> float:
        """The longest a device can take and still be in time."""
        return self.accept_s + self.download_s + self.activate_s + self.probation_s


@dataclass(frozen=True)
class Policy:
    """A whole gate policy.

    Attributes:
        deadlines: per stage of a device.
        install: always required.
        output: None = not required.
        caps: absolute limits; each one named is required.
        on_fail: a gate failed. (An undecided gate always pauses: on_inconclusive knows one answer, ``pause``.)
        quorum: share of engaged devices that must be resolved before a wave may soak and be promoted.
        looks: how often statistical gates look within one soak; the last look is the one that may promote.
        top_up_factor: an undecided wave grows by this share of itself ...
        top_up_limit: ... until it holds this many devices.
        holdout_pct: percent of devices kept on the baseline as lasting controls until every other wave is promoted;
            they form the last wave.
        approvals_needed: people other than the creator who must approve.
        rollback_s: how long a roll back may take before it is called incomplete.
        approval_expiry_s: an unapproved or unstarted rollout expires after this.
        pause_expiry_s: a paused or halted rollout nobody takes care of expires after this.
        remind_s: how often a waiting rollout reminds people.
        watermark_s: how late telemetry may be.
        diagnoses: how many devices, the first of each failure reason in a wave, are asked for a support bundle.
        version: of this form.
    """

    deadlines: Deadlines
    install: InstallGate = field(default_factory=InstallGate)
    output: OutputGate | None = field(default_factory=OutputGate)
    caps: Caps = field(default_factory=Caps)
    on_fail: OnFail = OnFail.ROLLBACK_ALL
    on_inconclusive: str = "pause"
    quorum: float = 0.95
    looks: int = 4
    top_up_factor: float = 0.5
    top_up_limit: int = 120
    holdout_pct: float = 5.0
    approvals_needed: int = 1
    rollback_s: float = 3600.0
    approval_expiry_s: float = 14 * DAY_S
    pause_expiry_s: float = 14 * DAY_S
    remind_s: float = DAY_S
    watermark_s: float = 600.0
    diagnoses: int = 3
    version: int = POLICY_VERSION

    def shortest_soak_s(self, profile: Profile) -> float:
        """Return what every soak must exceed: a soak that races a deadline promotes what is about to fail."""
        return max(self.deadlines.longest_s, 2 * profile.canary_report_s + self.watermark_s)


def default_deadlines(profile: Profile) -> Deadlines:
    """Return the deadlines a timing profile implies; probation gets one more probation and three heartbeats."""
    return Deadlines(
        accept_s=profile.accept_s,
        download_s=profile.download_s,
        activate_s=profile.activate_s,
        probation_s=2 * profile.probation_s + 3 * profile.heartbeat_s,
    )


def parse_policy(document: Mapping[str, Any], profile: Profile) -> Policy:
    """Read a policy from plain values (JSON or YAML), filling defaults from ``profile``.

    Args:
        document: the policy as its author wrote it; fields as in ``Policy``, all optional.
        profile: the rollout's timing.

    Raises:
        PolicyRefused: ``POLICY_FIELD`` for unknown fields or wrong types, ``POLICY_VERSION`` for a form this code
            does not know, ``POLICY_VALUE`` for values that contradict themselves or each other.
    """
    filled = dict(document)
    derived: dict[str, Any] = {
        "deadlines": dataclasses.asdict(default_deadlines(profile)),
        "watermark_s": 2 * profile.canary_report_s,
    }
    deadlines = filled.get("deadlines", {})
    if isinstance(deadlines, Mapping):
        filled["deadlines"] = {**derived["deadlines"], **deadlines}
    filled.setdefault("watermark_s", derived["watermark_s"])
    policy: Policy = read_strictly(Policy, filled)
    check_policy(policy, profile)
    return policy


def check_policy(policy: Policy, profile: Profile) -> None:
    """Refuse a policy whose values cannot work.

    Raises:
        PolicyRefused: with the field in ``details``.
    """
    if policy.version != POLICY_VERSION:
        raise PolicyRefused(
            f"Policy version {policy.version} is not known here.",
            code="POLICY_VERSION",
            remedy=f"Write it in version {POLICY_VERSION}.",
        )
    gate, out, caps, wait = policy.install, policy.output, policy.caps, policy.deadlines
    _require(0 < gate.p0 < gate.p1 < 1, "install.p0", "0 < p0 < p1 < 1")
    _require(0 < gate.alpha < 0.5, "install.alpha", "between 0 and 0.5")
    _require(0 < gate.beta < 0.5, "install.beta", "between 0 and 0.5")
    _require(1 <= gate.halt_threshold <= 50, "install.halt_threshold", "between 1 and 50")
    if out is not None:
        _require(0 < out.alpha <= 0.2, "output.alpha", "between 0 and 0.2")
        _require(0 < out.effect_floor < 5, "output.effect_floor", "between 0 and 5")
        _require(out.min_devices >= 2, "output.min_devices", "at least 2: one device is no sample of devices")
        _require(out.min_rows >= 20, "output.min_rows", "at least 20")
    _require(caps.error_rate is None or 0 < caps.error_rate < 1, "caps.error_rate", "between 0 and 1")
    _require(caps.latency_p95_ms is None or caps.latency_p95_ms > 0, "caps.latency_p95_ms", "above 0")
    _require(caps.min_devices >= 1 and caps.min_requests >= 20, "caps", "min_devices >= 1 and min_requests >= 20")
    _require(wait.accept_s >= 2 * profile.heartbeat_s, "deadlines.accept_s", "at least two heartbeats")
    _require(wait.download_s > 0 and wait.activate_s > 0, "deadlines", "above 0")
    _require(
        wait.probation_s >= profile.probation_s + 2 * profile.heartbeat_s,
        "deadlines.probation_s",
        "at least the probation and two heartbeats, or no device could ever be confirmed",
    )
    _require(policy.on_inconclusive == "pause", "on_inconclusive", "'pause': what is not known never passes")
    _require(0.5 <= policy.quorum <= 1, "quorum", "between 0.5 and 1")
    _require(1 <= policy.looks <= 20, "looks", "between 1 and 20")
    _require(0 < policy.top_up_factor <= 2, "top_up_factor", "between 0 and 2")
    _require(policy.top_up_limit >= 0, "top_up_limit", "0 or more")
    _require(0 <= policy.holdout_pct < 50, "holdout_pct", "between 0 and 50")
    _require(0 <= policy.approvals_needed <= 10, "approvals_needed", "between 0 and 10")
    for name in ("rollback_s", "approval_expiry_s", "pause_expiry_s", "remind_s"):
        _require(getattr(policy, name) > 0, name, "above 0: every wait has an end")
    _require(policy.watermark_s >= 0, "watermark_s", "0 or more")
    _require(0 <= policy.diagnoses <= 100, "diagnoses", "between 0 and 100")


def read_strictly(kind: type[Any], document: object) -> Any:
    """Return ``document`` as a ``kind`` dataclass; unknown fields, wrong types, NaN and infinities are refused.

    Raises:
        PolicyRefused: ``POLICY_FIELD``.
    """
    _refuse_unknown(kind, document, "")
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        _refuse("POLICY_FIELD", f"The policy cannot be read: {error}.", "Give the field a value of the named type.")


def _refuse_unknown(kind: Any, value: object, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        _refuse("POLICY_FIELD", f"{path or 'policy'} is not a finite number.", "A limit nothing exceeds is no limit.")
    if isinstance(value, list | tuple):
        inner = next((arg for arg in get_args(kind) if dataclasses.is_dataclass(arg)), None)
        for index, item in enumerate(value):
            _refuse_unknown(inner, item, f"{path}[{index}]")
        return
    kind = next((arg for arg in get_args(kind) if dataclasses.is_dataclass(arg)), kind)
    if not isinstance(value, Mapping) or not dataclasses.is_dataclass(kind):
        return
    hints = get_type_hints(kind)
    for name, item in value.items():
        if name not in hints:
            _refuse(
                "POLICY_FIELD",
                f"'{path}{name}' is no field of a policy.",
                f"Known here: {', '.join(sorted(hints))}.",
            )
        _refuse_unknown(hints[name], item, f"{path}{name}.")


def _require(is_met: bool, name: str, rule: str) -> None:
    if not is_met:
        raise PolicyRefused(
            f"'{name}' must be {rule}.",
            code="POLICY_VALUE",
            remedy="Correct the value and write the policy again.",
            details={"field": name},
        )


def _refuse(code: str, sentence: str, remedy: str) -> NoReturn:
    raise PolicyRefused(sentence, code=code, remedy=remedy)
