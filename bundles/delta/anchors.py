"""Finding where a block went when it went far: by a few of its 8-byte words that are in the base as well.

The words looked at are chosen by their value (one in ``ONE_IN``), so that both files choose the same ones wherever they
lie. Finds a tensor that was moved any distance as long as some stretches of 8 bytes in it stayed what they were, which
holds up to about one changed weight in four; what changed everywhere is left to the correlation in ``make``.
Needs numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bundles.delta.files import Buffer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

WORD_BYTES = 8
ONE_IN_BITS = 10
ONE_IN = 1 << ONE_IN_BITS
"""Of the words of a file, so many times fewer are kept: 16 bytes of index for each KiB of base."""
CHUNK_BYTES = 1 << 20
LEAST_VOTES = 3
"""Anchors that must name the same shift: a single one may be chance."""
_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio, made odd: Fibonacci hashing (Knuth, volume 3, 6.4)."""


class Anchors:
    """The chosen words of a base, and where each lies.

    Args:
        base: read once, a chunk at a time.
    """

    def __init__(self, base: Buffer) -> None:
        import numpy as np

        words, places = (np.concatenate(column) for column in zip(*_chosen(base), strict=True))
        # A word that is there twice says nothing about where a block lies; runs of zeros are the usual case.
        self._words, first, counts = np.unique(words, return_index=True, return_counts=True)
        self._words, self._places = self._words[counts == 1], places[first][counts == 1]

    def shift_of(self, block: bytes, start: int) -> int | None:
        """Return the shift (old offset - new offset) that most anchors of a block agree upon; None = too few do.

        Args:
            block: bytes of the new file.
            start: its offset there.
        """
        import numpy as np

        words, places = next(_chosen(block, size=len(block)))
        if not len(words) or not len(self._words):
            return None
        at = np.minimum(np.searchsorted(self._words, words), len(self._words) - 1)
        hit = self._words[at] == words
        shifts, votes = np.unique(self._places[at[hit]] - places[hit], return_counts=True)
        if not len(votes) or votes.max() < LEAST_VOTES:
            return None
        return int(shifts[votes.argmax()]) - start


def _chosen(data: Buffer, size: int = CHUNK_BYTES) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]]:
    """Yield the chosen words of each chunk of ``data`` with their offsets; at least one pair, maybe empty."""
    import numpy as np

    for start in range(0, max(1, len(data)), max(1, size)):
        chunk = data[start : start + size + WORD_BYTES - 1]
        found: list[Any] = [np.zeros(0, np.uint64)]
        places: list[Any] = [np.zeros(0, np.int64)]
        for phase in range(min(WORD_BYTES, max(0, len(chunk) - WORD_BYTES + 1))):
            words = np.frombuffer(chunk, "<u8", (len(chunk) - phase) // WORD_BYTES, phase)
            picked = np.flatnonzero((words * np.uint64(_GOLDEN)) >> np.uint64(64 - ONE_IN_BITS) == 0)
            found.append(words[picked])
            places.append(picked.astype(np.int64) * WORD_BYTES + phase + start)
        yield np.concatenate(found), np.concatenate(places)
