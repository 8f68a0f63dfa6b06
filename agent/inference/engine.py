"""The engine behind every door: which model answers, what it may be asked, and what is counted.

One champion a model name; a swap loads and warms the new one, then replaces the reference and drains the old, so no
request falls between. Each request passes the signed contract first: a bad one is counted and never reaches a model.
A slot has room for a challenger and a shadow beside the champion. Leaves trials, slots on disk and the decision to
roll back to others.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent.errors import ModelUnknown, NotReady, RunFailed, SafeMode, WorkerLost
from agent.inference.backend import Placement, Tensors
from agent.inference.lane import Lane, LaneClosed
from agent.inference.launch import Launcher
from agent.inference.prediction import Prediction
from agent.inference.spec import ModelSpec
from agent.inference.stats import EngineStats, Tally
from bundles.contract import Contract, check
from bundles.errors import InputRefused, WavegateError

_log = logging.getLogger(__name__)

Observer = Callable[[Tensors, Mapping[str, Any] | None, int, str], None]
"""Told of each request: inputs, outputs (None without an answer), latency in nanoseconds end to end, and the outcome:
``ok``, ``reject:<code>`` or ``error:<reason>`` (reasons as in ``EngineStats.errors``)."""


@dataclass(frozen=True)
class ModelStatus:
    """What the engine says of one model.

    Attributes:
        spec: what is loaded.
        ready: it could answer now.
        placement: where it really runs.
        worker_pid: of its worker, None in process.
        stats: counted since it was loaded.
    """

    spec: ModelSpec
    ready: bool
    placement: Placement
    worker_pid: int | None
    stats: EngineStats


@dataclass(frozen=True)
class _Slot:
    """One model name's lanes. A challenger or a shadow would be further lanes here."""

    champion: Lane
    tally: Tally
    observer: Observer | None


