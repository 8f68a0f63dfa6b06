"""A thread that does one thing again and again, at once when woken. A failure is counted and never ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from control_plane import metrics

log = structlog.get_logger()
MAX_PAUSE_S = 30.0


class Periodic:
    """Calls ``action`` every ``period_s`` seconds and whenever ``wake`` is called.

    Args:
        name: for logs and metrics.
        period_s: pause between calls.
        action: must be level-triggered: it looks at what is, not at what was said.
    """

    def __init__(self, name: str, period_s: float, action: Callable[[], None]) -> None:
        self._name, self._period_s, self._action = name, period_s, action
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"worker-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Have the next call happen at once."""
        self._wake.set()

    def stop(self) -> None:
        """Let the call in progress finish, then end the thread."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(10)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self._action()
                failures = 0
            except Exception:
                failures += 1
                metrics.WORKER_FAILURES.labels(worker=self._name).inc()
                log.exception("worker_failed", worker=self._name, failures=failures)
            pause_s = self._period_s if not failures else min(MAX_PAUSE_S, self._period_s * 2**failures)
            self._wake.wait(pause_s)
