"""The harm table: how many devices a bad release reaches before it is halted, and whether good ones get through."""

from __future__ import annotations

import random
from dataclasses import dataclass

from control_plane.core.states import RolloutPhase
from control_plane.simulation.fates import draw_fate
from control_plane.simulation.fleet import START_MS, Fleet
from control_plane.simulation.scenarios import (
    BASELINE,
    TABLE_PROFILE,
    Release,
    make_devices,
    table_spec,
)

DEVICES = 1000
OFFLINE = 0.10


@dataclass(frozen=True)
class Run:
    """How one rollout ended.

    Attributes:
        phase: its last phase.
        was_halted: whether it was ever halted.
        harmed: devices the release did harm to.
        minutes: virtual minutes until it halted, completed or paused.
    """

    phase: RolloutPhase
    was_halted: bool
    harmed: int
    minutes: float


@dataclass(frozen=True)
class HarmRow:
    """Many runs of one release.

    Attributes:
        release: its name.
        runs: how many.
        harmed_median: devices harmed.
        harmed_p95: devices harmed, 95th percentile.
        completed: share that completed.
        halted: share that was halted.
        to_person: share that waits for a person.
        minutes_median: until it halted, completed or paused.
    """

    release: str
    runs: int
    harmed_median: int
    harmed_p95: int
    completed: float
    halted: float
    to_person: float
    minutes_median: float


def play(release: Release, seed: int, halt_threshold: float | None = None) -> Run:
    """Play one rollout of ``release`` to 1,000 devices, one in ten out of reach."""
    rng = random.Random(seed)
    spec = table_spec(seed, halt_threshold)
    offline = frozenset(number for number in range(DEVICES) if rng.random() < OFFLINE)
    # Who is out of reach is not known when planning: the waves meet them as they come.
    devices = make_devices(DEVICES, ("hardware",), BASELINE, frozenset())
    fates = {
        device.id: draw_fate(rng, TABLE_PROFILE, bad=release.bad, silent=release.silent, is_offline=number in offline)
        for number, device in enumerate(devices)
    }
    fleet = Fleet(spec, devices, fates, rng)
    phase = fleet.run()
    halt = fleet.state.halt
    ended = halt.at_ms if halt else fleet.state.ended_ms or fleet.now_ms
    return Run(phase, halt is not None, fleet.harmed, (ended - START_MS) / 60_000)


def measure(release: Release, seeds: range, halt_threshold: float | None = None) -> HarmRow:
    """Play ``release`` once for each seed."""
    runs = [play(release, seed, halt_threshold) for seed in seeds]
    harmed = sorted(run.harmed for run in runs)
    minutes = sorted(run.minutes for run in runs)
    return HarmRow(
        release=release.name,
        runs=len(runs),
        harmed_median=harmed[len(runs) // 2],
        harmed_p95=harmed[min(len(runs) - 1, int(0.95 * len(runs)))],
        completed=sum(run.phase is RolloutPhase.COMPLETED for run in runs) / len(runs),
        halted=sum(run.was_halted for run in runs) / len(runs),
        to_person=sum(run.phase is RolloutPhase.PAUSED for run in runs) / len(runs),
        minutes_median=minutes[len(runs) // 2],
    )


def render(rows: list[HarmRow]) -> str:
    """Return the table as text."""
    head = f"{'release':24} {'runs':>5} {'harmed median/p95':>18} {'completed':>10} {'halted':>8} {'person':>8}"
    lines = [f"{head} {'minutes':>8}"]
    lines += [
        f"{row.release:24} {row.runs:>5} {f'{row.harmed_median}/{row.harmed_p95}':>18} {row.completed:>10.1%} "
        f"{row.halted:>8.1%} {row.to_person:>8.1%} {row.minutes_median:>8.0f}"
        for row in rows
    ]
    return "\n".join(lines)
