"""The statistic that halts at once: Page's CUSUM over install outcomes, fair to the order in which they arrive.

Outcomes do not arrive in the order devices were exposed: failures that devices report come early, successes later, and
silence last, at its deadline. Scored one by one, the bursts would halt good releases (a 1 % release was halted in four
of five runs) or let early success hide late harm. So outcomes are summed within a *block*, which lasts from an offer
until every device it reached must be resolved; devices being tried count as well for the time being; and the clamp,
which lets no good past excuse a bad present, is applied between blocks. Leaves promotion to ``gates``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from control_plane.core.policy import InstallGate
from control_plane.core.states import FAILURES, DeviceState
from control_plane.core.statistics import Sprt

_TRYING = frozenset({DeviceState.STAGED, DeviceState.SHADOWING, DeviceState.ACTIVATING, DeviceState.PROBATION})
"""Where a device that fails for the model's reasons would be failing about now."""

WHOLE = ""
"""Name of the watch over all strata."""


@dataclass(frozen=True)
class HaltWatch:
    """What is watched of one stratum, or of the whole rollout.

    Attributes:
        stratum: its name; ``WHOLE`` for all together.
        level: what earlier blocks left, at best the bound of acceptance.
        confirmed: in this block.
        failures: in this block.
        trying: devices on trial now.
    """

    stratum: str
    level: float = 0.0
    confirmed: int = 0
    failures: int = 0
    trying: int = 0

    def statistic(self, test: Sprt) -> float:
        """Return the log likelihood ratio as it stands."""
        return test.ratio(self.confirmed + self.trying, self.failures, self.level)


@dataclass(frozen=True)
class Alarm:
    """A watch past its bound.

    Attributes:
        stratum: whose; ``WHOLE`` for all together.
        statistic: its value.
        limit: its bound.
    """

    stratum: str
    statistic: float
    limit: float


def test_of(gate: InstallGate) -> Sprt:
    """Return the likelihood ratio both install statistics are made of."""
    return Sprt.of(gate.p0, gate.p1, gate.alpha, gate.beta)


def close_block(watches: Iterable[HaltWatch], gate: InstallGate) -> tuple[HaltWatch, ...]:
    """Return the watches at the start of a new block."""
    test = test_of(gate)
    return tuple(
        replace(one, level=test.clamp(test.ratio(one.confirmed, one.failures, one.level)), confirmed=0, failures=0)
        for one in watches
    )


def score(
    watches: tuple[HaltWatch, ...], stratum: str, previous: DeviceState, new: DeviceState, count: int
) -> tuple[HaltWatch, ...]:
    """Return the watches after ``count`` devices of ``stratum`` moved."""
    confirmed = (new is DeviceState.CONFIRMED) - (previous is DeviceState.CONFIRMED)
    failures = (new in FAILURES) - (previous in FAILURES)
    trying = (new in _TRYING) - (previous in _TRYING)
    if new is not DeviceState.CONFIRMED and new not in FAILURES:
        confirmed = failures = 0  # rolled back or superseded: what it proved stays proved
    if not (confirmed or failures or trying):
        return watches
    by_name = {one.stratum: one for one in watches}
    for name in {WHOLE, stratum}:
        one = by_name.get(name, HaltWatch(name))
        # What a past block counted cannot be taken from this one.
        by_name[name] = replace(
            one,
            confirmed=max(0, one.confirmed + confirmed * count),
            failures=max(0, one.failures + failures * count),
            trying=max(0, one.trying + trying * count),
        )
    return tuple(by_name[name] for name in sorted(by_name))


def find_alarm(watches: tuple[HaltWatch, ...], gate: InstallGate, stratum: str) -> Alarm | None:
    """Return the alarm a failure in ``stratum`` raises, if any."""
    test = test_of(gate)
    strata = max(1, sum(one.stratum != WHOLE for one in watches))
    for one in watches:
        # Each stratum is one more chance of a false alarm: the bound of a likelihood ratio rises by the logarithm.
        limit = gate.halt_threshold + (math.log(strata) if one.stratum != WHOLE else 0.0)
        if one.stratum in (WHOLE, stratum) and one.failures and one.statistic(test) >= limit:
            return Alarm(one.stratum, one.statistic(test), limit)
    return None
