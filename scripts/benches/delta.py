"""What deltas weigh, and what making and applying them costs, beside ``zstd --patch-from`` and bsdiff4 in the same run.

Every peer works in a process of its own, once for each file, in turns; what it makes is compared with the new file.
Sizes do not vary between runs: they are measured once. zstd is Debian's program with ``-19 --long=31`` on one thread.
Times are CPU seconds, which a busy machine changes least; ours hold hashing base and result, which the peers leave out.
"""

from __future__ import annotations

import filecmp
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benches.measuring import delta_child
from benches.measuring.figure import Figure, Plan
from benches.measuring.models import FURTHER, PAGE, SEED, Case, write_pair
from benches.measuring.timing import interleave
from bundles.errors import AskPerson

NAME = "delta"
SIZE, LARGE_SIZE = 8_400_000, 500_000_000
SIZE_BARS = {"int8_1pct": 1.23, "int8_10pct": 8.61, "int8_100pct": 15.7, "int8_head": 2.79}
"""Percent of the new file, as the design page measured them on files of 8.4 MB."""
OTHER_WEIGHTS = 1.01
"""The page's files had other random weights: the peers' sizes differ from its own by up to 0.6 % as well."""
WORK_BARS_MIB = {"make": 100.0, "apply": 8.0}
"""Beyond a bare interpreter. Making: 40 MiB of work, numpy (30 MiB), an index of 8 MiB at 500 MB; applying: "a few MiB"
by the design page."""
LARGE = replace(PAGE[1], name="500mb_int8_10pct")
WORKS = ("make", "apply")


@dataclass(frozen=True)
class Cost:
    """What making or applying cost one side; medians.

    Attributes:
        wall_s: seconds.
        cpu_s: seconds of CPU.
        work_mib: the most resident memory, beyond what the process had before the work.
        peak_mib: the most resident memory of its process.
    """

    wall_s: float
    cpu_s: float
    work_mib: float
    peak_mib: float


@dataclass(frozen=True)
class Found:
    """What one side reached.

    Attributes:
        percent: the delta's share of the new file.
        costs: by work, ``make`` and ``apply``.
    """

    percent: float
    costs: dict[str, Cost]


def run(plan: Plan) -> Iterator[Figure]:
    """Measure the four cases of the design page, four more, and the first ones' like in a file of 500 MB.

    Raises:
        AskPerson: ``BENCH_WRONG``: a delta did not make the file that it was made for.
    """
    peers = _peers()
    missing = sorted({"zstd", "bsdiff4"} - set(peers))
    without = f"; not installed, so not measured: {', '.join(missing)}" if missing else ""
    with tempfile.TemporaryDirectory(prefix="wg-bench-") as folder:
        for case in (*PAGE, *FURTHER):
            yield from _case(case, Path(folder), SIZE, peers, plan.repeats(3, 1), without)
        large = [peer for peer in peers if peer != "bsdiff4"]
        note = f"{without}; bsdiff4 left out: its suffix array takes 17 bytes a byte, 8.5 GB here"
        size = LARGE_SIZE if not plan.is_quick else LARGE_SIZE // 10
        yield from _case(LARGE, Path(folder), size, large, 1, note)


def _peers() -> list[str]:
    found = ["zstd"] if shutil.which("zstd") else []
    return [*found, "bsdiff4"] if importlib.util.find_spec("bsdiff4") else found


def _case(case: Case, folder: Path, size: int, peers: list[str], rounds: int, note: str) -> Iterator[Figure]:
    old, new = write_pair(case, folder / case.name, size)
    length = new.stat().st_size
    found = _measure(["own", *peers], old, new, rounds)
    own = found.pop("own")
    said = f"{case.what}; {length / 1e6:.1f} MB, seed {SEED}{note}"
    rivals: list[tuple[str, Found | None]] = list(found.items()) or [("", None)]
    for peer, rival in rivals:
        name = {"zstd": "zstd --patch-from"}.get(peer, peer)
        percent = rival.percent if rival else None
        bar = OTHER_WEIGHTS * SIZE_BARS[case.name] if case.name in SIZE_BARS else None
        yield Figure(NAME, f"size_percent:{case.name}", own.percent, "%", name, percent, bar, note=said)
        for work in WORKS:
            mine, theirs = own.costs[work], rival.costs[work] if rival else None
            megabytes = f"{length / 1e6 / mine.wall_s:.0f} MB/s; {said}"
            metric = f"{work}_s:{case.name}"
            yield Figure(
                NAME,
                metric,
                mine.cpu_s,
                "s",
                name,
                theirs.cpu_s if theirs else None,
                n=rounds,
                note=f"CPU; {megabytes}",
            )
            metric, most = f"{work}_mib:{case.name}", WORK_BARS_MIB[work]
            memory = f"beyond the bare interpreter; whole process {mine.peak_mib:.0f} MiB; {said}"
            peak = theirs.work_mib if theirs else None
            yield Figure(NAME, metric, mine.work_mib, "MiB", name, peak, most, n=rounds, note=memory)
    shutil.rmtree(folder / case.name)


def _measure(sides: list[str], old: Path, new: Path, rounds: int) -> dict[str, Found]:
    taken: dict[tuple[str, str], list[Cost]] = {(side, work): [] for work in WORKS for side in sides}

    def once(side: str, work: str) -> float:
        taken[side, work].append(_child(side, work, old, new))
        return 0.0

    for work in WORKS:
        interleave({side: lambda side=side, work=work: once(side, work) for side in sides}, rounds)  # type: ignore[misc]
    found = {}
    for side in sides:
        delta = _delta(side, new)
        if not filecmp.cmp(new, f"{delta}.out", shallow=False):
            raise AskPerson(
                f"The delta of {side} makes another file.", code="BENCH_WRONG", remedy="Report this as a fault."
            )
        costs = {work: _median(taken[side, work]) for work in WORKS}
        found[side] = Found(100 * delta.stat().st_size / new.stat().st_size, costs)
    return found


def _child(side: str, work: str, old: Path, new: Path) -> Cost:
    command = [sys.executable, delta_child.__file__, side, work, str(old), str(new), str(_delta(side, new))]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return Cost(**json.loads(done.stdout))


def _delta(side: str, new: Path) -> Path:
    return new.with_name(f"{side}.delta")


def _median(costs: list[Cost]) -> Cost:
    def of(name: str) -> float:
        return float(statistics.median(getattr(cost, name) for cost in costs))

    return Cost(of("wall_s"), of("cpu_s"), of("work_mib"), of("peak_mib"))
