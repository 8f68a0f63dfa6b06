"""One case a runtime: the same tiny network as each of them reads it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from agent.inference.backend import LoadOptions, Port, open_backend, probe_model

OPTIONS = LoadOptions(inputs=(Port("x", "float32", (None, 4)),), outputs=(Port("y", "float32", (None, 3)),))


@dataclass(frozen=True)
class Case:
    """A runtime and its model file."""

    name: str
    path: Path
    options: LoadOptions = OPTIONS

    @property
    def backend(self):
        return open_backend(self.name)

    def load(self, options: LoadOptions | None = None):
        return self.backend.load(self.path, "cpu", options or self.options)


@pytest.fixture(params=["onnxruntime", "litert", "tflite", "fake"])
def case(request, tmp_path) -> Case:
    if request.param == "fake":
        path = tmp_path / "tiny.fake"
        ports = {"inputs": [["x", "float32", [None, 4]]], "outputs": [["y", "float32", [None, 3]]]}
        path.write_bytes(msgspec.json.encode(ports))
        return Case("fake", path)
    shipped = probe_model("tiny.onnx" if request.param == "onnxruntime" else "tiny.tflite")
    return Case(request.param, Path(shutil.copy(shipped, tmp_path)))
