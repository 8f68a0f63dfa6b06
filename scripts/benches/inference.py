"""What the engine adds to a model: in process and isolated in a worker, against the bare runtime in this process.

Both sides get the model's own dtypes, so that what is compared is the engine and not quantisation.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.inference.backend import LoadOptions, open_backend
from agent.inference.engine import Engine
from agent.inference.spec import ModelSpec
from benches.measuring.bare import bare_call
from benches.measuring.figure import Figure, Plan
from benches.measuring.timing import call_s, medians
from bundles.contract import Contract, TensorSpec
from control_plane.demo.releases import DATA

NAME = "inference"
RUNTIMES = {".onnx": "onnxruntime", ".tflite": "litert"}
INPROC_BAR_US, WORKER_BAR_US, CRASH_BAR_MS = 8.0, 60.0, 50.0
RATIO_BARS = {"inproc": ((1e-3, 1.05), (40e-6, 1.15)), "worker": ((1e-3, 1.15),)}
"""The design's bars on the ratio, for models of at least so many seconds; below, only the microseconds count."""
ROUND_S = 0.15
"""Of calls on one side before the other has its turn."""
MOST_CALLS = 2000
Inputs = dict[str, Any]


def run(plan: Plan) -> Iterator[Figure]:
    """Measure the demo's models and those of ``plan.models``."""
    paths = [DATA / f"digits-1.0.0{suffix}" for suffix in RUNTIMES]
    if plan.models is not None:
        paths += sorted(path for path in plan.models.iterdir() if path.suffix in RUNTIMES)
    for path in paths:
        yield from _overhead(path, plan)
    for path in paths[: len(RUNTIMES)]:
        yield _crash(path, plan.repeats(15, 5))


def _overhead(path: Path, plan: Plan) -> Iterator[Figure]:
    """Yield what each way of holding the model adds."""
    worker, inputs = _spec(path)
    inproc = replace(worker, model="bench/inproc", mode="inproc")
    engine = Engine()
    try:
        for spec in (worker, inproc):
            engine.load(spec)
        bare = bare_call(worker.backend, path, inputs)
        calls = int(min(MOST_CALLS, max(20, ROUND_S / call_s(bare, 20)))) // plan.repeats(1, 4)
        sides = {
            "bare": lambda: call_s(bare, calls),
            "inproc": lambda: call_s(lambda: engine.infer(inputs, inproc.model), calls),
            "worker": lambda: call_s(lambda: engine.infer(inputs, worker.model), calls),
        }
        rounds = plan.repeats(9, 3)
        found = medians(sides, rounds)
    finally:
        engine.close()
    peer = f"bare {worker.backend}"
    for side, bar_us in (("inproc", INPROC_BAR_US), ("worker", WORKER_BAR_US)):
        note, name = f"{rounds} rounds of {calls} calls", f"{side}_{path.stem}_{worker.backend}"
        added_us = (found[side] - found["bare"]) * 1e6
        yield Figure(NAME, f"{name}_added_us", added_us, "us", bar=bar_us, n=rounds, note=note)
        ratio_bar = next((bar for least_s, bar in RATIO_BARS[side] if found["bare"] >= least_s), None)
        own_us, bare_us = found[side] * 1e6, found["bare"] * 1e6
        yield Figure(NAME, f"{name}_us", own_us, "us", peer, bare_us, ratio_bar, ratio_bar is not None, rounds, note)


def _crash(path: Path, times: int) -> Figure:
    """Kill the worker; time until the next answer."""
    spec, inputs = _spec(path)
    taken, engine = [], Engine()
    try:
        engine.load(spec)
        for _ in range(times):
            engine.infer(inputs)
            pid = engine.status().worker_pid
            assert pid is not None
            started = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            engine.infer(inputs)
            taken.append(time.perf_counter() - started)
            assert engine.status().worker_pid != pid, "the kill must have landed"
    finally:
        engine.close()
    value = statistics.median(taken) * 1e3
    note = f"{path.name} on {spec.backend}: SIGKILL of the worker to the next answer; slowest {max(taken) * 1e3:.1f} ms"
    return Figure(NAME, f"crash_{spec.backend}_ms", value, "ms", bar=CRASH_BAR_MS, n=times, note=note)


def _spec(path: Path) -> tuple[ModelSpec, Inputs]:
    """Return a model as its file has it, for a worker, and one input."""
    backend = RUNTIMES[path.suffix]
    session = open_backend(backend).load(path, "cpu", LoadOptions())
    io = session.io()
    session.close()
    inputs, outputs = (
        [TensorSpec(port.name, port.dtype, [dim or 1 for dim in port.shape]) for port in side]  # type: ignore[arg-type]
        for side in (io.inputs, io.outputs)
    )
    spec = ModelSpec("bench/worker", "0" * 64, "1.0.0", backend, backend, path, Contract(inputs, outputs))
    zeros: Inputs = {tensor.name: np.zeros([dim or 1 for dim in tensor.shape], tensor.dtype) for tensor in inputs}
    return spec, zeros
