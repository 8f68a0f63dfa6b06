"""``scripts/simulate``: measure the rollout core and print the harm table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from control_plane.simulation.harm import measure, render
from control_plane.simulation.scenarios import RELEASES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulation; return the exit code: 1 if a regression target of the design is missed."""
    parser = argparse.ArgumentParser(
        prog="simulate",
        description="Play rollouts to 1,000 devices in virtual time (waves 10/50/250/690, 10 %% out of reach).",
    )
    parser.add_argument("--runs", type=int, default=100, help="rollouts of each release (default 100)")
    parser.add_argument("--seed", type=int, default=1, help="first seed; seeds count up from it (default 1)")
    parser.add_argument("--release", action="append", default=[], help="part of a release's name; may be repeated")
    parser.add_argument("--halt-threshold", type=float, default=None, help="h of the halting CUSUM")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    given = parser.parse_args(argv)
    seeds = range(given.seed, given.seed + given.runs)
    chosen = [one for one in RELEASES if not given.release or any(part in one.name for part in given.release)]
    rows = [measure(one, seeds, given.halt_threshold) for one in chosen]
    missed = []
    for row in rows:
        if row.release.startswith("good 1") and row.completed < 0.99:
            missed.append(f"{row.release}: {row.completed:.1%} completed, at least 99 % wanted")
        if row.release.startswith("good 2") and row.halted > 0.03:
            missed.append(f"{row.release}: {row.halted:.1%} halted, at most 3 % wanted")
        if row.release.startswith(("20", "60")) and (row.harmed_p95 > 10 or row.halted < 1):
            missed.append(f"{row.release}: p95 of {row.harmed_p95} harmed and {row.halted:.1%} halted")
    if given.json:
        document = {"tier": "core", "seeds": [seeds.start, seeds.stop - 1], "missed": missed}
        sys.stdout.write(json.dumps({**document, "rows": [dataclasses.asdict(row) for row in rows]}) + "\n")
    else:
        sys.stdout.write(f"tier: core in virtual time; seeds {seeds.start} to {seeds.stop - 1}\n{render(rows)}\n")
        for line in missed:
            sys.stdout.write(f"missed: {line}\n")
    return 1 if missed else 0
