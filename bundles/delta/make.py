"""Making a delta: which stretch of the base each stretch of the new file resembles, and what is left over.

Runs where models are published or served, never on a device. For every block of the new file the aligner tries a few
shifts (old offset - new offset): the one before, 0, the difference of the lengths, those the caller knows of, those
found earlier; the cost of each is what zlib makes of the difference, so that a block in which *every* weight moved by
one still shows as cheap. Where all are dear it looks for the shift, first by anchors (any distance, see ``anchors``),
then nearby by correlation: that finds a tensor that moved although no two of its bytes in a row are what they were, for
which matching byte strings (as bsdiff does) cannot. Beyond half of ``WINDOW_BYTES`` such a tensor is not found.
The search needs numpy; without it those blocks are sent as they are.

Deterministic: the same two files give the same delta. Memory does not grow with the files, but for the anchors: some
40 MiB, and 16 KiB for each MiB of base.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from bundles.delta.anchors import Anchors
from bundles.delta.files import Buffer, digest_of
from bundles.delta.form import MAX_OPS, SUB_BZ2, Header, Op, Side, encode_header, max_delta_bytes
from bundles.delta.lanes import subtract

BLOCK_BYTES = 64 * 1024
SMALL_BLOCK_BYTES = 4 * 1024
SMALL_FILE_BYTES = 1024 * 1024
"""Below this, blocks are small: a file of two blocks has nothing to choose from."""
MAX_SHIFTS = 8
"""Shifts tried for a block, the most recently useful first."""
SWITCH_COST = 24
"""Bytes a change of shift must gain: about what one more op costs in the header."""
DEAR = 0.75
"""Above this share of the block's own cost a shift is no match, and another is looked for."""
CHEAP = 0.25
"""Below this share no other shift is tried."""
MAX_SEARCHES = 64
"""Correlations made for one delta, some 40 ms each; a model trained from nothing has no shift to be found."""
WINDOW_BYTES = 1 << 19
SAMPLE_BYTES = 1 << 12
ESTIMATE_MARGIN = 1.5
"""zlib's fastest level needs this much more than bzip2 at most; above it the residual is not even compressed."""


@dataclass(frozen=True)
class Made:
    """A delta that was made.

    Attributes:
        header: what it says.
        length: its bytes, header and residual.
    """

    header: Header
    length: int

    @property
    def ratio(self) -> float:
        """Its share of the new file."""
        return self.length / self.header.new.length if self.header.new.length else 1.0


def make_delta(
    old: Buffer, new: Buffer, sink: BinaryIO, *, shifts: Iterable[int] = (), max_bytes: int | None = None
) -> Made | None:
    """Write the delta from ``old`` to ``new``; None where it would be larger than ``max_bytes``.

    Args:
        old: the base.
        new: the file to be made.
        sink: takes the delta; holds rubbish where None is returned.
        shifts: further shifts (old offset - new offset) worth trying, such as those of tensors known to have moved.
        max_bytes: size from which it is of no use; None = that of ``form.max_delta_bytes``.
    """
    limit = max_delta_bytes(len(new)) if max_bytes is None else max_bytes
    aligner = _Aligner(old, new, shifts)
    ops = aligner.ops()
    if len(ops) > MAX_OPS or aligner.cost > ESTIMATE_MARGIN * limit:
        return None
    base, target = (Side(digest_of(data), len(data)) for data in (old, new))
    header = Header(SUB_BZ2, base, target, ops)
    head = encode_header(header)
    sink.write(head)
    written, compressor = len(head), bz2.BZ2Compressor(9)
    for op in ops:
        for residual in _residual(old, new, op):
            written += sink.write(compressor.compress(residual))
        if written > limit:
            return None
    written += sink.write(compressor.flush())
    return Made(header, written) if written <= limit else None


def _residual(old: Buffer, new: Buffer, op: Op) -> Iterator[bytes]:
    for start in range(0, op.length, BLOCK_BYTES):
        size = min(BLOCK_BYTES, op.length - start)
        piece = new[op.new_off + start : op.new_off + start + size]
        if op.old_off is not None:
            piece = subtract(piece, old[op.old_off + start : op.old_off + start + size])
        yield piece


