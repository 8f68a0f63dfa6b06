"""Feeds one model's sketches and cuts its windows.

The inference engine tells it of every request; the runner asks for a window when a report is due. Leaves the form of
sketches to ``bundles.sketch``, the report's rhythm and the spool to the runner. Thread-safe: requests arrive on many
threads, and what is slow (reading tensors) is done before the lock is taken.

What an outcome counts for: ``ok`` counts the answer, its latency, classes and every column; ``error:<reason>`` counts
the error and the input columns, so that an input that breaks the model still shows; ``reject:<code>`` counts the
rejection only, because a refused input has no distribution the baseline speaks of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bundles.contract import Contract
from bundles.sketch.baseline import baseline_id, parse_baseline
from bundles.sketch.columns import PREDICTED_CLASS, classification_columns, classify, input_columns, output_columns
from bundles.sketch.form import Window
from bundles.sketch.latency import LatencyRecorder
from bundles.sketch.update import WindowBuilder, WindowPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray

OK, ERROR_PREFIX, REJECT_PREFIX = "ok", "error:", "reject:"


@dataclass(frozen=True)
class ModelIdentity:
    """What a window says about the model it watched.

    Attributes:
        model: ``team/model``.
        bundle_sha256: the active bundle.
        version: its version, for people.
        variant: id of the variant that runs.
        stage: ``run`` or ``shadow``.
    """

    model: str
    bundle_sha256: str
    version: str
    variant: str
    stage: str = "run"


class MonitorPlan:
    """A baseline ready for use; one serves any number of monitors (the virtual devices of a process)."""

    def __init__(self, data: bytes) -> None:
        """Read a baseline file.

        Raises:
            BundleRefused: see ``parse_baseline``.
        """
        baseline = parse_baseline(data)
        self.baseline_id = baseline_id(data)
        self.columns = WindowPlan(baseline)
        self.reads_inputs = any(column.source == "input" for column in baseline.columns)
        self.reads_outputs = any(column.source == "output" for column in baseline.columns)


class Monitor:
    """Counts what one model sees and answers, from one ``cut`` to the next."""

    def __init__(
        self,
        baseline: bytes | MonitorPlan | None,
        contract: Contract,
        identity: ModelIdentity,
        clock: Callable[[], int],
    ) -> None:
        """Start the first window.

        Args:
            baseline: the bundle's baseline file, or the plan made of it; None = count outcomes and latency only.
            contract: the model's contract.
            identity: what the windows say about the model.
            clock: returns UTC epoch milliseconds; read at the start of the first window.

        Raises:
            BundleRefused: the baseline cannot be read.
        """
        self._plan = MonitorPlan(baseline) if isinstance(baseline, bytes) else baseline
        self._contract = contract
        self._identity = identity
        self._is_classification = contract.task == "classification" and bool(contract.labels)
        self._lock = threading.Lock()
        self._start_ms = clock()
        self._tally = _Tally(self._plan, len(contract.labels) if self._is_classification else 0)

    def observe(
        self,
        inputs: Mapping[str, NDArray[Any]] | None,
        outputs: Mapping[str, NDArray[Any]] | None,
        latency_ns: int,
        outcome: str,
    ) -> None:
        """Count one request.

        Args:
            inputs: tensors that passed the contract, batch first; None where they are not at hand.
            outputs: the answer in the contract's units, batch first; None where there is none.
            latency_ns: end to end; counted for ``ok`` only, since failures end early or at a time limit.
            outcome: ``ok``, ``error:<reason>`` or ``reject:<code>``.

        Raises:
            ValueError: the outcome is none of these.
        """
        if outcome.startswith(REJECT_PREFIX):
            with self._lock:
                self._tally.add_reject(outcome.removeprefix(REJECT_PREFIX))
            return
        is_ok = outcome == OK
        if not is_ok and not outcome.startswith(ERROR_PREFIX):
            raise ValueError(f"unknown outcome {outcome!r}")
        columns: dict[str, NDArray[Any]] = {}
        if self._plan is not None and self._plan.reads_inputs and inputs is not None:
            columns.update(input_columns(inputs, self._contract.inputs))
        classes: list[int] = []
        if is_ok and outputs is not None:
            classes = self._read_outputs(outputs, columns)
        with self._lock:
            if is_ok:
                self._tally.add_ok(latency_ns, classes)
            else:
                self._tally.add_error(outcome.removeprefix(ERROR_PREFIX))
            if self._tally.columns is not None and columns:
                self._tally.columns.observe_batch(columns)

    def observe_columns(self, row: Mapping[str, float], class_index: int | None, latency_ns: int) -> None:
        """Count one answered request whose columns are known already (virtual devices replaying recorded rows).

        Args:
            row: column name -> value, as ``input_columns`` and ``output_columns`` would give.
            class_index: predicted class in label order; None for other tasks.
            latency_ns: end to end.
        """
        with self._lock:
            self._tally.add_ok(latency_ns, [] if class_index is None else [class_index])
            if self._tally.columns is not None:
                if class_index is None:
                    self._tally.columns.observe_row(row)
                else:
                    self._tally.columns.observe_row({**row, PREDICTED_CLASS: self._contract.labels[class_index]})

    def cut(self, now_ms: int) -> Window | None:
        """End the current window at ``now_ms`` and start the next; None where nothing was seen.

        A window without requests goes on, so the next one begins where the last one given out ended.
        """
        with self._lock:
            if not self._tally.requests:
                return None
            tally, start_ms = self._tally, self._start_ms
            self._tally = _Tally(self._plan, len(tally.classes))
            self._start_ms = now_ms
        return Window(
            model=self._identity.model,
            bundle_sha256=self._identity.bundle_sha256,
            version=self._identity.version,
            variant=self._identity.variant,
            baseline_id=self._plan.baseline_id if self._plan else "",
            start_ms=min(start_ms, now_ms),  # a clock set back must not make a window end before it begins
            end_ms=now_ms,
            ok=tally.ok,
            errors=tally.errors,
            rejects=tally.rejects,
            classes=tally.classes if tally.ok else [],
            latency=tally.latency.histogram(),
            columns=tally.columns.flush() if tally.columns is not None else {},
            stage=self._identity.stage,
        )

    def _read_outputs(self, outputs: Mapping[str, NDArray[Any]], columns: dict[str, NDArray[Any]]) -> list[int]:
        """Add the output columns to ``columns``; return the predicted classes of the rows."""
        contract, wanted = self._contract, self._plan is not None and self._plan.reads_outputs
        if self._is_classification:
            found = classify(outputs, contract.outputs, contract.labels)
            if found is None:
                return []
            if wanted:
                columns.update(classification_columns(found, contract.labels))
            indices: list[int] = found.index.tolist()
            return indices
        if wanted:
            columns.update(output_columns(outputs, contract.outputs, task=contract.task, labels=contract.labels))
        return []


class _Tally:
    """The counters of one window."""

    def __init__(self, plan: MonitorPlan | None, labels: int) -> None:
        self.ok = 0
        self.errors: dict[str, int] = {}
        self.rejects: dict[str, int] = {}
        self.classes = [0] * labels
        self.latency = LatencyRecorder()
        self.columns = WindowBuilder(plan.columns) if plan is not None else None
        self.requests = 0

    def add_ok(self, latency_ns: int, classes: Sequence[int]) -> None:
        self.requests += 1
        self.ok += 1
        self.latency.observe(latency_ns)
        for index in classes:
            if index >= 0:
                self.classes[index] += 1

    def add_error(self, reason: str) -> None:
        self.requests += 1
        self.errors[reason] = self.errors.get(reason, 0) + 1

    def add_reject(self, code: str) -> None:
        self.requests += 1
        self.rejects[code] = self.rejects.get(code, 0) + 1