class Engine:
    """Answers requests with the models it was told to load. Thread-safe.

    Args:
        clock: monotonic seconds; for crash windows and pauses.
        timer: nanoseconds; for latencies.
        new_id: makes prediction ids; by default a random prefix a process and a counter.
        launcher: makes workers, and stays open for others; by default the engine has one of its own.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        timer: Callable[[], int] = time.perf_counter_ns,
        new_id: Callable[[], str] | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        self._clock = clock
        self._timer = timer
        self._new_id = new_id or _counted_ids()
        self._launcher = launcher or Launcher()
        self._owns_launcher = launcher is None
        self._slots: dict[str, _Slot] = {}
        self._withheld: dict[str, str] = {}
        self._change = threading.Lock()

    def load(self, spec: ModelSpec, observer: Observer | None = None) -> Placement:
        """Load a model and make it the champion of its name; the one before answers until then.

        The old champion finishes the run in progress and is freed before this returns. When loading fails, nothing
        has changed.

        Args:
            spec: the model, which a trial has passed.
            observer: told of each request this model gets.

        Returns:
            Where it really runs.

        Raises:
            ModelRefused: it cannot be loaded here.
            BackendUnavailable: its runtime does not work here.
            RunFailed: it loads and does not run.
            WorkerLost: its worker died or was late.
        """
        tally = Tally()
        lane = Lane(spec, self._launcher, self._clock, tally)
        lane.open()
        with self._change:
            previous = self._slots.get(spec.model)
            self._slots[spec.model] = _Slot(lane, tally, observer)
            self._withheld.pop(spec.model, None)
        if previous is not None:
            previous.champion.close()
        return lane.placement

    @contextmanager
    def resting(self, model: str) -> Iterator[None]:
        """Free the memory of ``model`` for as long as the block lasts: its requests are refused with ``NOT_READY``.

        For ``swap: cold``, where two copies do not fit. Behind the block the champion is loaded again, unless ``load``
        has put another in its place; where that fails at once, the next requests try.
        """
        slot = self._slots.get(model)
        if slot is None:
            yield
            return
        slot.champion.rest()
        try:
            yield
        finally:
            slot.champion.wake()

    def unload(self, model: str) -> None:
        """Stop answering for ``model``; does nothing when it is not loaded."""
        with self._change:
            slot = self._slots.pop(model, None)
            self._withheld.pop(model, None)
        if slot is not None:
            slot.champion.close()

    def withhold(self, model: str, mode: str) -> None:
        """Stop answering for ``model`` on purpose: requests are refused with ``SAFE_MODE`` until it is loaded again.

        Args:
            model: ``team/model``.
            mode: the safe mode its bundle declares, ``stop`` or ``constant``.
        """
        self.unload(model)
        self._withheld[model] = mode

    def infer(self, inputs: Tensors, model: str | None = None) -> Prediction:
        """Answer one request.

        Args:
            inputs: tensor name -> array, exactly as the contract says.
            model: ``team/model``; may be left out where one model is loaded.

        Raises:
            ModelUnknown: no such model is loaded.
            SafeMode: it is withheld.
            InputRefused: the request breaks the contract.
            RunFailed: the model could not answer, or its answer was not finite (``OUTPUT_NONFINITE``).
            WorkerLost: the worker died, or was late, twice.
            NotReady: the worker cannot be started at present.
        """
        while True:
            slot = self._slot(model)
            try:
                return self._infer(slot, inputs)
            except LaneClosed:
                continue  # swapped between two lines: the successor answers, by its own contract

    def count_reject(self, code: str, model: str | None = None) -> None:
        """Count a request that a door refused before it had arrays to show, such as one that is not valid JSON.

        Raises:
            ModelUnknown: no such model is loaded.
        """
        slot = self._slot(model)
        slot.tally.count_reject(code)
        self._observe(slot, {}, None, 0, f"reject:{code}")

    def contract(self, model: str | None = None) -> Contract:
        """Return a loaded model's contract.

        Raises:
            ModelUnknown: no such model is loaded.
        """
        return self._slot(model).champion.spec.contract

    def models(self) -> list[ModelStatus]:
        """Return the state of every loaded model, by name."""
        return [self.status(name) for name in sorted(self._slots)]

    def status(self, model: str | None = None) -> ModelStatus:
        """Return the state of one model.

        Raises:
            ModelUnknown: no such model is loaded.
        """
        slot = self._slot(model)
        lane = slot.champion
        return ModelStatus(lane.spec, lane.is_ready(), lane.placement, lane.worker_pid(), slot.tally.snapshot())

    def stats(self, model: str | None = None) -> EngineStats:
        """Return what was counted for one model since it was loaded.

        Raises:
            ModelUnknown: no such model is loaded.
        """
        return self._slot(model).tally.snapshot()

    def tick(self) -> None:
        """Start again what died while nobody asked. To be called now and then; a request does the same."""
        for slot in list(self._slots.values()):
            slot.champion.revive()

    def close(self) -> None:
        """Drain and free everything. Being told twice is normal."""
        for model in list(self._slots):
            self.unload(model)
        if self._owns_launcher:
            self._launcher.close()

    def _slot(self, model: str | None) -> _Slot:
        slots = self._slots
        if model is None and len(slots) == 1:
            return next(iter(slots.values()))
        slot = slots.get(model) if model is not None else None
        if slot is None:
            wanted = model if model is not None or slots else next(iter(self._withheld), None)
            if wanted in self._withheld:
                raise _withheld_on_purpose(wanted, self._withheld[wanted])
            loaded = ", ".join(sorted(slots)) or "none"
            raise ModelUnknown(
                f"No model {model!r} is loaded." if model else "Several models are loaded, or none.",
                remedy=f"Name one of the loaded models: {loaded}.",
                details={"model": model},
            )
        return slot

    def _infer(self, slot: _Slot, inputs: Tensors) -> Prediction:
        spec = slot.champion.spec
        started = self._timer()
        try:
            check(spec.contract, inputs)
            outputs = slot.champion.run(inputs)
            if not slot.tally.guard(spec.contract.outputs, inputs, outputs):
                raise RunFailed(
                    "The model's answer held values that are not finite, and was withheld.",
                    code="OUTPUT_NONFINITE",
                    remedy="Send the request again; if it fails again, roll the model back.",
                )
        except InputRefused as error:
            slot.tally.count_reject(error.code)
            self._observe(slot, inputs, None, self._timer() - started, f"reject:{error.code}")
            raise
        except WavegateError as error:
            reason = _reason(error)
            slot.tally.count_error(reason)
            self._observe(slot, inputs, None, self._timer() - started, f"error:{reason}")
            raise
        latency_ns = self._timer() - started
        slot.tally.count_ok(latency_ns)
        self._observe(slot, inputs, outputs, latency_ns, "ok")
        return Prediction(outputs, spec.model, spec.version, spec.sha256, latency_ns / 1e6, self._new_id())

    def _observe(
        self, slot: _Slot, inputs: Tensors, outputs: Mapping[str, Any] | None, latency_ns: int, outcome: str
    ) -> None:
        if slot.observer is None:
            return
        try:
            slot.observer(inputs, outputs, latency_ns, outcome)
        except Exception:  # watching must never cost an answer; it is counted, and logged once a model
            if slot.tally.snapshot().observer_errors == 0:
                _log.exception("the observer of %s failed", slot.champion.spec.model)
            slot.tally.count_observer_error()


def _withheld_on_purpose(model: str, mode: str) -> SafeMode:
    return SafeMode(
        f"{model} was revoked and is in its safe mode {mode!r}.",
        remedy="Use the value that your application keeps for this case; a new release ends it."
        if mode == "constant"
        else "Go on without this model; a new release ends it.",
        details={"model": model, "mode": mode},
    )


def _reason(error: WavegateError) -> str:
    if isinstance(error, WorkerLost):
        return "deadline" if error.code == "RUN_DEADLINE" else "crash"
    if isinstance(error, NotReady):
        return "not_ready"
    return "nonfinite" if error.code == "OUTPUT_NONFINITE" else "run"


def _counted_ids() -> Callable[[], str]:
    prefix = secrets.token_hex(8)
    counter = itertools.count(1)
    return lambda: f"{prefix}-{next(counter):x}"
