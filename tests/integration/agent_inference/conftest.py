"""Fake models that misbehave, the project's own digits, and an engine that is closed after each test."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.inference.engine import Engine
from agent.inference.launch import Launcher
from agent.inference.spec import ModelSpec
from bundles.contract import Contract, TensorSpec, check

DATA = Path(__file__).parents[3] / "control_plane" / "demo" / "data"
FAKE_CONTRACT = Contract(
    inputs=[TensorSpec("x", "float32", [1, 4], min=-1.0, max=1.0)],
    outputs=[TensorSpec("y", "float32", [1, 2], min=-2.0, max=2.0)],
    task="regression",
)
DIGITS_CONTRACT = Contract(
    inputs=[TensorSpec("image", "float32", [1, 8, 8, 1], min=0.0, max=16.0, kind="image")],
    outputs=[TensorSpec("probabilities", "float32", [1, 10], min=0.0, max=1.0)],
    task="classification",
    labels=[str(digit) for digit in range(10)],
)
X = {"x": np.array([[0.1, 0.2, 0.3, 0.4]], dtype=np.float32)}
MEAN = 0.25


@pytest.fixture
def x():
    return X


@pytest.fixture
def digits_contract():
    return DIGITS_CONTRACT


@pytest.fixture
def fake(tmp_path) -> Callable[..., ModelSpec]:
    """Write a fake model; ``spec_`` arguments go to the ModelSpec, the others into the file."""

    def make(version: str = "1.0.0", **fields) -> ModelSpec:
        spec = {key.removeprefix("spec_"): fields.pop(key) for key in list(fields) if key.startswith("spec_")}
        path = tmp_path / f"{version}.fake"
        model = {"inputs": [["x", "float32", [1, 4]]], "outputs": [["y", "float32", [1, 2]]], **fields}
        path.write_bytes(msgspec.json.encode(model))
        defaults = {
            "model": "team/fake",
            "sha256": "f" * 64,
            "version": version,
            "variant_id": "any",
            "backend": "fake",
            "model_path": path,
            "contract": FAKE_CONTRACT,
            "run_deadline_s": 20.0,
        }
        return ModelSpec(**(defaults | spec))

    return make


@pytest.fixture
def digits() -> Callable[..., ModelSpec]:
    """Name one of the project's own models."""

    def make(version: str, backend: str, **more) -> ModelSpec:
        suffix = ".onnx" if backend == "onnxruntime" else ".tflite"
        path = DATA / f"digits-{version}{suffix}"
        spec = ModelSpec("shop/digits", "d" * 64, version, backend, backend, path, DIGITS_CONTRACT)
        return replace(spec, **more)

    return make


@pytest.fixture
def goldens(tmp_path) -> Callable[..., Path]:
    """Write goldens a fake model agrees with."""

    def make(value: float = MEAN, count: int = 4) -> Path:
        path = tmp_path / "goldens.npz"
        inputs = np.tile(X["x"], (count, 1))
        for row in inputs:
            check(FAKE_CONTRACT, {"x": row[None]})
        np.savez(path, **{"input.x": inputs, "output.y": np.full((count, 2), value, dtype=np.float32)})
        return path

    return make


@pytest.fixture
def clock():
    """A clock that tests set by hand, in seconds."""

    class Clock:
        now = 1000.0

        def __call__(self) -> float:
            return self.now

    return Clock()


@pytest.fixture(scope="session")
def fork_servers():
    """Fork servers shared by the tests: each takes as long to start as a runtime to import."""
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture
def engine(clock, fork_servers):
    engine = Engine(clock=clock, launcher=fork_servers)
    yield engine
    engine.close()


@pytest.fixture
def wait_until():
    """Wait for a condition, for a generous while."""

    def wait(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, f"waited {limit_s} s in vain: {what}"
            time.sleep(0.01)

    return wait


@pytest.fixture
def is_running():
    """Say whether a process exists and is more than a zombie nobody collected."""

    def ask(pid: int) -> bool:
        try:
            os.kill(pid, 0)
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (ProcessLookupError, FileNotFoundError):
            return False

    return ask
