"""Deltas between the files of one model's releases: made when first asked for, kept beside the blobs, offered if small.

Making one takes seconds of one core, so: one at a time, on a thread of its own; whoever asks for the same pair waits
for the same work; only so many pairs wait; and that a pair is *not* worth a delta is remembered like a delta (an entry
of no bytes). Only files of releases of one model are compared, so that a device can make the server work on nothing but
what some release holds. Nothing is signed: a device compares what a delta makes with what the manifest says.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import structlog

from bundles.delta.files import opened
from bundles.delta.form import MIN_FILE_BYTES
from bundles.delta.make import make_delta
from bundles.digest import is_sha256
from bundles.errors import TryAgain, WavegateError
from bundles.manifest import parse_manifest
from control_plane import metrics
from control_plane.db.engine import Database
from control_plane.db.queries.files import releases_beyond
from control_plane.errors import NotFound
from control_plane.storage import Blobs

log = structlog.get_logger(__name__)
PREFIX = "deltas"


@dataclass(frozen=True)
class DeltaLimits:
    """What the server lends itself to.

    Attributes:
        file_bytes: largest file compared: a minute or two of one core, and twice as much on the scratch disk. Memory
            does not grow with it (``bundles.delta.make``).
        cache_bytes: of all deltas kept.
        waiting: pairs at work or in line; with more, a device is asked to come back.
    """

    file_bytes: int = 1024**3
    cache_bytes: int = 1024**3
    waiting: int = 32


class Deltas:
    """The deltas of one server.

    Args:
        db: knows which files belong to which model.
        blobs: the files; deltas are kept beside them.
        scratch: folder for work in progress; the system's where None.
        limits: see ``DeltaLimits``.
    """

    def __init__(
        self, db: Database, blobs: Blobs, scratch: Path | None = None, limits: DeltaLimits | None = None
    ) -> None:
        self._db, self._blobs, self._scratch = db, blobs, scratch
        self._limits = limits or DeltaLimits()
        self._kept = blobs.derived(PREFIX, self._limits.cache_bytes)
        self._lock = threading.Lock()
        self._models: defaultdict[str, set[str]] = defaultdict(set)
        self._releases: set[str] = set()
        self._running: dict[str, Future[int]] = {}
        self._line: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None

    def ask(self, old: str, new: str) -> Future[int]:
        """Return the length in bytes of the delta between two blobs, as soon as it is known; 0 = none is offered.

        Raises:
            TryAgain: ``DELTA_BUSY``: others wait already.
        """
        answer: Future[int] = Future()
        answer.set_running_or_notify_cancel()  # no one who stops waiting can cancel it for the others
        if old == new or not (is_sha256(old) and is_sha256(new)):
            answer.set_result(0)
            return answer
        known = self._kept.length(_name(old, new))
        if known is not None:
            metrics.DELTA_CACHE_HITS.inc()
        elif not self._is_fit(old, new):
            known = 0  # not kept: a release published later may make it fit
        if known is not None:
            answer.set_result(known)
            return answer
        with self._lock:
            if running := self._running.get(_name(old, new)):
                return running
            if len(self._running) >= self._limits.waiting:
                raise TryAgain(
                    "The server makes other deltas at present.",
                    code="DELTA_BUSY",
                    remedy="Ask again in a while, or fetch the whole file.",
                )
            self._running[_name(old, new)] = answer
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="deltas", daemon=True)
                self._worker.start()
        self._line.put((old, new))
        return answer

    def open(self, old: str, new: str, offset: int, length: int) -> Iterator[bytes]:
        """Yield ``length`` bytes of a delta from ``offset`` on."""
        return self._kept.open(_name(old, new), offset, length)

    def count_served(self, new: str, length: int) -> None:
        """Count a delta of ``length`` bytes that begins to be sent in place of the blob ``new``."""
        metrics.DELTAS_SERVED.inc()
        metrics.DELTA_BYTES_SAVED.inc(self._blobs.length(new) - length)

    def close(self) -> None:
        """End the work after the pair at hand; being told twice is normal."""
        self._line.put(None)

    def _is_fit(self, old: str, new: str) -> bool:
        """Whether a delta may be tried: files of one model, worth it, and not too large."""
        if not self._are_of_one_model(old, new):
            return False
        try:
            lengths = (self._blobs.length(old), self._blobs.length(new))
        except NotFound:
            return False
        return lengths[1] >= MIN_FILE_BYTES and max(lengths) <= self._limits.file_bytes

    def _are_of_one_model(self, old: str, new: str) -> bool:
        with self._lock:
            if not self._models.get(old, set()) & self._models.get(new, set()):
                self._learn()  # of releases published since
            return bool(self._models.get(old, set()) & self._models.get(new, set()))

    def _learn(self) -> None:
        with self._db.read() as session:
            rows = releases_beyond(session, self._releases)
        for sha256, manifest_json in rows:
            manifest = parse_manifest(manifest_json.encode())
            for entry in manifest.files:
                self._models[entry.sha256].add(manifest.model_key)
            self._releases.add(sha256)

    def _work(self) -> None:
        while (pair := self._line.get()) is not None:
            name = _name(*pair)
            try:
                length = self._make(*pair)
            except (WavegateError, OSError) as error:
                # Not remembered: the disk may have room the next time. Until then devices fetch the whole file.
                log.warning("delta failed", pair=name, error=str(error))
                metrics.DELTAS_BUILT.labels(outcome="failed").inc()
                length = 0
            except Exception as error:
                log.error("delta failed", pair=name, exc_info=error)
                metrics.DELTAS_BUILT.labels(outcome="failed").inc()
                length = 0
            with self._lock:
                answer = self._running.pop(name)
            answer.set_result(length)

    def _make(self, old: str, new: str) -> int:
        with tempfile.TemporaryDirectory(prefix="delta-", dir=self._scratch) as folder:
            paths = [Path(folder) / name for name in ("old", "new", "delta")]
            for path, sha256 in zip(paths, (old, new), strict=False):
                with path.open("wb") as sink:
                    sink.writelines(self._blobs.open(sha256))
            with opened(paths[0]) as base, opened(paths[1]) as target, paths[2].open("w+b") as sink:
                made = make_delta(base, target, sink)
                length = made.length if made else 0
                sink.seek(0)
                self._kept.put(_name(old, new), sink if made else b"")
        metrics.DELTAS_BUILT.labels(outcome="made" if length else "useless").inc()
        log.info("delta made", old=old, new=new, bytes=length)
        return length


def being_made() -> TryAgain:
    """Return what a device is told that cannot be kept waiting for a delta."""
    return TryAgain("The delta is being made.", code="DELTA_BUILDING", remedy="Ask again, or fetch the whole file.")


def not_offered() -> NotFound:
    """Return what a device is told where there is no delta."""
    return NotFound("No delta between these two is offered.", code="DELTA_NOT_OFFERED", remedy="Fetch the whole file.")


def _name(old: str, new: str) -> str:
    return f"{old}-{new}"
