"""What a tree of processes does while nobody asks it anything: CPU time and wake-ups of its threads, from ``/proc``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from benches.measuring.memory import PROC, tree

_NS = 1e9


@dataclass(frozen=True)
class Idle:
    """Of a tree of processes.

    Attributes:
        cpu_percent: of one core.
        wakeups_s: times a second that a thread which had waited ran again.
        during_s: what both are means over.
    """

    cpu_percent: float
    wakeups_s: float
    during_s: float


def watch(pid: int, during_s: float, sleep: Callable[[float], None] = time.sleep) -> Idle:
    """Watch ``pid`` and its descendants for ``during_s`` seconds; threads that end meanwhile are left out."""
    before, began = _threads(pid), time.monotonic()
    sleep(during_s)
    after, took_s = _threads(pid), time.monotonic() - began
    cpu_ns = sum(now[0] - before.get(thread, (0, 0))[0] for thread, now in after.items())
    wakeups = sum(now[1] - before.get(thread, (0, 0))[1] for thread, now in after.items())
    return Idle(100.0 * cpu_ns / _NS / took_s, wakeups / took_s, took_s)


def _threads(pid: int) -> dict[int, tuple[int, int]]:
    """Return the CPU time (ns) and the voluntary switches (a wait each) of every thread so far."""
    found = {}
    for process in tree(pid):
        for task in (PROC / str(process) / "task").iterdir():
            with contextlib.suppress(OSError):  # it ended meanwhile
                on_cpu = int((task / "schedstat").read_text().split()[0])
                status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
                found[int(task.name)] = (on_cpu, int(status["voluntary_ctxt_switches"]))
    return found
