"""When to try again: exponential backoff in full jitter, with the random number handed in.

Full jitter (uniform between nothing and the exponential bound) spreads a fleet that lost its server at one moment;
see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Bounds of the waits between tries.

    Attributes:
        base_s: bound of the first wait.
        cap_s: bound no wait exceeds.
        floor_s: least wait, against hot loops.
    """

    base_s: float = 2.0
    cap_s: float = 300.0
    floor_s: float = 0.2

    def delay_s(self, tries: int, draw: float) -> float:
        """Return the wait after ``tries`` failures (from 1) for a ``draw`` from [0, 1), in seconds."""
        bound = min(self.cap_s, self.base_s * 2.0 ** min(max(tries, 1) - 1, 32))
        return max(self.floor_s, draw * bound)
