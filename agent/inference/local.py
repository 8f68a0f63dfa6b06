"""A model held by the agent's own process: ``mode = "inproc"``, opt-in a bundle, after a trial has passed."""

from __future__ import annotations

import threading
import time
from typing import Any

from agent.errors import WorkerLost
from agent.inference.backend import Session, Tensors
from bundles.errors import WavegateError


class LocalModel:
    """A model in this process: nothing between caller and runtime, and nothing between a crash and the agent.

    A late run is asked to stop; where the runtime cannot stop it, its caller waits.

    Args:
        session: the loaded model; freed by ``end``.
        look_every_s: how often a run in progress is looked at.
    """

    def __init__(self, session: Session, look_every_s: float) -> None:
        self._session = session
        self._look_every_s = look_every_s
        self._due: float | None = None
        self._cancelled = False
        self._ended = threading.Event()
        self._watchdog: threading.Thread | None = None

    def run(self, inputs: Tensors, timeout_s: float) -> tuple[dict[str, Any], int]:
        """Run once; see ``process.ModelProcess.run``."""
        if self._watchdog is None:  # one thread a model, not one timer a call: a timer costs more than the bar allows
            self._watchdog = threading.Thread(target=self._watch, name="inproc-watchdog", daemon=True)
            self._watchdog.start()
        started = time.perf_counter_ns()
        self._due = time.monotonic() + timeout_s
        try:
            outputs = self._session.run(inputs)
        except WavegateError as error:
            if self._cancelled:
                raise WorkerLost(
                    f"The model did not answer within {timeout_s:g} s and was stopped.",
                    code="RUN_DEADLINE",
                    remedy="It is loaded again; send the request again.",
                ) from error
            raise
        finally:
            self._due = None
        return outputs, time.perf_counter_ns() - started

    def is_alive(self) -> bool:
        """Return True until it is ended."""
        return not self._ended.is_set()

    def end(self) -> int:
        """Free the model. Being told twice is normal."""
        self._ended.set()
        if self._watchdog is not None:
            self._watchdog.join()
            self._watchdog = None
        self._session.close()
        return 0

    def _watch(self) -> None:
        while not self._ended.wait(self._look_every_s):
            due = self._due
            if due is not None and time.monotonic() > due:
                self._cancelled = True
                self._session.cancel()
