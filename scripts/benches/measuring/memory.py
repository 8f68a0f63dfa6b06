"""Memory of a process and all its descendants, from ``/proc``.

PSS shares each page out among the processes that map it, so the sum over a tree of forked workers counts a page once;
RSS counts it in each.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Memory:
    """Of a tree of processes.

    Attributes:
        pss_mib: proportional set size.
        rss_mib: resident set size.
        processes: how many there were.
    """

    pss_mib: float
    rss_mib: float
    processes: int


def tree(pid: int) -> list[int]:
    """Return ``pid`` and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                # The name in parentheses may hold blanks and parentheses itself.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        found.append(current)
        waiting += children.get(current, [])
    return found


def of_tree(pid: int) -> Memory:
    """Return the memory of ``pid`` and its descendants.

    Raises:
        OSError: ``pid`` has ended or is somebody else's.
    """
    totals = {"Pss": 0, "Rss": 0}
    pids = tree(pid)
    for each in pids:
        for line in (PROC / str(each) / "smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in totals:
                totals[name] += int(rest.split()[0])  # in kB of 1024 bytes
    return Memory(totals["Pss"] / 1024, totals["Rss"] / 1024, len(pids))
