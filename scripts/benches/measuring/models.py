"""Pairs of model files as releases follow one another, from a seed: what deltas are measured on.

int8 weights have the spread of a trained layer (6.7 bits of entropy, hardly compressible by themselves); float32 ones
are normal with a standard deviation of 0.05. Written a tensor of at least ``TENSOR`` values at a time, so that files of
any size can be made in little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SEED = 20
TENSOR = 1 << 20
HEAD_BYTES = 256 * 1024
Rng = np.random.Generator
Int8 = npt.NDArray[np.int8]
Bytes2 = tuple[bytes, bytes]


@dataclass(frozen=True)
class Case:
    """One way a release differs from the one before.

    Attributes:
        name: for the figure.
        what: in words.
        tensor: (random numbers, values, whether it is the last tensor) -> old and new bytes.
        value_bytes: of one value.
    """

    name: str
    what: str
    tensor: Callable[[Rng, int, bool], Bytes2]
    value_bytes: int = 1


def write_pair(case: Case, folder: Path, size: int) -> tuple[Path, Path]:
    """Write the two files of ``case``, of about ``size`` bytes each; return the old and the new one.

    Raises:
        OSError: the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old, new = folder / "old.bin", folder / "new.bin"
    with old.open("wb") as before, new.open("wb") as after:
        for left, right in _tensors(case, size // case.value_bytes):
            before.write(left)
            after.write(right)
    return old, new


def _tensors(case: Case, count: int) -> Iterator[Bytes2]:
    rng, left = np.random.default_rng(SEED), count
    while left:
        size = TENSOR if left >= 2 * TENSOR else left  # the last one is never a stump: a head fits into it
        left -= size
        yield case.tensor(rng, size, not left)


def _int8(rng: Rng, count: int) -> Int8:
    weights: Int8 = np.clip(np.round(rng.normal(0, 25.2, count)), -127, 127).astype(np.int8)
    return weights


def _moved(share: float) -> Callable[[Rng, int, bool], Bytes2]:
    def tensor(rng: Rng, count: int, is_last: bool) -> Bytes2:
        old = _int8(rng, count)
        step = (rng.random(count) < share) * rng.choice(np.array([-1, 1]), count)
        return old.tobytes(), np.clip(old + step, -127, 127).astype(np.int8).tobytes()

    return tensor


def _head(rng: Rng, count: int, is_last: bool) -> Bytes2:
    old = _int8(rng, count).tobytes()
    size = min(HEAD_BYTES, count) if is_last else 0
    return old, old[: count - size] + _int8(rng, size).tobytes()


def _float32(rng: Rng, count: int) -> npt.NDArray[np.float32]:
    return rng.normal(0, 0.05, count).astype(np.float32)


def _tuned(share: float) -> Callable[[Rng, int, bool], Bytes2]:
    def tensor(rng: Rng, count: int, is_last: bool) -> Bytes2:
        old = _float32(rng, count)
        step = 1 + (rng.random(count) < share) * rng.normal(0, 1e-3, count)
        return old.tobytes(), (old * step).astype(np.float32).tobytes()

    return tensor


def _requantized(rng: Rng, count: int, is_last: bool) -> Bytes2:
    weights = rng.normal(0, 25.2, count)  # the same weights, and a scale that has moved by half a percent

    def quantized(scale: float) -> bytes:
        return bytes(np.clip(np.round(weights * scale), -127, 127).astype(np.int8))

    return quantized(1.0), quantized(1.005)


def _strangers(rng: Rng, count: int, is_last: bool) -> Bytes2:
    return _int8(rng, count).tobytes(), _int8(rng, count).tobytes()


PAGE = (
    Case("int8_1pct", "int8, 1 % of the weights moved by one", _moved(0.01)),
    Case("int8_10pct", "int8, 10 % of the weights moved by one", _moved(0.10)),
    Case("int8_100pct", "int8, every weight moved by one", _moved(1.0)),
    Case("int8_head", "int8, a new head of 256 KiB", _head),
)
"""The four cases of the design page."""
FURTHER = (
    Case("int8_requantized", "int8, the same weights quantized again, scale +0.5 %", _requantized),
    Case("fp32_10pct", "float32, 10 % of the weights tuned by 1e-3", _tuned(0.10), 4),
    Case("fp32_100pct", "float32, every weight tuned by 1e-3", _tuned(1.0), 4),
    Case("int8_strangers", "int8, two models with nothing in common", _strangers),
)
