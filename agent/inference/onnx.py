"""The ONNX Runtime backend, on whichever execution provider is asked for and proved to be used.

A missing provider is only a warning to ONNX Runtime, which then runs on the CPU; ``placement`` reads back where the
graph really went. The Azure provider is filtered out: it is a remote service, not an accelerator of this device.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from agent.errors import ModelRefused, RunFailed
from agent.inference.backend import (
    Accelerator,
    Io,
    LoadOptions,
    Placement,
    Tensors,
    accelerator_kind,
    probe_model,
    require_format,
)
from agent.inference.onnx_graph import read_quantisation
from agent.inference.ports import NativeTensor, bind, take_input

_SUFFIX = "ExecutionProvider"
_NOT_LOCAL = frozenset({"AzureExecutionProvider"})
_CPU = "CPUExecutionProvider"
_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(bool)": "bool"}
_QUIET = 4  # fatal only: what matters comes back as an exception, and the banner would end in an application's log


class OnnxSession:
    """One model in one ``InferenceSession``.

    Raises:
        ModelRefused: ``MODEL_INVALID`` or ``MODEL_IO``.
    """

    def __init__(self, path: Path, provider: str, options: LoadOptions) -> None:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = _QUIET
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        providers = [provider] if provider == _CPU else [provider, _CPU]
        try:
            self._session: Any = ort.InferenceSession(str(path), settings, providers=providers)
            natives = [
                [_native(arg) for arg in side] for side in (self._session.get_inputs(), self._session.get_outputs())
            ]
        except Exception as error:  # the runtime's exceptions derive from Exception and nothing narrower
            raise ModelRefused(
                f"The runtime cannot read {path.name!r}: {_reason(error)}.",
                remedy="The file is damaged or needs another runtime; build the bundle again.",
            ) from error
        if any(tensor.dtype in ("int8", "uint8", "int16", "uint16") for side in natives for tensor in side):
            known = read_quantisation(path.read_bytes())
            natives = [[NativeTensor(t.name, t.dtype, t.shape, known.get(t.name)) for t in side] for side in natives]
        self._inputs = bind("input", options.inputs, natives[0])
        self._outputs = bind("output", options.outputs, natives[1])
        self._output_names = [binding.native.name for binding in self._outputs]
        self._run_options: Any = None
        self._placement = self._read_placement(provider)

    def io(self) -> Io:
        """Return inputs and outputs as callers see them."""
        return Io(tuple(b.port for b in self._inputs), tuple(b.port for b in self._outputs))

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Run once.

        Raises:
            InputRefused: a name, dtype or shape the model cannot take.
            RunFailed: the runtime reported an error.
        """
        feed = {b.native.name: b.to_native(take_input(b, inputs)) for b in self._inputs}
        self._run_options = run_options = ort.RunOptions()
        run_options.log_severity_level = _QUIET
        try:
            answers = self._session.run(self._output_names, feed, run_options)
        except Exception as error:  # see __init__
            raise RunFailed(
                f"The runtime could not run the model: {_reason(error)}.",
                remedy="Send the request again; if it fails again, this input cannot be served.",
            ) from error
        finally:
            self._run_options = None
        return {b.port.name: b.from_native(array) for b, array in zip(self._outputs, answers, strict=True)}

    def placement(self) -> Placement:
        """Return the first provider in use, with graph nodes by provider."""
        return self._placement

    def cancel(self) -> None:
        """Stop a run in progress at its next operator."""
        run_options = self._run_options
        if run_options is not None:
            run_options.terminate = True

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _read_placement(self, asked: str) -> Placement:
        nodes: Counter[str] = Counter()
        if hasattr(self._session, "get_provider_graph_assignment_info"):
            for subgraph in self._session.get_provider_graph_assignment_info():
                nodes[_accelerator_id(subgraph.ep_name)] += len(subgraph.get_nodes())
        first = self._session.get_providers()[0]
        # A provider that is listed and was given no node is a fallback all the same.
        used = first if first != asked or not nodes or nodes[_accelerator_id(first)] else _CPU
        return Placement(_accelerator_id(used), dict(nodes))


class OnnxBackend:
    """Runs ``.onnx`` files."""

    name = "onnxruntime"
    formats: tuple[str, ...] = (".onnx",)

    def probe(self) -> list[Accelerator]:
        """Construct and run the tiny model on each local provider."""
        return [self._probe(provider) for provider in ort.get_available_providers() if provider not in _NOT_LOCAL]

    def load(self, path: Path, accelerator: str, options: LoadOptions) -> OnnxSession:
        """Load an ``.onnx`` file.

        Raises:
            ModelRefused: the file, the accelerator or the promised tensors do not fit.
        """
        require_format(self, path)
        local = {_accelerator_id(p): p for p in ort.get_available_providers() if p not in _NOT_LOCAL}
        if accelerator not in local:
            raise ModelRefused(
                f"ONNX Runtime has no accelerator {accelerator!r} on this device.",
                code="ACCELERATOR_MISSING",
                remedy=f"Ask for one of {', '.join(sorted(local))}, or for another variant of the bundle.",
            )
        return OnnxSession(path, local[accelerator], options)

    def _probe(self, provider: str) -> Accelerator:
        accelerator = _accelerator_id(provider)
        kind = accelerator_kind(accelerator)
        try:
            session = OnnxSession(probe_model("tiny.onnx"), provider, LoadOptions())
            port = session.io().inputs[0]
            session.run({port.name: np.zeros([dim or 1 for dim in port.shape], dtype=port.dtype)})
        except (ModelRefused, RunFailed) as error:
            return Accelerator(accelerator, kind, usable=False, reason=error.sentence)
        placed = session.placement().accelerator
        reason = "" if placed == accelerator else f"the runtime fell back to {placed}"
        return Accelerator(accelerator, kind, usable=not reason, reason=reason)


def _accelerator_id(provider: str) -> str:
    return provider.removesuffix(_SUFFIX).lower()


def _native(arg: Any) -> NativeTensor:
    dtype = _DTYPES.get(arg.type) or str(arg.type).removeprefix("tensor(").removesuffix(")")
    np.dtype(dtype)  # strings, sequences and maps are no tensors of ours: TypeError ends the load
    shape = tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in arg.shape)
    return NativeTensor(str(arg.name), dtype, shape)


def _reason(error: Exception) -> str:
    # "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from ... failed:Protobuf parsing failed."
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.removeprefix("[ONNXRuntimeError] : ").rstrip(".")
