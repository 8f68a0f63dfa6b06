"""What is rolled out to whom: the releases of the harm table and the fleet they meet.

Leaves fates to ``fates`` and the running to ``fleet``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bundles.digest import sha256_hex
from bundles.wire.messages import Profile
from control_plane.core.cohorts import Selector
from control_plane.core.plan import PlanDevice
from control_plane.core.policy import Caps, OutputGate, Policy, default_deadlines
from control_plane.core.spec import RolloutSpec, WaveSpec

BASELINE, TARGET = sha256_hex(b"simulated baseline"), sha256_hex(b"simulated release")
MODEL = "team/model"


@dataclass(frozen=True)
class Release:
    """What a release does to devices.

    Attributes:
        name: for tables.
        bad: share of devices it fails on.
        silent: share of those that never speak again; the others report the failure and return by themselves.
    """

    name: str
    bad: float
    silent: float = 0.0


RELEASES = (
    Release("good 1 %", 0.01, 0.5),
    Release("good 2 %", 0.02, 0.5),
    Release("20 % bad, half brick", 0.20, 0.5),
    Release("20 % silent brick", 0.20, 1.0),
    Release("60 % brick", 0.60, 1.0),
    Release("grey 5 %", 0.05, 0.5),
    Release("grey 12 %", 0.12, 0.5),
)

TABLE_PROFILE = Profile(
    heartbeat_s=60, report_s=3600, canary_report_s=60, probation_s=120, accept_s=300, download_s=300, activate_s=300
)


def table_spec(seed: int, halt_threshold: float | None = None) -> RolloutSpec:
    """Return the harm table's rollout: 1,000 devices in waves of 10, 50, 250 and 690, installs only.

    Args:
        seed: of the order of devices.
        halt_threshold: of the CUSUM; None = the policy's default.
    """
    policy = Policy(
        deadlines=default_deadlines(TABLE_PROFILE),
        output=None,
        caps=Caps(error_rate=None),
        holdout_pct=0,
        approvals_needed=0,
        watermark_s=2 * TABLE_PROFILE.canary_report_s,
    )
    if halt_threshold is not None:
        policy = _with_threshold(policy, halt_threshold)
    return _spec(seed, policy, TABLE_PROFILE, tuple(WaveSpec(soak_s=600, count=n) for n in (10, 50, 250, 690)))


DEMO_PROFILE = Profile(
    heartbeat_s=1, report_s=2, canary_report_s=2, probation_s=3, accept_s=8, download_s=10, activate_s=10, poll_s=5
)


def demo_spec(seed: int, *, has_incumbent: bool, wave_1: int = 16) -> RolloutSpec:
    """Return the demo's rollout: 60 devices, wave 1 then the rest, every gate.

    Args:
        seed: of the order of devices.
        has_incumbent: whether the fleet runs something to compare with.
        wave_1: devices in the first wave.
    """
    policy = Policy(
        deadlines=default_deadlines(DEMO_PROFILE),
        output=OutputGate(min_devices=5, min_rows=200),
        caps=Caps(error_rate=0.05, latency_p95_ms=50.0, min_devices=3, min_requests=100),
        holdout_pct=0,
        approvals_needed=1,
        rollback_s=60,
        watermark_s=2 * DEMO_PROFILE.canary_report_s,
    )
    waves = (WaveSpec(soak_s=12, count=wave_1), WaveSpec(soak_s=12, rest=True))
    return _spec(seed, policy, DEMO_PROFILE, waves, baseline=BASELINE if has_incumbent else "")


def make_devices(count: int, strata: tuple[str, ...], current: str, offline: frozenset[int]) -> tuple[PlanDevice, ...]:
    """Return ``count`` devices over ``strata`` in turn; those in ``offline`` are not reachable when planned."""
    return tuple(
        PlanDevice(
            id=f"device-{number:04d}",
            hardware=strata[number % len(strata)],
            online=number not in offline,
            current_sha256=current,
        )
        for number in range(count)
    )


def _spec(
    seed: int, policy: Policy, profile: Profile, waves: tuple[WaveSpec, ...], baseline: str = BASELINE
) -> RolloutSpec:
    return RolloutSpec(
        rollout=f"simulated-{seed}",
        model=MODEL,
        bundle_sha256=TARGET,
        version="2.0.0",
        counter=2,
        baseline_sha256=baseline,
        selector=Selector(all=True),
        seed=str(seed),
        waves=waves,
        policy=policy,
        profile=profile,
        creator="author",
    )


def _with_threshold(policy: Policy, threshold: float) -> Policy:
    return replace(policy, install=replace(policy.install, halt_threshold=threshold))
