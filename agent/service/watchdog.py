"""Keeps the service manager's watchdog fed from the agent's own line of calls.

The ping is a timer of the schedule: where a call hangs and nothing moves any more, no ping goes out and the manager
ends and restarts the agent. A worker that hangs is another matter, which the engine sees to: it stalls no line. The
same round says in a few words where the device stands.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

from agent.service.notify import Notifier, status_line

STATUS_EVERY_S = 20.0
"""Where no watchdog asks for more."""


class Line(Protocol):
    """What is needed of ``agent.runner.schedule.Schedule``."""

    now_ms: Callable[[], int]

    def at(self, key: Hashable, due_ms: int, call: Callable[[], None]) -> None:
        """Run ``call`` at ``due_ms``."""
        ...


class Watchdog:
    """Pings and status texts of one agent.

    Args:
        line: the agent's line of calls.
        notifier: takes them.
        period_s: between pings; None = no watchdog, and only the status is told.
        summary: says where the device stands, as ``Device.summary``; called on the line.
    """

    def __init__(
        self, line: Line, notifier: Notifier, period_s: float | None, summary: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._line, self._notifier, self._summary = line, notifier, summary
        self._ping = ("WATCHDOG=1",) if period_s is not None else ()
        self._period_ms = round((period_s if period_s is not None else STATUS_EVERY_S) * 1000)

    def start(self) -> None:
        """Begin; from any thread."""
        if self._notifier.is_heard:
            self._line.at("watchdog", self._line.now_ms(), self._round)

    def _round(self) -> None:
        self._line.at("watchdog", self._line.now_ms() + self._period_ms, self._round)
        self._notifier.send(*self._ping, status_line(status_text(self._summary())))


def status_text(summary: Mapping[str, Any]) -> str:
    """Return in one line where a device stands: how it reports, and each model with its version and phase."""
    models = []
    for name, model in sorted(summary.get("models", {}).items()):
        reason = f" ({model['reason']})" if model.get("reason") else ""
        models.append(f"{name} {model.get('version') or 'nothing'} {model.get('phase', '')}{reason}")
    route = {"mqtt": "by MQTT", "websocket": "by WebSocket", "https": "by HTTPS"}.get(
        summary.get("route", ""), "offline"
    )
    return f"Reports {route}, {summary.get('pending', 0)} waiting; {', '.join(models) or 'no model'}"
