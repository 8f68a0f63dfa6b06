"""A runtime that misbehaves on request, for tests of everything above the backend seam.

The "model" is a small JSON file (suffix ``.fake``)::

    {"inputs": [["x", "float32", [null, 4]]], "outputs": [["y", "float32", [null, 2]]],
     "answer": "mean", "behaviour": "ok", "after": 0, "on": "run", "delay_ms": 0}

``answer``: ``mean`` (of all inputs, in every output element) or ``constant`` (``value``, 0 by default).
``behaviour``, from run number ``after`` on: ``ok``, ``crash`` (SIGSEGV), ``abort``, ``hang``, ``nan``, ``wrong`` (one
minus the answer), ``error`` (the runtime refuses), ``oom`` (allocates until it is stopped), ``slow`` (``delay_ms`` a
run). ``on``: ``run`` or ``load``. A file that is not such JSON is a damaged model.
Ships with the agent and is probed by nobody.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelRefused, RunFailed
from agent.inference.backend import (
    Accelerator,
    Io,
    LoadOptions,
    Placement,
    Port,
    Tensors,
    require_format,
)
from agent.inference.ports import NativeTensor, bind, take_input

Behaviour = Literal["ok", "crash", "abort", "hang", "nan", "wrong", "error", "oom", "slow"]


class FakeModel(msgspec.Struct, frozen=True):
    """The content of a ``.fake`` file; see the module's text."""

    inputs: list[Port]
    outputs: list[Port]
    answer: Literal["mean", "constant"] = "mean"
    value: float = 0.0
    behaviour: Behaviour = "ok"
    after: int = 0
    on: Literal["run", "load"] = "run"
    delay_ms: float = 0.0


class FakeSession:
    """One fake model."""

    def __init__(self, model: FakeModel, accelerator: str, options: LoadOptions) -> None:
        self._model = model
        self._accelerator = accelerator
        self._inputs = bind("input", options.inputs, [NativeTensor(p.name, p.dtype, p.shape) for p in model.inputs])
        self._outputs = bind("output", options.outputs, [NativeTensor(p.name, p.dtype, p.shape) for p in model.outputs])
        self._runs = 0
        self._cancelled = threading.Event()

    def io(self) -> Io:
        """Return inputs and outputs as callers see them."""
        return Io(tuple(b.port for b in self._inputs), tuple(b.port for b in self._outputs))

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Answer, or misbehave as the file says."""
        arrays = [take_input(binding, inputs) for binding in self._inputs]
        model = self._model
        value = float(np.mean([array.mean() for array in arrays])) if model.answer == "mean" else model.value
        if model.on == "run" and self._runs >= model.after:
            value = self._misbehave(value)
        self._runs += 1
        rows = arrays[0].shape[0] if arrays[0].ndim else 1
        return {
            b.port.name: np.full([rows if dim is None else dim for dim in b.port.shape], value, dtype=b.port.dtype)
            for b in self._outputs
        }

    def placement(self) -> Placement:
        """Return the accelerator asked for, except ``absent``, which falls back to the CPU silently."""
        return Placement("cpu" if self._accelerator == "absent" else self._accelerator, {})

    def cancel(self) -> None:
        """End a hang."""
        self._cancelled.set()

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _misbehave(self, value: float) -> float:
        misbehave(self._model, self._cancelled)
        match self._model.behaviour:
            case "nan":
                return float("nan")
            case "wrong":
                return 1.0 - value
            case _:
                return value


class FakeBackend:
    """Reads ``.fake`` files."""

    name = "fake"
    formats: tuple[str, ...] = (".fake",)

    def probe(self) -> list[Accelerator]:
        """Return a CPU that always works."""
        return [Accelerator("cpu", "cpu", usable=True)]

    def load(self, path: Path, accelerator: str, options: LoadOptions) -> FakeSession:
        """Load a ``.fake`` file.

        Raises:
            ModelRefused: the file, the accelerator or the promised tensors do not fit.
        """
        require_format(self, path)
        if accelerator not in ("cpu", "absent"):
            raise ModelRefused(
                f"The fake runtime has no accelerator {accelerator!r}.",
                code="ACCELERATOR_MISSING",
                remedy="Ask for cpu.",
            )
        try:
            model = msgspec.json.decode(path.read_bytes(), type=FakeModel)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ModelRefused(
                f"The runtime cannot read {path.name!r}: {error}.", remedy="Write a valid .fake file."
            ) from error
        if model.on == "load":
            misbehave(model, threading.Event())
        return FakeSession(model, accelerator, options)


def misbehave(model: FakeModel, cancelled: threading.Event) -> None:
    """Do what a native runtime should not: die, hang, fail, be slow, or eat memory.

    Raises:
        RunFailed: behaviour ``error``, or a hang that was cancelled.
    """
    match model.behaviour:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "abort":
            os.abort()
        case "hang":
            cancelled.wait()
            raise RunFailed("The run was cancelled.", remedy="Send the request again.")
        case "error":
            raise RunFailed("The fake runtime refuses.", remedy="Send the request again.")
        case "oom":
            hoard = []
            while True:
                hoard.append(np.ones(1 << 22))
        case "slow":
            time.sleep(model.delay_ms / 1000)
        case _:
            pass
