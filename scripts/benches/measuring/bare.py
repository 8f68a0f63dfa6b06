"""A runtime without us: one call of a loaded model, with the settings the agent's backends use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ONNX_FATAL_ONLY = 4


def bare_call(backend: str, path: Path, inputs: Mapping[str, Any]) -> Callable[[], object]:
    """Load the model of ``path`` and return what runs it once on ``inputs`` and fetches its outputs.

    Args:
        backend: ``onnxruntime`` or ``litert``.
        path: the model's file.
        inputs: native tensor name -> array of the native dtype and shape.
    """
    return _onnxruntime(path, inputs) if backend == "onnxruntime" else _litert(path, inputs)


def _onnxruntime(path: Path, inputs: Mapping[str, Any]) -> Callable[[], object]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = ONNX_FATAL_ONLY
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    feed = dict(inputs)
    return lambda: session.run(None, feed)


def _litert(path: Path, inputs: Mapping[str, Any]) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    feed = [(detail["index"], inputs[detail["name"]]) for detail in interpreter.get_input_details()]
    wanted = [detail["index"] for detail in interpreter.get_output_details()]

    def call() -> list[Any]:
        for index, array in feed:
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in wanted]

    return call
