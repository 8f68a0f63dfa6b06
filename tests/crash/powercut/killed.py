"""A real agent that kills itself with -9 at one point: ``python -m powercut.killed FOLDER LOG AT``.

Points are counted from 1: the beginning and the end of every effect and of every write of the journal, and every fsync
of the process; each is written to ``LOG`` before the agent goes on, or ends there. ``AT`` = 0 never kills.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from agent.cli import main as agent_main
from agent.runner import device as runner
from agent.store import Store
from powercut.device import MarkedUpdates


class Points:
    """Counts the points, and kills at one of them."""

    def __init__(self, log: str, at: int) -> None:
        self._log, self._at, self._count = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), at, 0
        self._lock = threading.Lock()

    def passed(self, name: str) -> None:
        with self._lock:
            self._count += 1
            os.write(self._log, f"{name}\n".encode())
            if self._count == self._at:
                os.kill(os.getpid(), signal.SIGKILL)


def line(points: Points) -> None:
    """Line the agent's effects, its journal and its fsyncs with points."""

    def passing(name: str, edge: str) -> None:
        points.passed(f"{edge} {name}")

    def around(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def lined(*args: Any) -> Any:
            points.passed(f"begin {name}")
            found = call(*args)
            points.passed(f"end {name}")
            return found

        return lined

    runner.Updates = type("KilledUpdates", (MarkedUpdates,), {"passing": staticmethod(passing)})  # type: ignore[misc]
    Store.save_journal = around(Store.save_journal, "Journal")  # type: ignore[method-assign]
    fsync = os.fsync

    def fsynced(descriptor: int) -> None:
        fsync(descriptor)
        points.passed("fsync")

    os.fsync = fsynced


if __name__ == "__main__":
    folder, log, at = sys.argv[1:4]
    line(Points(log, int(at)))
    sys.exit(agent_main(["run", "--dir", folder]))
