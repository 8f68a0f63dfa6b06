"""Waiting for a rollout to end, showing it on the way: redrawn in a terminal, one JSON line a change without one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from control_plane.cli import exits
from control_plane.client import Client

EVERY_S = 1.0
_ENDS = {
    "completed": exits.OK,
    "halted": exits.STOPPED,
    "rolled_back": exits.STOPPED,
    "rollback_incomplete": exits.STOPPED,
    "rejected": exits.ERROR,
    "aborted": exits.ERROR,
    "superseded": exits.ERROR,
    "expired": exits.ERROR,
}


def until_over(
    client: Client,
    rollout: str,
    *,
    timeout_s: float,
    draw: Callable[[dict[str, Any]], str] | None = None,
    every_s: float = EVERY_S,
) -> int:
    """Wait until ``rollout`` is over; return the exit code that tells how.

    Args:
        client: connected.
        rollout: id.
        timeout_s: give up after so many seconds; 0 = never.
        draw: how to show it in a terminal; None shows nothing.
        every_s: seconds between two looks.

    Raises:
        TimedOut: it is not over in time.
        NotFound: ``ROLLOUT_UNKNOWN``.
    """
    give_up = time.monotonic() + timeout_s if timeout_s else None
    show = _shower(draw)
    seen = -1
    while True:
        detail = client.get(f"/api/v1/rollouts/{rollout}")
        view = detail["rollout"]
        if view["revision"] != seen:
            seen = view["revision"]
            show(detail)
        if (code := _ENDS.get(view["phase"])) is not None:
            return code
        if give_up is not None and time.monotonic() >= give_up:
            raise exits.TimedOut(
                f"The rollout is {view['phase']} after {timeout_s:g} seconds.",
                remedy=f"See `wavegate rollout explain {rollout}`, or wait longer.",
            )
        time.sleep(every_s)


def _shower(draw: Callable[[dict[str, Any]], str] | None) -> Callable[[dict[str, Any]], None]:
    if draw is None:
        return lambda _: None
    if not sys.stdout.isatty():
        return lambda detail: _line(detail)
    drawn = 0

    def redraw(detail: dict[str, Any]) -> None:
        nonlocal drawn
        text = draw(detail)
        if drawn:
            sys.stdout.write(f"\x1b[{drawn}F\x1b[J")  # up to where it began, and clear from there
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        drawn = text.count("\n") + 1

    return redraw


def _line(detail: dict[str, Any]) -> None:
    view = detail["rollout"]
    waves = [{"number": wave["number"], "phase": wave["phase"], "states": wave["states"]} for wave in detail["waves"]]
    sys.stdout.write(msgspec.json.encode({**view, "progress": waves}).decode() + "\n")
    sys.stdout.flush()
