"""The first load of a model, in a throwaway child: does it load, answer the goldens, and survive?

Native runtimes can be killed by a damaged file, so nothing untried is loaded anywhere else. The child starts from
nothing (never a preloaded fork server), runs under limits of memory, CPU and wall time, and its death is a finding.
Leaves choosing between variants, and what follows from a finding, to the runner.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from agent.errors import WorkerLost
from agent.inference.backend import accelerator_kind
from agent.inference.golden import Goldens, Judgement, judge, read_goldens
from agent.inference.launch import spawn
from agent.inference.messages import Limits, Loaded
from agent.inference.process import ModelProcess, exit_text
from agent.inference.spec import ModelSpec
from agent.inference.worker import OUT_OF_MEMORY
from bundles.contract import check
from bundles.errors import BundleRefused, InputRefused, TryAgain, WavegateError
from bundles.manifest import HealthCheck

Reason = Literal["load", "golden_mismatch", "native_crash", "timeout", "oom", "accel_fallback"]
WARM_UP_RUNS = 3
MIN_RUNS = 50
MEASURE_S = 0.3
"""After one pass over the goldens, runs go on until there are MIN_RUNS or this time is up."""
_STDERR_TAIL_BYTES = 2000


@dataclass(frozen=True)
class TrialSpec:
    """What to try.

    Attributes:
        model: the model.
        goldens_path: the bundle's ``.npz`` of goldens.
        health_check: the manifest's rule.
    """

    model: ModelSpec
    goldens_path: Path
    health_check: HealthCheck = field(default_factory=HealthCheck)


@dataclass(frozen=True)
class TrialLimits:
    """What the child may use.

    Attributes:
        wall_s: from the load to the last golden.
        cpu_s: processor time, whole seconds; 0 = no limit.
        address_space_bytes: RLIMIT_AS; 0 = no limit. Never applied for a GPU or NPU, whose runtimes map about twice
            the device's memory.
    """

    wall_s: float = 10.0
    cpu_s: int = 20
    address_space_bytes: int = 4 << 30


@dataclass(frozen=True)
class TrialResult:
    """What was found.

    Attributes:
        ok: the model may be activated.
        reason: why not; None when ok.
        detail: one sentence for people, with the tail of what the runtime printed where it died.
        top1_agreement: see ``golden.Judgement``; None where it never came to that.
        mean_abs_diff_ratio: see ``golden.Judgement``.
        latency_p50_ms: median of the session's own latency; None where nothing was measured.
        latency_p95_ms: 95th percentile.
        latency_p99_ms: 99th percentile.
        placement: the accelerator it really ran on; empty when it did not load.
        load_ms: time to load, with the import of the runtime.
    """

    ok: bool
    reason: Reason | None
    detail: str
    top1_agreement: float | None = None
    mean_abs_diff_ratio: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    placement: str = ""
    load_ms: float | None = None


def run_deadline_s(latency_p99_ms: float | None) -> float:
    """Return the deadline of a run in service: ten times the golden p99, and one second at least."""
    return max(10.0 * (latency_p99_ms or 0.0) / 1000.0, 1.0)


def run_trial(spec: TrialSpec, limits: TrialLimits | None = None) -> TrialResult:
    """Try a model in a throwaway child; never raises for anything the model or its files do."""
    limits = limits or TrialLimits()
    try:
        goldens = read_goldens(spec.goldens_path, spec.model.contract)
        for number in range(goldens.count):
            check(spec.model.contract, goldens.sample(spec.model.contract, number))
    except (BundleRefused, InputRefused) as error:
        return TrialResult(False, "golden_mismatch", error.sentence)
    with tempfile.TemporaryFile() as stderr:
        try:
            child = spawn(stderr)
        except WorkerLost as error:
            return TrialResult(False, "load", error.sentence)
        with _ending(child):
            try:
                return _try(child, spec, goldens, limits)
            except WorkerLost as error:
                return _death(error, child.returncode or 0, _tail(stderr))
            except WavegateError as error:
                out_of_memory = error.code == OUT_OF_MEMORY
                ran = isinstance(error, InputRefused | TryAgain)
                reason: Reason = "oom" if out_of_memory else "golden_mismatch" if ran else "load"
                return TrialResult(False, reason, error.sentence)


def _try(child: ModelProcess, spec: TrialSpec, goldens: Goldens, limits: TrialLimits) -> TrialResult:
    model = spec.model
    on_cpu = accelerator_kind(model.accelerator) == "cpu"
    memory = min(limits.address_space_bytes, sys.maxsize) if on_cpu else 0
    deadline = time.monotonic() + limits.wall_s
    child.ask(Limits(memory, limits.cpu_s), [], limits.wall_s)
    loaded = child.load(model.load_message(), limits.wall_s)
    placed = loaded.placement.accelerator
    if placed != model.accelerator:
        return TrialResult(
            False,
            "accel_fallback",
            f"The model was to run on {model.accelerator} and the runtime put it on {placed}.",
            placement=placed,
            load_ms=loaded.load_ms,
        )
    answers, latencies_ms = _run_goldens(child, spec, goldens, deadline)
    judgement = judge(spec.health_check, model.contract, goldens.outputs, answers)
    return _result(judgement, latencies_ms, loaded, spec.health_check.max_latency_ms)


def _run_goldens(
    child: ModelProcess, spec: TrialSpec, goldens: Goldens, deadline: float
) -> tuple[dict[str, Any], list[float]]:
    contract = spec.model.contract
    samples = [goldens.sample(contract, number) for number in range(goldens.count)]

    def run(number: int) -> tuple[dict[str, Any], int]:
        return child.run(samples[number % goldens.count], max(deadline - time.monotonic(), 0.001))

    for _ in range(WARM_UP_RUNS):
        run(0)
    started = time.monotonic()
    answers, latencies_ms = [], []
    for number in range(goldens.count):
        outputs, latency_ns = run(number)
        answers.append(outputs)
        latencies_ms.append(latency_ns / 1e6)
    while len(latencies_ms) < MIN_RUNS and time.monotonic() < started + MEASURE_S:
        latencies_ms.append(run(len(latencies_ms))[1] / 1e6)
    stacked = {spec.name: np.stack([answer[spec.name] for answer in answers]) for spec in contract.outputs}
    return stacked, latencies_ms


def _result(judgement: Judgement, latencies_ms: list[float], loaded: Loaded, max_latency_ms: float) -> TrialResult:
    p50, p95, p99 = (float(np.percentile(latencies_ms, share)) for share in (50, 95, 99))
    reason: Reason | None = None if judgement.ok else "golden_mismatch"
    detail = judgement.detail
    if judgement.ok and max_latency_ms and p50 > max_latency_ms:
        reason = "timeout"
        detail = f"The median golden takes {p50:.2f} ms; the bundle allows {max_latency_ms:g} ms."
    return TrialResult(
        ok=reason is None,
        reason=reason,
        detail=detail,
        top1_agreement=judgement.top1_agreement,
        mean_abs_diff_ratio=judgement.mean_abs_diff_ratio,
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        placement=loaded.placement.accelerator,
        load_ms=loaded.load_ms,
    )


def _death(error: WorkerLost, returncode: int, printed: str) -> TrialResult:
    detail = f"The child died ({exit_text(returncode)}). {printed}".strip()
    if error.code == "RUN_DEADLINE":
        return TrialResult(False, "timeout", "The child did not finish in time and was ended.")
    if returncode == -signal.SIGXCPU:
        return TrialResult(False, "timeout", "The child used up its processor time.")
    # SIGKILL that did not come from us is the kernel short of memory; bad_alloc is how C++ says so.
    if returncode == -signal.SIGKILL or "bad_alloc" in printed or "MemoryError" in printed:
        return TrialResult(False, "oom", detail)
    return TrialResult(False, "native_crash", detail)


def _tail(stderr: IO[bytes]) -> str:
    length = stderr.seek(0, 2)
    stderr.seek(max(length - _STDERR_TAIL_BYTES, 0))
    return " ".join(stderr.read().decode("utf-8", "replace").split())


@contextlib.contextmanager
def _ending(child: ModelProcess) -> Iterator[None]:
    try:
        yield
    finally:
        child.end()
