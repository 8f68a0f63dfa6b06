"""Counts what one loaded model did, and flags it when it crashes or answers nonsense too often.

The two limits are the design's: 3 crashes or hangs within 5 minutes; guards tripped by more than 1 % of the last 200
requests. A flag stays up until another model is loaded: judging it (roll back, keep) is for the updater's core. Reads
no clock: the time of a crash is handed in, in seconds of any monotonic clock. Thread-safe.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundles.contract import TensorSpec

CRASH_LIMIT = 3
CRASH_WINDOW_S = 300.0
GUARD_WINDOW = 200
GUARD_LIMIT = GUARD_WINDOW // 100
CONSTANT_RUN_LIMIT = GUARD_WINDOW
"""So many identical answers in a row, to inputs that differ, are called a stuck model."""
MARKED = 64
"""Answers whose marks are kept, to count how many are different: 64 pairs of 32-bit checksums."""
LATENCY_SAMPLES = 512
_RANGE_TOLERANCE = 1e-3  # of the range: a softmax in float32 may end a hair above one
_HASHED_BYTES = 4096  # enough to see that an input is another one, and little enough for a large image


@dataclass(frozen=True)
class EngineStats:
    """A snapshot for one loaded model, from its load on.

    Attributes:
        requests: all of them; equals ok + errors + schema rejects.
        ok: answered.
        errors: reason -> count; reasons are ``crash``, ``deadline``, ``run``, ``nonfinite``, ``not_ready``.
        schema_rejects: contract code -> count; these never reached the model.
        crashes: deaths of the worker, whether or not a retry saved the request.
        hangs: runs ended at their deadline.
        retries: requests that were run a second time.
        nonfinite: answers withheld because they held NaN or an infinity.
        out_of_range: answers outside the contract's output range (given out all the same).
        distinct_inputs: different inputs among the last ``MARKED`` that were run.
        distinct_outputs: different answers among them.
        constant_run: identical answers in a row, to inputs that differ, up to now.
        observer_errors: times the observer raised.
        latency_p50_ms: end to end, over the last requests answered; None before the first.
        latency_p95_ms: as above.
        latency_p99_ms: as above.
        unhealthy: why the model is flagged, among ``crashes``, ``guards``, ``constant``; empty = healthy.
    """

    requests: int
    ok: int
    errors: Mapping[str, int]
    schema_rejects: Mapping[str, int]
    crashes: int
    hangs: int
    retries: int
    nonfinite: int
    out_of_range: int
    distinct_inputs: int
    distinct_outputs: int
    constant_run: int
    observer_errors: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    unhealthy: tuple[str, ...]


class Tally:
    """The counters of one loaded model."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ok = 0
        self._errors: Counter[str] = Counter()
        self._rejects: Counter[str] = Counter()
        self._crashes = self._hangs = self._retries = 0
        self._nonfinite = self._out_of_range = self._observer_errors = 0
        self._crash_times: deque[float] = deque(maxlen=CRASH_LIMIT)
        self._guards: deque[bool] = deque(maxlen=GUARD_WINDOW)
        self._guards_up = 0
        self._constant_run = 0
        self._last_marks = (0, 0)
        self._marks: deque[tuple[int, int]] = deque(maxlen=MARKED)
        self._latencies_ns: deque[int] = deque(maxlen=LATENCY_SAMPLES)
        self._flags: dict[str, None] = {}

    def count_ok(self, latency_ns: int) -> None:
        """Count an answered request."""
        with self._lock:
            self._ok += 1
            self._latencies_ns.append(latency_ns)

    def count_error(self, reason: str) -> None:
        """Count a request that ended in an error."""
        with self._lock:
            self._errors[reason] += 1

    def count_reject(self, code: str) -> None:
        """Count a request that broke the contract."""
        with self._lock:
            self._rejects[code] += 1

    def count_lost_worker(self, now_s: float, *, hang: bool) -> None:
        """Count a worker that died or was ended at its deadline."""
        with self._lock:
            if hang:
                self._hangs += 1
            else:
                self._crashes += 1
            self._crash_times.append(now_s)
            if len(self._crash_times) == CRASH_LIMIT and now_s - self._crash_times[0] <= CRASH_WINDOW_S:
                self._flags["crashes"] = None

    def count_retry(self) -> None:
        """Count a request that is run a second time."""
        with self._lock:
            self._retries += 1

    def count_observer_error(self) -> None:
        """Count an observer that raised."""
        with self._lock:
            self._observer_errors += 1

    def guard(
        self, specs: list[TensorSpec], inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> bool:
        """Look at an answer before it is given out.

        Returns:
            False when it holds values that are not finite and must be withheld.
        """
        finite = in_range = True
        for spec in specs:
            array = outputs[spec.name]
            if not array.size or array.dtype.kind not in "fiu":
                continue
            # Minimum and maximum carry NaN through and show infinities; fmin and fmax step over NaN.
            low, high = _bounds(array, spec.allow_missing)
            if not (math.isfinite(low) and math.isfinite(high)) and not (spec.allow_missing and math.isnan(low)):
                finite = False
            elif spec.min is not None or spec.max is not None:
                in_range = in_range and _is_inside(spec, low, high)
        marks = _mark(inputs), _mark(outputs)
        with self._lock:
            self._marks.append(marks)
            self._nonfinite += not finite
            self._out_of_range += finite and not in_range
            self._raise_guard(not (finite and in_range))
            if marks[0] != self._last_marks[0]:  # the same input again says nothing about a stuck model
                self._constant_run = self._constant_run + 1 if marks[1] == self._last_marks[1] else 0
                self._last_marks = marks
                if self._constant_run >= CONSTANT_RUN_LIMIT:
                    self._flags["constant"] = None
        return finite

    def snapshot(self) -> EngineStats:
        """Return the counters as they are now."""
        with self._lock:
            latencies = np.fromiter(self._latencies_ns, dtype=np.int64) / 1e6
            p50, p95, p99 = np.percentile(latencies, (50, 95, 99)).tolist() if len(latencies) else (None,) * 3
            return EngineStats(
                requests=self._ok + self._errors.total() + self._rejects.total(),
                ok=self._ok,
                errors=dict(self._errors),
                schema_rejects=dict(self._rejects),
                crashes=self._crashes,
                hangs=self._hangs,
                retries=self._retries,
                nonfinite=self._nonfinite,
                out_of_range=self._out_of_range,
                distinct_inputs=len({mark for mark, _ in self._marks}),
                distinct_outputs=len({mark for _, mark in self._marks}),
                constant_run=self._constant_run,
                observer_errors=self._observer_errors,
                latency_p50_ms=p50,
                latency_p95_ms=p95,
                latency_p99_ms=p99,
                unhealthy=tuple(self._flags),
            )

    def _raise_guard(self, up: bool) -> None:
        if len(self._guards) == GUARD_WINDOW:
            self._guards_up -= self._guards[0]
        self._guards.append(up)
        self._guards_up += up
        if self._guards_up > GUARD_LIMIT:
            self._flags["guards"] = None


def _bounds(array: NDArray[Any], allow_missing: bool) -> tuple[float, float]:
    if allow_missing and array.dtype.kind == "f":
        return float(np.fmin.reduce(array, axis=None)), float(np.fmax.reduce(array, axis=None))
    return float(np.minimum.reduce(array, axis=None)), float(np.maximum.reduce(array, axis=None))


def _is_inside(spec: TensorSpec, low: float, high: float) -> bool:
    floor = -math.inf if spec.min is None else spec.min
    ceiling = math.inf if spec.max is None else spec.max
    width = ceiling - floor
    slack = _RANGE_TOLERANCE * width if math.isfinite(width) else 0.0
    return floor - slack <= low and high <= ceiling + slack


def _mark(tensors: Mapping[str, NDArray[Any]]) -> int:
    mark = 0
    for array in tensors.values():
        mark = zlib.crc32(array.tobytes() if array.nbytes <= _HASHED_BYTES else _head(array), mark)
    return mark


def _head(array: NDArray[Any]) -> bytes:
    # Spread over the whole array: the top rows of an image are often the same sky.
    flat = array.reshape(-1)
    return bytes(flat[:: max(flat.size * flat.itemsize // _HASHED_BYTES, 1)].tobytes())
