"""Fair timing: the sides of a comparison take turns, so that a slow or busy machine slows both."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

Measure = Callable[[], float]


def interleave(sides: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Measure every side ``rounds`` times, in turns.

    Every second round goes backwards, so that a machine growing slower favours nobody.

    Args:
        sides: name -> takes one measurement.
        rounds: at least 1.

    Returns:
        name -> its measurements.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            taken[name].append(sides[name]())
    return taken


def medians(sides: Mapping[str, Measure], rounds: int) -> dict[str, float]:
    """Return the median of each side; see ``interleave``."""
    return {name: statistics.median(values) for name, values in interleave(sides, rounds).items()}


def call_s(call: Callable[[], object], calls: int) -> float:
    """Return the median time of ``calls`` calls, each timed by itself, in seconds."""
    clock = time.perf_counter_ns
    taken = []
    for _ in range(calls):
        started = clock()
        call()
        taken.append(clock() - started)
    return statistics.median(taken) / 1e9


def program_s(command: Sequence[str]) -> float:
    """Return the time ``command`` takes from being started to its end, in seconds.

    Raises:
        subprocess.CalledProcessError: it failed, so there is nothing to time.
    """
    started = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started
