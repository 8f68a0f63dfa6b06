"""What the engine adds to a model: in process and isolated in a worker, against the bare runtime in this process.

Both sides get the model's own dtypes, so that what is compared is the engine and not quantisation.
"""

from __future__ import annotations

import contextlib
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
from benches.measuring.bare import bare_call, echo
from benches.measuring.figure import Figure, Plan
from benches.measuring.timing import call_s, medians
from bundles.contract import Contract, TensorSpec
from control_plane.demo.releases import DATA

NAME = "inference"
RUNTIMES = {".onnx": "onnxruntime", ".tflite": "litert"}
INPROC_BAR_US, WORKER_BAR_US, CRASH_BAR_MS = 8.0, 60.0, 50.0
RATIO_BARS = {"inproc": ((1000.0, 1.05), (40.0, 1.15)), "worker": ((1000.0, 1.15),)}
"""The design's bars on the ratio, for models of at least so many microseconds; below, only the added ones count."""
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
    rounds, engine = plan.repeats(9, 3), Engine()
    with contextlib.closing(engine), echo(sum(array.nbytes for array in inputs.values())) as round_trip:
        for spec in (worker, inproc):
            engine.load(spec)
        bare = bare_call(worker.backend, path, inputs)
        calls = int(min(MOST_CALLS, max(20, ROUND_S / call_s(bare, 20)))) // plan.repeats(1, 4)
        sides = {
            "bare": lambda: call_s(bare, calls),
            "inproc": lambda: call_s(lambda: engine.infer(inputs, inproc.model), calls),
            "worker": lambda: call_s(lambda: engine.infer(inputs, worker.model), calls),
            "echo": lambda: call_s(round_trip, calls),
        }
        found = {name: seconds * 1e6 for name, seconds in medians(sides, rounds).items()}
    bare_us, note = found["bare"], f"{rounds} rounds of {calls} calls"
    for side, bar, peer, peer_us in (
        ("inproc", INPROC_BAR_US, "", None),
        ("worker", WORKER_BAR_US, "a bare round trip to another process", found["echo"]),
    ):
        added = found[side] - bare_us
        yield Figure(NAME, f"{side}_added_us:{path.name}", added, "us", peer, peer_us, bar, n=rounds, note=note)
        ratio_bar = next((most for least_us, most in RATIO_BARS[side] if bare_us >= least_us), None)
        yield Figure(
            NAME,
            f"{side}_us:{path.name}",
            found[side],
            "us",
            f"bare {worker.backend}",
            bare_us,
            ratio_bar,
            is_bar_of_ratio=ratio_bar is not None,
            n=rounds,
            note=note,
        )


def _crash(path: Path, times: int) -> Figure:
    """Kill the worker; time until the next answer."""
    spec, inputs = _spec(path)
    taken, engine = [], Engine()
    with contextlib.closing(engine):
        engine.load(spec)
        for _ in range(times):
            engine.infer(inputs)
            pid = engine.status().worker_pid
            assert pid is not None
            started = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            engine.infer(inputs)
            taken.append((time.perf_counter() - started) * 1e3)
            assert engine.status().worker_pid != pid, "the kill must have landed"
    note = f"{path.name}: SIGKILL of the worker to the next answer; slowest {max(taken):.1f} ms"
    value = statistics.median(taken)
    return Figure(NAME, f"crash_ms:{spec.backend}", value, "ms", bar=CRASH_BAR_MS, n=times, note=note)


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
