"""The models of one virtual device: the shared host runs them, the device looks its answers up and counts them itself.

Probation, health, windows and accuracy are the device's own, from the rows it saw. Leaves running to ``host``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.core.health import HealthNumbers
from agent.inference.trial import TrialResult
from agent.monitor import ModelIdentity, Monitor
from agent.runner.edges import Running, StagedBundle
from agent.runner.models import runtime_name
from agent.runner.stream import Accuracy
from agent.virtual.host import ModelHost, SharedModel
from bundles.sketch.form import Window

CRASHES_TOLD = 3


@dataclass
class _Active:
    bundle: StagedBundle
    shared: SharedModel
    monitor: Monitor
    requests: int = 0
    errors: int = 0
    nonfinite: int = 0
    crashes: int = 0


class VirtualModels:
    """``Models`` of one virtual device.

    Args:
        host: runs the models.
        runtimes: runtimes this device is said to have; the host found them usable.
        wall_ms: UTC epoch ms, for windows.
        accuracy: told of each labelled answer.
        start: row its stream begins with.
    """

    def __init__(
        self, host: ModelHost, runtimes: Sequence[str], wall_ms: Callable[[], int], accuracy: Accuracy, start: int
    ) -> None:
        self._host, self._runtimes, self._wall_ms, self._accuracy = host, list(runtimes), wall_ms, accuracy
        self._cursor = start
        self._lock = threading.Lock()
        self._active: dict[str, _Active] = {}
        self._retired: list[Window] = []

    def runtimes(self) -> list[str]:
        """Return the runtimes this device is said to have."""
        return list(self._runtimes)

    def try_out(self, bundle: StagedBundle) -> TrialResult:
        """Return what a real trial of the bundle's variant found on this machine."""
        return self._host.try_out(bundle)

    def activate(self, bundle: StagedBundle) -> None:
        """Use the host's model from now on."""
        shared = self._host.open(bundle)
        model = bundle.manifest.model_key
        identity = ModelIdentity(model, bundle.release.sha256, bundle.manifest.version, bundle.variant.id)
        monitor = Monitor(shared.plan, shared.contract, identity, self._wall_ms)
        with self._lock:
            before, self._active[model] = self._active.get(model), _Active(bundle, shared, monitor)
        self._retire(before)

    def deactivate(self, model: str) -> None:
        """Let nothing answer for ``model``."""
        with self._lock:
            before = self._active.pop(model, None)
        self._retire(before)

    def withhold(self, model: str, mode: str) -> None:
        """Answer no row until something is activated: there is no application here to be told why."""
        self.deactivate(model)

    def see(self, count: int, *, is_blurred: bool) -> None:
        """Look at the next ``count`` rows of the stream with every active model."""
        with self._lock:
            active = list(self._active.values())
        for entry in active:
            for number in range(count):
                self._see_one(entry, self._cursor + number, is_blurred)
        self._cursor += count

    def numbers(self, model: str) -> tuple[str, HealthNumbers] | None:
        """Return the answering bundle and its counters."""
        with self._lock:
            entry = self._active.get(model)
        if entry is None:
            return None
        numbers = HealthNumbers(
            requests=entry.requests,
            errors=entry.errors,
            nonfinite=entry.nonfinite,
            crashes=entry.crashes,
            latency_p95_ms=entry.shared.latency_p95_ms(),
            self_tests_ok=1,  # its goldens were answered in the trial, by this very file on this machine
        )
        return entry.bundle.release.sha256, numbers

    def running(self, model: str) -> Running | None:
        """Say what answers for ``model``."""
        with self._lock:
            entry = self._active.get(model)
        if entry is None:
            return None
        bundle = entry.bundle
        return Running(
            sha256=bundle.release.sha256,
            version=bundle.manifest.version,
            variant=bundle.variant.id,
            runtime=runtime_name(bundle.variant.runtime),
            accelerator=entry.shared.accelerator,
            is_healthy=entry.crashes < CRASHES_TOLD,
            requests=entry.requests - entry.errors,
        )

    def cut(self, now_ms: int) -> list[Window]:
        """End the windows of every model, those just replaced included."""
        with self._lock:
            windows, self._retired = self._retired, []
            monitors = [entry.monitor for entry in self._active.values()]
        return windows + [window for monitor in monitors if (window := monitor.cut(now_ms))]

    def close(self) -> None:
        """Give up every model."""
        for model in list(self._active):
            self.deactivate(model)

    def _see_one(self, entry: _Active, cursor: int, is_blurred: bool) -> None:
        answer = entry.shared.answer(cursor, is_blurred=is_blurred)
        if answer is None:
            return
        entry.requests += 1
        if answer.outcome == "ok":
            entry.monitor.observe_columns(answer.columns, answer.class_index, answer.latency_ns)
            self._accuracy.count(entry.bundle.release.sha256, is_right=answer.is_right)
            return
        entry.errors += 1
        entry.nonfinite += answer.outcome == "error:nonfinite"
        entry.crashes += answer.outcome in ("error:crash", "error:deadline")
        entry.monitor.observe(None, None, answer.latency_ns, answer.outcome)

    def _retire(self, entry: _Active | None) -> None:
        if entry is None:
            return
        window = entry.monitor.cut(self._wall_ms())
        if window is not None:
            with self._lock:
                self._retired.append(window)
        self._host.release(entry.bundle)
