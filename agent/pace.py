"""How slowly an answer may arrive: whoever sends a byte now and then holds no download up for ever. Pure.

Trust metadata has a bound of its own (``bundles.trust.fetch``); this one is for everything else that is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from bundles.errors import TryAgain

WINDOW_S = 60.0
LEAST_BYTES = 4_096
"""Of one answer, in every ``WINDOW_S`` spent waiting for it: about 550 bit/s. A satellite modem at 2,400 bit/s and a
GPRS link at its worst bring four times as much; what is slower than this is cut off, kept, and asked for again."""


def paced(pieces: Iterable[bytes], now_s: Callable[[], float]) -> Iterator[bytes]:
    """Yield ``pieces`` as they come, as long as they come fast enough; time the receiver takes does not count.

    Args:
        pieces: as they arrive, not gathered: what is held back cannot be judged.
        now_s: any clock in seconds that only rises.

    Raises:
        TryAgain: ``ANSWER_SLOW``.
    """
    waited_s, count, asked_s = 0.0, 0, now_s()
    for piece in pieces:
        waited_s += now_s() - asked_s
        count += len(piece)
        if waited_s > WINDOW_S:
            if count < LEAST_BYTES:
                raise TryAgain(
                    f"The server sends too slowly: {count} bytes in {waited_s:.0f} s.",
                    code="ANSWER_SLOW",
                    remedy="Check the network; what has arrived of a file is kept, and the rest is asked for again.",
                )
            waited_s, count = 0.0, 0
        yield piece
        asked_s = now_s()
