"""Finds a one-byte change of a good .tflite file that kills the tflite-runtime process every time.

A damaged upload that still carries a valid signature: the publisher signed what the disk gave back. Each trial
is a fresh child process, so address-space randomisation differs from trial to trial, and the file is tried both
mapped from disk and copied into memory.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo_models import runtimes

RUNTIME = "tflite-runtime"
KILLED_BY = ("SIGSEGV", "SIGABRT", "SIGBUS")
CONFIRMATIONS = 20
LAST_SEED = 2000


@dataclass(frozen=True)
class Mutation:
    """The change found: the byte at `offset` goes from `was` to `now`."""

    seed: int
    offset: int
    was: int
    now: int
    signal: str

    def apply(self, data: bytes) -> bytes:
        """The damaged file."""
        return data[: self.offset] + bytes([self.now]) + data[self.offset + 1 :]


def find_mutation(base: bytes, scratch: Path, goldens: Path) -> Mutation:
    """Tries seeds in order and returns the first change that killed every one of 2 x 20 children.

    Args:
        base: A good file's bytes.
        scratch: Where to write the file under trial.
        goldens: Any goldens, in the folder of `digits-stream.npz`.

    Raises:
        LookupError: No seed up to `LAST_SEED` did.
    """
    for seed in range(LAST_SEED + 1):
        random = np.random.default_rng(seed)
        offset, now = int(random.integers(len(base))), int(random.integers(256))
        candidate = Mutation(seed, offset, base[offset], now, "")
        scratch.write_bytes(candidate.apply(base))
        first = runtimes.run(RUNTIME, scratch, goldens, rows=1).signal
        if first in KILLED_BY and all(
            runtimes.run(RUNTIME, scratch, goldens, rows=1, from_memory=from_memory).signal == first
            for _ in range(CONFIRMATIONS)
            for from_memory in (False, True)
        ):
            return Mutation(seed, offset, base[offset], now, first)
    raise LookupError(f"no one-byte change of seeds 0 to {LAST_SEED} kills {RUNTIME} every time")
