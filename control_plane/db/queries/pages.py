"""Cutting one page out of ``limit + 1`` rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
K = TypeVar("K")


def cut(rows: Sequence[T], limit: int, key: Callable[[T], K]) -> tuple[list[T], K | None]:
    """Return the first ``limit`` of ``rows`` and the key to go on from, None where nothing follows.

    Args:
        rows: up to ``limit + 1`` rows in list order.
        limit: size of a page, at least 1.
        key: the keyset position of a row.
    """
    page = list(rows[:limit])
    return page, key(page[-1]) if len(rows) > limit else None
