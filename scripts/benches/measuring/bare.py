"""The limits beside the engine: a runtime without us, and a round trip to another process that does nothing."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ONNX_FATAL_ONLY = 4
_ECHO = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as peer:
    while data := peer.recv(65536):
        peer.sendall(b"x" * 64)
"""


@contextlib.contextmanager
def echo(length: int) -> Iterator[Callable[[], object]]:
    """Start a process that answers every message; yield what sends ``length`` bytes and waits for 64 back."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-c", _ECHO, str(theirs.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))
    message = b"x" * min(length, 65536)

    def call() -> object:
        ours.sendall(message)
        return ours.recv(64)

    try:
        call()
        yield call
    finally:
        ours.close()  # which ends the other side
        process.wait()


def bare_call(backend: str, path: Path, inputs: Mapping[str, Any]) -> Callable[[], object]:
    """Load the model of ``path``; return what runs it once on ``inputs`` and fetches its outputs.

    The settings are those of the agent's backends.

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
