"""Runs each model once for a whole fleet: trials for real, then every row of the stream answered once, for real.

A trial happens in a throwaway child exactly as on a real device, once per bundle and variant; every device is told the
same result, so a model that kills its runtime is ``native_crash`` on all of them. An activated model is loaded in one
isolated worker, which answers the rows of the stream one after the other, in an order shuffled by the seed. Devices
look their answers up by row: class, confidence and latency are those really measured, on this machine, once. What is
not simulated: contention between models on one device, thermal limits, and a model whose answer depends on the past.

A slow model is answered in the background, at half of a core at most; devices then see the rows answered so far.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.inference.engine import Engine
from agent.inference.spec import ModelSpec
from agent.inference.trial import TrialResult, TrialSpec, run_deadline_s, run_trial
from agent.monitor import MonitorPlan
from agent.runner.edges import StagedBundle
from agent.runner.stream import StreamRows
from bundles.contract import Contract
from bundles.errors import WavegateError
from bundles.sketch.columns import PREDICTED_CLASS, classification_columns, classify, input_columns

FIRST_ROWS = 4
"""Answered before an activation is over, so that a device that is active has something to show."""


@dataclass(frozen=True)
class RowAnswer:
    """What one model really answered to one row.

    Attributes:
        outcome: ``ok`` or ``error:<reason>``.
        class_index: predicted class, None without an answer.
        is_right: whether that is the row's label.
        latency_ns: as measured.
        columns: column name -> value, for sketches; without ``predicted_class``.
    """

    outcome: str
    class_index: int | None
    is_right: bool
    latency_ns: int
    columns: Mapping[str, float]


class SharedModel:
    """One bundle and variant, loaded once, with what it answered so far.

    Args:
        bundle: the bundle, in the slot of the first device that asked.
        model_path: a copy of its model file that outlives that slot.
        rows: the stream.
        engine: runs it.
        deadline_s: of one run.
        order: rows in the order they are answered.

    Attributes:
        plan: its baseline, ready for any number of monitors; None where it has none.
        accelerator: where it runs.
    """

    def __init__(
        self,
        bundle: StagedBundle,
        model_path: Path,
        rows: StreamRows,
        engine: Engine,
        deadline_s: float,
        order: Sequence[int],
    ) -> None:
        self.contract: Contract = bundle.contract
        baseline = bundle.baseline()
        self.plan = MonitorPlan(baseline) if baseline is not None else None
        self._rows, self._engine, self._order = rows, engine, order
        self._name = f"{bundle.manifest.model_key}@{bundle.release.sha256[:12]}.{bundle.variant.id}"
        self._spec = ModelSpec(
            model=self._name,
            sha256=bundle.release.sha256,
            version=bundle.manifest.version,
            variant_id=bundle.variant.id,
            backend=bundle.variant.runtime,
            model_path=model_path,
            contract=self.contract,
            accelerator=bundle.variant.execution_provider,
            run_deadline_s=deadline_s,
        )
        self._answers: dict[bool, list[RowAnswer]] = {False: [], True: []}
        self._is_blur_wanted = False
        self._changed = threading.Condition()
        self._is_closed = False
        self.accelerator = engine.load(self._spec).accelerator
        self._thread = threading.Thread(target=self._fill, name=f"rows-{bundle.manifest.version}", daemon=True)
        self._thread.start()

    def wait(self, rows: int = FIRST_ROWS) -> None:
        """Return once so many rows are answered."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._answers[False]) >= min(rows, len(self._rows)))

    def answer(self, cursor: int, *, is_blurred: bool) -> RowAnswer | None:
        """Return the answer to the row at ``cursor`` (any number), None before the first of its kind."""
        answers = self._answers[is_blurred]
        if is_blurred and not self._is_blur_wanted:
            with self._changed:
                self._is_blur_wanted = True
                self._changed.notify_all()
        return answers[cursor % len(answers)] if answers else None

    def latency_p95_ms(self) -> float | None:
        """Return the 95th percentile of the latencies measured, in milliseconds."""
        latencies = sorted(answer.latency_ns for answer in list(self._answers[False]) if answer.outcome == "ok")
        return latencies[int(0.95 * (len(latencies) - 1))] / 1e6 if latencies else None

    def close(self) -> None:
        """Stop answering and free the worker. Being told twice is normal."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._engine.unload(self._name)

    def _fill(self) -> None:
        for is_blurred in (False, True):
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or not is_blurred or self._is_blur_wanted)  # noqa: B023
            columns = self._input_columns(is_blurred)
            for row in self._order:
                if self._is_closed:
                    return
                started = time.perf_counter()
                answer = self._ask(row, is_blurred, {name: values[row] for name, values in columns.items()})
                with self._changed:
                    self._answers[is_blurred].append(answer)
                    self._changed.notify_all()
                if len(self._answers[is_blurred]) > FIRST_ROWS:
                    time.sleep(time.perf_counter() - started)  # half of a core at most

    def _input_columns(self, is_blurred: bool) -> dict[str, list[float]]:
        spec = self.contract.inputs[0]
        images = self._rows.blurred if is_blurred else self._rows.x
        shape = (len(self._rows), *(spec.shape[1:] if spec.shape and spec.shape[0] in (1, None) else spec.shape))
        tensors = {spec.name: images.astype(spec.dtype).reshape([1 if n is None else n for n in shape])}
        return {name: values.tolist() for name, values in input_columns(tensors, self.contract.inputs).items()}

    def _ask(self, row: int, is_blurred: bool, inputs: Mapping[str, float]) -> RowAnswer:
        started = time.perf_counter_ns()
        try:
            prediction = self._engine.infer(self._rows.inputs(row, self.contract, is_blurred=is_blurred), self._name)
        except WavegateError as error:
            reason = {"WORKER_CRASHED": "crash", "RUN_DEADLINE": "deadline", "OUTPUT_NONFINITE": "nonfinite"}
            outcome = f"error:{reason.get(error.code, 'run')}"
            return RowAnswer(outcome, None, False, time.perf_counter_ns() - started, inputs)
        found = classify(prediction.outputs, self.contract.outputs, self.contract.labels)
        latency_ns = round(prediction.latency_ms * 1e6)
        if found is None:
            return RowAnswer("ok", None, False, latency_ns, inputs)
        outputs = {
            name: float(values[0])
            for name, values in classification_columns(found, self.contract.labels).items()
            if name != PREDICTED_CLASS
        }
        index = int(found.index[0])
        return RowAnswer("ok", index, index == int(self._rows.y[row]), latency_ns, {**inputs, **outputs})


class ModelHost:
    """The models of a fleet. Thread-safe.

    Args:
        folder: keeps a copy of each model file in use.
        rows: the stream every device watches.
        seed: shuffles the order in which rows are answered.
    """

    def __init__(self, folder: Path, rows: StreamRows, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._rows, self._engine = folder, rows, Engine()
        self._order = list(range(len(rows)))
        random.Random(seed).shuffle(self._order)
        self._lock = threading.Lock()
        self._keys: dict[tuple[str, str], threading.Lock] = {}
        self._trials: dict[tuple[str, str], TrialResult] = {}
        self._models: dict[tuple[str, str], tuple[SharedModel, int]] = {}

    def try_out(self, bundle: StagedBundle) -> TrialResult:
        """Try the bundle's variant in a child, or return what that found for the first device that asked."""
        key = _key(bundle)
        with self._lock_of(key):
            if key not in self._trials:
                spec = ModelSpec(
                    model=bundle.manifest.model_key,
                    sha256=bundle.release.sha256,
                    version=bundle.manifest.version,
                    variant_id=bundle.variant.id,
                    backend=bundle.variant.runtime,
                    model_path=bundle.model_path,
                    contract=bundle.contract,
                    accelerator=bundle.variant.execution_provider,
                )
                trial = TrialSpec(spec, bundle.path_of("goldens"), bundle.manifest.health_check)
                self._trials[key] = run_trial(trial)
            return self._trials[key]

    def open(self, bundle: StagedBundle) -> SharedModel:
        """Return the bundle's model, loaded now or before; each call needs one ``release``.

        Raises:
            WavegateError: it cannot be loaded.
        """
        key = _key(bundle)
        with self._lock_of(key):
            with self._lock:
                model, users = self._models.get(key, (None, 0))
            if model is None:
                known = self._trials.get(key)
                deadline_s = run_deadline_s(known.latency_p99_ms if known else None)
                path = self._folder / f"{bundle.release.sha256[:16]}-{bundle.variant.id}{bundle.model_path.suffix}"
                shutil.copyfile(bundle.model_path, path)
                model = SharedModel(bundle, path, self._rows, self._engine, deadline_s, self._order)
            with self._lock:
                self._models[key] = (model, users + 1)
        model.wait()
        return model

    def release(self, bundle: StagedBundle) -> None:
        """Give up one use; a model nobody uses is freed."""
        key = _key(bundle)
        with self._lock_of(key):
            with self._lock:
                model, users = self._models.pop(key)
                if users > 1:
                    self._models[key] = (model, users - 1)
                    return
            model.close()

    def close(self) -> None:
        """Free everything."""
        with self._lock:
            models = [model for model, _ in self._models.values()]
            self._models.clear()
        for model in models:
            model.close()
        self._engine.close()

    def _lock_of(self, key: tuple[str, str]) -> threading.Lock:
        with self._lock:
            return self._keys.setdefault(key, threading.Lock())


def _key(bundle: StagedBundle) -> tuple[str, str]:
    return bundle.release.sha256, bundle.variant.id
