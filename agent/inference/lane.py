"""One loaded model and the process that answers for it, started again when it dies.

One request at a time: a model of an edge device runs on one thread, and waiting outside a runtime is cheaper than
inside. A request in flight when its worker dies is run once more on a new one. Leaves the contract, the guards and
which lane is the champion to ``engine``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from agent.errors import NotReady, WorkerLost
from agent.inference.backend import Placement, Tensors, open_backend
from agent.inference.launch import Launcher
from agent.inference.local import LocalModel
from agent.inference.spec import ModelSpec
from agent.inference.stats import Tally
from bundles.contract import Contract
from bundles.errors import WavegateError

LOAD_TIMEOUT_S = 60.0
"""For a large model on a slow card; a trial has loaded it before, under its own limits."""
RESTART_PAUSE_S = 1.0
"""After a restart that failed, so that requests do not load a broken model over and over."""
_ATTEMPTS = 2


class LaneClosed(Exception):
    """The lane was drained after a swap; ask the engine for its successor."""


class Holder(Protocol):
    """What holds the model: a worker process, or this process."""

    def run(self, inputs: Tensors, timeout_s: float) -> tuple[dict[str, Any], int]:
        """Run once; see ``process.ModelProcess.run``."""
        ...

    def is_alive(self) -> bool:
        """Return False when it has died."""
        ...

    def end(self) -> int:
        """Free the model."""
        ...


class Lane:
    """One loaded model.

    Args:
        spec: what to load.
        launcher: makes workers.
        clock: monotonic seconds.
        tally: counts crashes, hangs and retries.
    """

    def __init__(self, spec: ModelSpec, launcher: Launcher, clock: Callable[[], float], tally: Tally) -> None:
        self.spec = spec
        self.placement = Placement("", {})
        self._launcher = launcher
        self._clock = clock
        self._tally = tally
        self._lock = threading.Lock()
        self._holder: Holder | None = None
        self._retry_at = -np.inf
        self._closed = False
        self._is_resting = False

    def open(self) -> None:
        """Load the model and run it once, so that the first caller does not pay for lazy initialisation.

        Raises:
            ModelRefused: it cannot be loaded here.
            BackendUnavailable: its runtime does not work here.
            RunFailed: it loads and does not run.
            WorkerLost: the worker died or was late.
        """
        with self._lock:
            holder = self._load()
            try:
                holder.run(warm_up_inputs(self.spec.contract), LOAD_TIMEOUT_S)
            except BaseException:
                holder.end()
                raise
            self._holder = holder

    def run(self, inputs: Tensors) -> dict[str, Any]:
        """Run once, and once more when the worker is lost.

        Raises:
            LaneClosed: the lane was closed after a swap.
            InputRefused: a tensor the model file cannot take.
            RunFailed: the runtime reported an error.
            WorkerLost: the worker died, or was late, twice.
            NotReady: the worker cannot be started at present.
        """
        with self._lock:
            for attempt in range(1, _ATTEMPTS + 1):
                holder = self._ready()
                try:
                    return holder.run(inputs, self.spec.run_deadline_s)[0]
                except WorkerLost as error:
                    self._lost(error)
                    if attempt == _ATTEMPTS:
                        raise
                    self._tally.count_retry()
            raise AssertionError("unreachable")

    def is_ready(self) -> bool:
        """Return True when the model could answer now; does not wait for a run in progress."""
        holder = self._holder
        if self._closed or holder is None:
            return False
        if not self._lock.acquire(blocking=False):
            return True  # it is answering somebody
        try:
            return holder.is_alive()
        finally:
            self._lock.release()

    def revive(self) -> None:
        """Start the worker again if it has died while nobody asked; does nothing while it is answering."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            holder = self._holder
            if holder is not None and not holder.is_alive():
                self._lost(WorkerLost("The worker holding the model died between requests."))
            if not self._closed:
                self._ready()
        except NotReady:
            pass  # counted; tried again after the pause
        finally:
            self._lock.release()

    def worker_pid(self) -> int | None:
        """Return the worker's process id, or None where there is none."""
        return getattr(self._holder, "pid", None)

    def rest(self) -> None:
        """Wait for the run in progress, then free the model until ``wake``; requests are told so meanwhile."""
        with self._lock:
            self._is_resting = True
            if self._holder is not None:
                self._holder.end()
                self._holder = None

    def wake(self) -> None:
        """Load the model again; where that does not succeed at once, the next requests try."""
        with self._lock:
            self._is_resting = False
            if not self._closed:
                with contextlib.suppress(NotReady):  # counted
                    self._ready()

    def close(self) -> None:
        """Wait for the run in progress, then free the model. Being told twice is normal."""
        with self._lock:
            self._closed = True
            if self._holder is not None:
                self._holder.end()
                self._holder = None

    def _ready(self) -> Holder:
        if self._closed:
            raise LaneClosed
        if self._is_resting:
            raise NotReady(
                f"{self.spec.model} makes room for another release (swap: cold).",
                remedy="Ask again in some seconds: the new release answers then, or this one again.",
            )
        if self._holder is None:
            now = self._clock()
            if now < self._retry_at:
                raise NotReady(
                    f"The worker of {self.spec.model} cannot be started at present.",
                    remedy=f"It is tried again within {RESTART_PAUSE_S:g} s.",
                )
            try:
                self._holder = self._load()
            except (WavegateError, OSError) as error:
                self._retry_at = now + RESTART_PAUSE_S
                if isinstance(error, WorkerLost):
                    self._lost(error)
                raise NotReady(
                    f"The worker of {self.spec.model} could not be started: {error}",
                    remedy=f"It is tried again within {RESTART_PAUSE_S:g} s.",
                ) from error
        return self._holder

    def _lost(self, error: WorkerLost) -> None:
        if self._holder is not None:
            self._holder.end()
            self._holder = None
        self._tally.count_lost_worker(self._clock(), hang=error.code == "RUN_DEADLINE")

    def _load(self) -> Holder:
        spec = self.spec
        if spec.mode == "inproc":
            session = open_backend(spec.backend).load(spec.model_path, spec.accelerator, spec.options())
            self.placement = session.placement()
            return LocalModel(session, spec.run_deadline_s / 4)
        process = self._launcher.launch(spec.backend)
        try:
            self.placement = process.load(spec.load_message(), LOAD_TIMEOUT_S).placement
        except BaseException:
            process.end()
            raise
        return process


def warm_up_inputs(contract: Contract) -> dict[str, Any]:
    """Return one input the contract allows: zeros, or the nearest allowed value; 1 where a length is free."""
    inputs = {}
    for spec in contract.inputs:
        value = max(spec.min, 0.0) if spec.min is not None else 0.0
        value = min(spec.max, value) if spec.max is not None else value
        inputs[spec.name] = np.full([1 if dim is None else dim for dim in spec.shape], value, dtype=spec.dtype)
    return inputs
