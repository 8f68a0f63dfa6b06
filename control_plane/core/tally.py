"""How many devices of one wave stand in each state: all a reconciler needs to know about them.

Per-device outcomes are rows elsewhere; the work per event does not grow with the fleet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from control_plane.core.states import ENGAGED, FAILURES, IN_PROGRESS, NOT_ON_TRIAL, RESOLVED, DeviceState


@dataclass(frozen=True)
class Tally:
    """Counts by device state; field names are the states' stored values."""

    queued: int = 0
    offered: int = 0
    accepted: int = 0
    downloading: int = 0
    verified: int = 0
    staged: int = 0
    shadowing: int = 0
    activating: int = 0
    probation: int = 0
    confirmed: int = 0
    skipped: int = 0
    deferred: int = 0
    superseded: int = 0
    canceled: int = 0
    failed: int = 0
    rolled_back_local: int = 0
    unresponsive: int = 0
    regressed: int = 0
    rolling_back: int = 0
    rolled_back: int = 0

    def of(self, *states: DeviceState) -> int:
        """Return how many devices stand in any of ``states``."""
        return sum(getattr(self, state.value) for state in states)

    def move(self, previous: DeviceState, new: DeviceState, count: int = 1) -> Tally:
        """Return the tally after ``count`` devices moved.

        Raises:
            ValueError: fewer than ``count`` devices stand in ``previous``.
        """
        have = self.of(previous)
        if count < 1 or have < count:
            raise ValueError(f"{count} devices cannot leave {previous.value}: {have} are there")
        return replace(self, **{previous.value: have - count, new.value: self.of(new) + count})

    @property
    def total(self) -> int:
        """Devices in the wave."""
        return self.of(*DeviceState)

    @property
    def in_progress(self) -> int:
        """Engaged and inside their deadlines."""
        return self.of(*IN_PROGRESS)

    @property
    def engaged(self) -> int:
        """Devices that took the offer: the denominator."""
        return self.of(*ENGAGED)

    @property
    def resolved(self) -> int:
        """Engaged devices that are decided."""
        return self.of(*RESOLVED)

    @property
    def failures(self) -> int:
        """Devices resolved against the release."""
        return self.of(*FAILURES)

    @property
    def unsettled(self) -> int:
        """Devices a roll back still has to reach or to hear from."""
        return self.total - self.of(*NOT_ON_TRIAL)


def add(tallies: tuple[Tally, ...]) -> Tally:
    """Return the sum of several waves' tallies."""
    return Tally(**{state.value: sum(t.of(state) for t in tallies) for state in DeviceState})
