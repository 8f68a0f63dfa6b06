"""A session on the TensorFlow Lite ``Interpreter``, which LiteRT and tflite-runtime share.

Leaves importing a runtime, and what it can run on, to ``litert`` and ``tflite``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelRefused, RunFailed
from agent.inference.backend import Accelerator, Io, LoadOptions, Placement, Tensors, probe_model
from agent.inference.ports import Binding, NativeTensor, Quantisation, bind, take_input
from bundles.errors import InputRefused


class TfliteSession:
    """One model in one interpreter.

    Args:
        interpreter_class: ``Interpreter`` of the runtime.
        path: a ``.tflite`` file.
        options: promised tensors and threads.

    Raises:
        ModelRefused: ``MODEL_INVALID`` or ``MODEL_IO``.
    """

    def __init__(self, interpreter_class: Any, path: Path, options: LoadOptions) -> None:
        try:
            self._interpreter: Any = interpreter_class(model_path=str(path), num_threads=options.threads)
            self._interpreter.allocate_tensors()
            natives_in = [_native(detail) for detail in self._interpreter.get_input_details()]
            natives_out = [_native(detail) for detail in self._interpreter.get_output_details()]
        except Exception as error:  # ValueError, RuntimeError, UnicodeDecodeError... the runtimes keep no family
            raise ModelRefused(
                f"The runtime cannot read {path.name!r}: {_first_line(error)}.",
                remedy="The file is damaged or needs another runtime; build the bundle again.",
            ) from error
        self._inputs = bind("input", options.inputs, [tensor for tensor, _ in natives_in])
        self._outputs = bind("output", options.outputs, [tensor for tensor, _ in natives_out])
        self._index = {tensor.name: index for tensor, index in (*natives_in, *natives_out)}
        self._shapes = {
            detail["index"]: tuple(int(n) for n in detail["shape"]) for detail in self._interpreter.get_input_details()
        }

    def io(self) -> Io:
        """Return inputs and outputs as callers see them."""
        return Io(tuple(b.port for b in self._inputs), tuple(b.port for b in self._outputs))

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Run once.

        Raises:
            InputRefused: a name, dtype or shape the model cannot take.
            RunFailed: the interpreter reported an error.
        """
        prepared = [self._prepare(binding, inputs) for binding in self._inputs]
        interpreter = self._interpreter
        try:
            for index, array in prepared:
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return {
                binding.port.name: binding.from_native(interpreter.get_tensor(self._index[binding.native.name]))
                for binding in self._outputs
            }
        except (ValueError, RuntimeError) as error:
            raise RunFailed(
                f"The runtime could not run the model: {_first_line(error)}.",
                remedy="Send the request again; if it fails again, this input cannot be served.",
            ) from error

    def placement(self) -> Placement:
        """Return the CPU with the number of graph nodes by kind; delegates count as ``DELEGATE``."""
        details: list[dict[str, Any]] = getattr(self._interpreter, "_get_ops_details", list)()
        delegated = sum(1 for op in details if op.get("op_name") == "DELEGATE")
        return Placement("cpu", {"BUILTIN": len(details) - delegated, "DELEGATE": delegated})

    def cancel(self) -> None:
        """Do nothing: the interpreter has no way to stop a run from another thread."""

    def close(self) -> None:
        """Free the interpreter."""
        self._interpreter = None

    def _prepare(self, binding: Binding, inputs: Mapping[str, NDArray[Any]]) -> tuple[int, NDArray[Any]]:
        array = take_input(binding, inputs)
        index = self._index[binding.native.name]
        if array.shape != self._shapes[index]:
            self._resize(binding, index, array.shape)
        return index, binding.to_native(array)

    def _resize(self, binding: Binding, index: int, shape: tuple[int, ...]) -> None:
        # TensorFlow Lite allocates for one shape; a dimension the file leaves open (-1) may be changed at a cost.
        try:
            self._interpreter.resize_tensor_input(index, list(shape), strict=True)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputRefused(
                f"Input {binding.port.name!r} has shape {list(shape)}, which this model file cannot take.",
                code="INPUT_SHAPE",
                remedy=f"Send the shape {list(self._shapes[index])}.",
            ) from error
        self._shapes[index] = shape


def probe_interpreter(interpreter_class: Any) -> list[Accelerator]:
    """Construct and run the tiny int8 model; importing alone proves nothing for these runtimes."""
    session = TfliteSession(interpreter_class, probe_model("tiny.tflite"), LoadOptions())
    port = session.io().inputs[0]
    zeros = np.zeros([1 if dim is None else dim for dim in port.shape], dtype=port.dtype)
    session.run({port.name: zeros})
    return [Accelerator("cpu", "cpu", usable=True)]


def _native(detail: Mapping[str, Any]) -> tuple[NativeTensor, int]:
    scale, zero_point = detail["quantization"]
    signature = detail.get("shape_signature")
    shape = signature if signature is not None and len(signature) else detail["shape"]
    tensor = NativeTensor(
        name=str(detail["name"]),
        dtype=np.dtype(detail["dtype"]).name,
        shape=tuple(None if int(dim) < 0 else int(dim) for dim in shape),
        quantisation=Quantisation(float(scale), int(zero_point)) if scale else None,
    )
    return tensor, int(detail["index"])


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
