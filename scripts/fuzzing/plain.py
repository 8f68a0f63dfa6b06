"""Fuzzing without anything to install: honest samples, seeded mutations, the same inputs every time."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fuzzing.target import Target

MAX_GENERATIONS = 4
"""How many mutations lie one on top of the other."""


@dataclass(frozen=True)
class Kept:
    """What a run came to.

    Attributes:
        executions: inputs tried.
        took_s: seconds that took.
        data: the input of the finding, None where nothing was found.
        error: what was found, as text.
    """

    executions: int
    took_s: float
    data: bytes | None
    error: str | None


def inputs(target: Target, runs: int, seed: int) -> Iterator[bytes]:
    """Yield the honest samples, then ``runs`` mutations; the same for the same ``seed``."""
    rng = random.Random(f"{seed}/{target.name}")
    honest = list(target.samples().values())
    yield from honest
    for _ in range(runs):
        data = rng.choice(honest)
        for _ in range(rng.randint(1, MAX_GENERATIONS)):
            data = target.mutate(data, rng)
        yield data


def run_and_keep(target: Target, runs: int, seed: int, corpus: Path | None = None) -> Kept:
    """Try the inputs of ``seed``; stop at the first finding.

    Args:
        target: what to fuzz.
        runs: how many mutations.
        seed: of all choices.
        corpus: folder to write every input to, or None.
    """
    if corpus is not None:
        corpus.mkdir()
    started, tried = time.monotonic(), 0
    for data in inputs(target, runs, seed):
        tried += 1
        if corpus is not None:
            (corpus / f"{tried:08}").write_bytes(data)
        try:
            target.try_one(data)
        except Exception as error:
            return Kept(tried, time.monotonic() - started, data, "".join(traceback.format_exception(error)))
    return Kept(tried, time.monotonic() - started, None, None)
