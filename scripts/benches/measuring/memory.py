"""Memory of a process and all its descendants, from ``/proc``.

PSS shares each page out among the processes that map it, so the sum over a tree of forked workers counts a page once;
RSS counts it in each. But the interpreter's own pages are shared with whatever else runs on it here, and on a device
nothing does. So there is a third sum, ``alone_mib``: what the kernel would say if only this tree used its files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_KIB_A_MIB = 1024


@dataclass(frozen=True)
class Memory:
    """Of a tree of processes.

    Attributes:
        pss_mib: proportional set size.
        alone_mib: PSS if no stranger shared a file: PSS of what is anonymous and, of each mapped part of a file, the
            most one process of the tree holds of it.
        rss_mib: resident set size.
        processes: how many there were.
    """

    pss_mib: float
    alone_mib: float
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
    pids = tree(pid)
    pss = rss = anonymous = 0
    files: dict[str, int] = {}
    for each in pids:
        sums = _sizes((PROC / str(each) / "smaps_rollup").read_text().splitlines())
        pss, rss, anonymous = pss + sums["Pss"], rss + sums["Rss"], anonymous + sums["Pss_Anon"]
        for part, sizes in _mappings(each):
            files[part] = max(files.get(part, 0), sizes["Rss"] - sizes["Anonymous"])
    alone = anonymous + sum(files.values())
    return Memory(pss / _KIB_A_MIB, alone / _KIB_A_MIB, rss / _KIB_A_MIB, len(pids))


def _mappings(pid: int) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield the mappings of ``pid``: which part of which file, and sizes in KiB."""
    part, lines = "", []
    for line in (PROC / str(pid) / "smaps").read_text().splitlines():
        first, *rest = line.split()
        if first.endswith(":"):
            lines.append(line)
            continue
        if lines:  # "00400000-0040b000 r-xp 00000000 fd:00 1234 /bin/cat": the next mapping begins
            yield part, _sizes(lines)
        part, lines = " ".join(rest[:4]), []
    yield part, _sizes(lines)


def _sizes(lines: list[str]) -> dict[str, int]:
    """Return the sizes, in KiB, of lines such as ``Rss:    1234 kB``."""
    fields = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) for words in fields if words[-1] == "kB"}
