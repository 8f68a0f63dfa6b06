"""The models of a real device: trials in throwaway children, the engine's isolated workers, a monitor beside each.

A probation on a device that nobody asks anything is judged by golden inputs sent through the live engine; they are
kept out of the windows. Leaves decisions to the updater's core and slots to the store.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.core.health import HealthLimits, HealthNumbers
from agent.errors import ModelUnknown, SafeMode
from agent.inference.backend import REGISTRY, Tensors
from agent.inference.engine import Engine, ModelStatus
from agent.inference.golden import judge, read_goldens
from agent.inference.spec import ModelSpec
from agent.inference.trial import TrialResult, TrialSpec, run_deadline_s, run_trial
from agent.monitor import ModelIdentity, Monitor
from agent.runner.edges import Running, StagedBundle
from bundles.errors import WavegateError
from bundles.sketch.form import Window

SELF_TEST_INPUTS = 256
"""At most; all goldens where they are fewer, because the signed rule speaks of all of them."""
SUSPECT_INPUTS = HealthLimits.min_for_constant
"""With so many different inputs and one answer to all of them, goldens tell whether the model still looks at them."""
IDLE_REQUESTS = 3
"""With fewer answers than this since the activation, goldens are sent through the engine as a self-test."""


@dataclass
class _Watched:
    """One activated bundle and what was counted beside it."""

    bundle: StagedBundle
    monitor: Monitor
    self_tests_ok: int = 0
    self_tests_failed: int = 0


class EngineModels:
    """``Models`` on an ``Engine``.

    Args:
        engine: runs them; closed with this.
        wall_ms: UTC epoch ms, for windows.
        usable: runtimes found usable by the probe, in order of preference.
        is_isolated: whether models run in worker processes.
    """

    def __init__(
        self, engine: Engine, wall_ms: Callable[[], int], usable: Sequence[str], is_isolated: bool = True
    ) -> None:
        self.engine = engine
        self._wall_ms, self._usable, self._is_isolated = wall_ms, list(usable), is_isolated
        self._watched: dict[str, _Watched] = {}
        self._retired: list[Window] = []
        self._p99_ms: dict[str, float | None] = {}
        self._lock = threading.Lock()
        self._testing = threading.local()

    def runtimes(self) -> list[str]:
        """Return usable runtimes in order of preference."""
        return list(self._usable)

    def try_out(self, bundle: StagedBundle) -> TrialResult:
        """Load the model and run its goldens in a throwaway child; with ``swap: cold`` the running one rests."""
        spec = TrialSpec(self._spec(bundle), bundle.path_of("goldens"), bundle.manifest.health_check)
        with self._room_for(bundle):
            result = run_trial(spec)
        self._p99_ms[bundle.release.sha256] = result.latency_p99_ms
        return result

    def activate(self, bundle: StagedBundle) -> None:
        """Load in a new worker, swap, drain the old one; the old one's window is kept for the next ``cut``.

        With ``swap: cold`` the old worker ends before the new one loads, and comes back where that fails.
        """
        model = bundle.manifest.model_key
        identity = ModelIdentity(model, bundle.release.sha256, bundle.manifest.version, bundle.variant.id)
        monitor = Monitor(bundle.baseline(), bundle.contract, identity, self._wall_ms)
        with self._room_for(bundle):
            self.engine.load(self._spec(bundle), self._observer(monitor))
        with self._lock:
            self._retire(self._watched.get(model))
            self._watched[model] = _Watched(bundle, monitor)

    def deactivate(self, model: str) -> None:
        """Let nothing answer for ``model``."""
        self.engine.unload(model)
        with self._lock:
            self._retire(self._watched.pop(model, None))

    def withhold(self, model: str, mode: str) -> None:
        """Refuse what is asked of ``model`` until something is activated."""
        self.deactivate(model)
        self.engine.withhold(model, mode)

    def numbers(self, model: str) -> tuple[str, HealthNumbers] | None:
        """Return the answering bundle and its counters, after a self-test where nobody asked it anything."""
        watched, status = self._watched.get(model), self._status(model)
        if watched is None or status is None:
            return None
        self.engine.tick()
        stats = status.stats
        if stats.ok + sum(stats.errors.values()) < IDLE_REQUESTS:
            if self._self_test(watched):
                watched.self_tests_ok += 1
            else:
                watched.self_tests_failed += 1
        distinct_outputs = stats.distinct_outputs
        if distinct_outputs == 1 and stats.distinct_inputs >= SUSPECT_INPUTS and self._self_test(watched):
            distinct_outputs = 0  # what it sees is always the same, and it is right about it
        lost = stats.crashes + stats.hangs
        numbers = HealthNumbers(
            requests=stats.ok + sum(stats.errors.values()),
            errors=sum(stats.errors.values()),
            nonfinite=stats.nonfinite,
            # The engine knows of the five minutes; below its limit the count says little and must not add up.
            crashes=max(3, lost) if "crashes" in stats.unhealthy else min(lost, 2),
            latency_p95_ms=stats.latency_p95_ms,
            self_tests_ok=watched.self_tests_ok,
            self_tests_failed=watched.self_tests_failed,
            distinct_inputs=stats.distinct_inputs,
            distinct_outputs=distinct_outputs,
        )
        return watched.bundle.release.sha256, numbers

    def running(self, model: str) -> Running | None:
        """Say what answers for ``model``."""
        watched, status = self._watched.get(model), self._status(model)
        if watched is None or status is None:
            return None
        spec = status.spec
        return Running(
            sha256=spec.sha256,
            version=spec.version,
            variant=spec.variant_id,
            runtime=runtime_name(spec.backend),
            accelerator=status.placement.accelerator,
            is_healthy=not status.stats.unhealthy,
            requests=status.stats.ok,
        )

    def cut(self, now_ms: int) -> list[Window]:
        """End the windows of every model, those just replaced included."""
        with self._lock:
            windows, self._retired = self._retired, []
            monitors = [watched.monitor for watched in self._watched.values()]
        return windows + [window for monitor in monitors if (window := monitor.cut(now_ms))]

    def close(self) -> None:
        """End every worker."""
        self.engine.close()

    def _room_for(self, bundle: StagedBundle) -> contextlib.AbstractContextManager[None]:
        is_cold = bundle.manifest.swap == "cold"
        return self.engine.resting(bundle.manifest.model_key) if is_cold else contextlib.nullcontext()

    def _spec(self, bundle: StagedBundle) -> ModelSpec:
        variant = bundle.variant
        return ModelSpec(
            model=bundle.manifest.model_key,
            sha256=bundle.release.sha256,
            version=bundle.manifest.version,
            variant_id=variant.id,
            backend=variant.runtime,
            model_path=bundle.model_path,
            contract=bundle.contract,
            accelerator=variant.execution_provider,
            mode="worker" if self._is_isolated else "inproc",
            run_deadline_s=run_deadline_s(self._p99_ms.get(bundle.release.sha256)),
        )

    def _observer(self, monitor: Monitor) -> Callable[[Tensors, Mapping[str, Any] | None, int, str], None]:
        def observe(inputs: Tensors, outputs: Mapping[str, Any] | None, latency_ns: int, outcome: str) -> None:
            if not getattr(self._testing, "is_self_test", False):
                monitor.observe(inputs, outputs, latency_ns, outcome)

        return observe

    def _retire(self, watched: _Watched | None) -> None:
        window = watched.monitor.cut(self._wall_ms()) if watched else None
        if window is not None:
            self._retired.append(window)

    def _status(self, model: str) -> ModelStatus | None:
        try:
            return self.engine.status(model)
        except (ModelUnknown, SafeMode):
            return None

    def _self_test(self, watched: _Watched) -> bool:
        """Return whether golden inputs, sent through the live engine, come back right."""
        bundle = watched.bundle
        contract = bundle.contract
        goldens = read_goldens(bundle.path_of("goldens"), contract)
        count = min(SELF_TEST_INPUTS, goldens.count)
        answers: dict[str, list[Any]] = {spec.name: [] for spec in contract.outputs}
        self._testing.is_self_test = True
        try:
            for number in range(count):
                prediction = self.engine.infer(goldens.sample(contract, number), bundle.manifest.model_key)
                for name, array in prediction.outputs.items():
                    answers[name].append(array)
        except WavegateError:
            return False
        finally:
            self._testing.is_self_test = False
        import numpy as np

        expected = {name: array[:count] for name, array in goldens.outputs.items()}
        stacked = {name: np.stack(arrays) for name, arrays in answers.items()}
        return judge(bundle.manifest.health_check, contract, expected, stacked).ok


@functools.cache
def runtime_name(backend: str) -> str:
    """Return a runtime with its version, such as ``onnxruntime 1.32.0``."""
    distribution = REGISTRY[backend].distribution if backend in REGISTRY else ""
    try:
        return f"{backend} {importlib.metadata.version(distribution)}" if distribution else backend
    except importlib.metadata.PackageNotFoundError:
        return backend