class _Aligner:
    """Chooses a shift, or none, for every block of the new file."""

    def __init__(self, old: Buffer, new: Buffer, shifts: Iterable[int]) -> None:
        self._old, self._new = old, new
        self._shifts = list(dict.fromkeys([0, len(old) - len(new), *shifts]))
        self._block = BLOCK_BYTES if len(new) >= SMALL_FILE_BYTES else SMALL_BLOCK_BYTES
        self._searches = 0
        self._anchors: Anchors | None = None
        self.cost = 0

    def ops(self) -> list[Op]:
        """Return the ops, neighbours of one shift joined."""
        ops: list[Op] = []
        last: int | None = None
        for start in range(0, len(self._new), self._block):
            end = min(start + self._block, len(self._new))
            shift = self._choose(start, end, last)
            if ops and shift == last:
                ops[-1] = Op(ops[-1].new_off, end - ops[-1].new_off, ops[-1].old_off)
            else:
                ops.append(Op(start, end - start, None if shift is None else start + shift))
            last = shift
        return ops

    def _choose(self, start: int, end: int, last: int | None) -> int | None:
        block = self._new[start:end]
        plain = _cost(block)
        best: tuple[int, int | None] = (plain + (SWITCH_COST if last is not None else 0), None)

        def consider(shift: int) -> None:
            nonlocal best
            if 0 <= start + shift <= len(self._old) - len(block):
                cost = _cost(subtract(block, self._old[start + shift : end + shift]))
                best = min(best, (cost + (SWITCH_COST if shift != last else 0), shift), key=lambda pair: pair[0])

        for shift in self._shifts[:MAX_SHIFTS]:
            consider(shift)
            if best[0] < CHEAP * plain:
                break
        if best[0] > DEAR * plain and self._searches < MAX_SEARCHES:
            self._searches += 1
            if (anchored := self._anchored(block, start)) is not None:
                consider(anchored)
            if best[0] > DEAR * plain:
                found = _search(self._old, block, start + (last if last is not None else self._shifts[0]))
                if found is not None:
                    consider(found - start)
        cost, chosen = best
        self.cost += cost
        if chosen is not None:
            self._shifts = [chosen, *(other for other in self._shifts if other != chosen)]
        return chosen

    def _anchored(self, block: bytes, start: int) -> int | None:
        try:
            self._anchors = self._anchors or Anchors(self._old)
        except ImportError:
            return None
        return self._anchors.shift_of(block, start)


def _cost(block: bytes) -> int:
    return len(zlib.compress(block, 1))


def _search(old: Buffer, block: bytes, around: int) -> int | None:
    """Return the offset in ``old``, near ``around``, at which the beginning of ``block`` fits best; None = no idea."""
    try:
        import numpy as np
    except ImportError:
        return None
    first = max(0, min(around - WINDOW_BYTES // 2, len(old) - WINDOW_BYTES))
    window = np.frombuffer(old[first : first + WINDOW_BYTES], np.int8).astype(np.float64)
    middle = max(0, len(block) // 2 - SAMPLE_BYTES // 2)  # a block's edges may belong to its neighbours
    sample = np.frombuffer(block[middle : middle + SAMPLE_BYTES], np.int8).astype(np.float64)
    lags = len(window) - len(sample) + 1
    if lags < 1:
        return None
    sample -= sample.mean()
    # Cross-correlation by FFT; lags that would wrap round are cut off.
    product = np.fft.rfft(window) * np.conj(np.fft.rfft(sample, len(window)))
    match = np.fft.irfft(product, len(window))[:lags]
    sums, squares = (np.concatenate(([0.0], np.cumsum(v))) for v in (window, window * window))
    size = len(sample)
    spread = squares[size:] - squares[:-size] - (sums[size:] - sums[:-size]) ** 2 / size
    # Normalised: loud stretches of the base would otherwise win by loudness. 1.0 keeps silence from dividing by 0.
    best = int(np.argmax(match / np.sqrt(np.maximum(spread, 1.0))))
    return first + best - middle
