"""What was fetched and had to be thrown away, by file, across restarts: so that nothing is fetched in vain for ever.

A link that breaks, with something on the way that cannot resume (a proxy that drops ``Range``), fetches the first half
of a file again and again; each try looks like progress. And a delta that made nothing would be asked for again whenever
the whole file has not begun to come either. Leaves wrong bytes to the updater, which counts them itself
(``agent.core.reasons.WRONG_CONTENT``). Rules:

* once as much was thrown away as the file is long, it rests: a quarter of an hour, doubling each time, a day at most;
* a file whose delta failed comes whole from then on;
* a file that came is forgotten, and of those that did not the newest are remembered.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass

from bundles.errors import TryAgain

FIRST_REST_MS = 900_000
MAX_REST_MS = 86_400_000
MAX_FILES = 64


@dataclass
class _File:
    """One file's record.

    Attributes:
        lost: bytes thrown away since the last rest began.
        total: bytes thrown away altogether.
        rests: how many there were.
        until_ms: end of the last, UTC epoch ms.
        had_delta: whether a delta was tried, and failed.
    """

    lost: int = 0
    total: int = 0
    rests: int = 0
    until_ms: int = 0
    had_delta: bool = False


class Losses:
    """The record of one device. From any thread.

    Args:
        wall_ms: UTC epoch ms.
        kept: what ``keep`` was given last, empty if nothing (any more).
        keep: makes the record durable.
    """

    def __init__(
        self,
        wall_ms: Callable[[], int],
        kept: bytes = b"",
        keep: Callable[[bytes], None] = lambda _data: None,
    ) -> None:
        self._wall_ms, self._keep = wall_ms, keep
        self._lock = threading.Lock()
        self._files = _read(kept)

    def check(self, sha256: str) -> None:
        """Check that a file does not rest.

        Raises:
            TryAgain: ``DOWNLOAD_IN_VAIN``.
        """
        with self._lock:
            file = self._files.get(sha256)
            left_ms = file.until_ms - self._wall_ms() if file else 0
            # More than a day ahead: the clock was wrong then, or is now.
            if file is not None and 0 < left_ms <= MAX_REST_MS:
                raise _in_vain(file, left_ms)

    def add(self, sha256: str, length: int, count: int) -> None:
        """Count ``count`` bytes of a file of ``length`` that were thrown away.

        Raises:
            TryAgain: ``DOWNLOAD_IN_VAIN``: that was the file's length once more, and it rests from now on.
        """
        with self._lock:
            file = self._file(sha256)
            file.lost += count
            file.total += count
            if file.lost < length:
                return self._write()
            rest_ms = min(MAX_REST_MS, FIRST_REST_MS * 2 ** min(file.rests, 16))
            file.lost, file.rests, file.until_ms = 0, file.rests + 1, self._wall_ms() + rest_ms
            self._write()
            raise _in_vain(file, rest_ms)

    def delta_failed(self, sha256: str) -> None:
        """Note that the delta to a file made nothing."""
        with self._lock:
            self._file(sha256).had_delta = True
            self._write()

    def had_delta(self, sha256: str) -> bool:
        """Whether the delta to a file has failed."""
        with self._lock:
            return sha256 in self._files and self._files[sha256].had_delta

    def came(self, sha256: str) -> None:
        """Forget a file that is here."""
        with self._lock:
            if sha256 in self._files:
                del self._files[sha256]
                self._write()

    def _file(self, sha256: str) -> _File:
        file = self._files.pop(sha256) if sha256 in self._files else _File()
        self._files[sha256] = file  # the newest goes last
        while len(self._files) > MAX_FILES:
            del self._files[next(iter(self._files))]
        return file

    def _write(self) -> None:
        files = {sha256: asdict(file) for sha256, file in self._files.items()}
        self._keep(json.dumps({"v": 1, "files": files}).encode("ascii"))


def _read(kept: bytes) -> dict[str, _File]:
    try:
        files = json.loads(kept)["files"].items()
        return {
            str(sha256): _File(
                int(found["lost"]),
                int(found["total"]),
                int(found["rests"]),
                int(found["until_ms"]),
                bool(found["had_delta"]),
            )
            for sha256, found in files
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # never written, or damaged: a few more tries than meant


def _in_vain(file: _File, left_ms: int) -> TryAgain:
    return TryAgain(
        f"{file.total} bytes were fetched in vain: the download breaks off, and what answers cannot go on from there.",
        code="DOWNLOAD_IN_VAIN",
        remedy=f"Look for a proxy that drops Range; it is asked for again in {-(-left_ms // 60_000)} minutes.",
    )
