"""Measures a model file on an inference runtime, always in a fresh child process (see `probe`)."""

import importlib.util
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULES = {
    "onnxruntime": "onnxruntime",
    "ai-edge-litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
}
CHILD_TIMEOUT_S = 300


@dataclass(frozen=True)
class Outcome:
    """How the child ended.

    `signal` names what killed it, `error` is its last word when it raised, `stage` the last stage it reached:
    "", "constructed", "allocated" or "invoked". `measured` is empty unless it ended well.
    """

    stage: str
    signal: str
    error: str
    measured: dict[str, Any]


def is_installed(runtime: str) -> bool:
    """Whether this interpreter could import the runtime of that distribution name."""
    return importlib.util.find_spec(MODULES[runtime]) is not None


def runtimes_for(model: Path) -> list[str]:
    """The installed runtimes that read such a file."""
    wanted = ["onnxruntime"] if model.suffix == ".onnx" else ["ai-edge-litert", "tflite-runtime"]
    return [runtime for runtime in wanted if is_installed(runtime)]


def run(runtime: str, model: Path, goldens: Path, rows: int | None = None, from_memory: bool = False) -> Outcome:
    """Runs the file over the stream and over the goldens.

    Args:
        runtime: A distribution name of `MODULES`.
        model: The file.
        goldens: The release's goldens, in the folder of `digits-stream.npz`.
        rows: Only so many rows of the stream, where the model is slow.
        from_memory: Hand the runtime bytes rather than a path: it places them elsewhere in memory.
    """
    stream = goldens.with_name("digits-stream.npz")
    command = [sys.executable, str(Path(__file__).with_name("probe.py")), runtime, str(model)]
    command += ["--stream", str(stream), "--goldens", str(goldens)]
    command += [] if rows is None else ["--rows", str(rows)]
    command += ["--from-memory"] if from_memory else []
    child = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=CHILD_TIMEOUT_S, check=False
    )
    said = child.stdout.split("\n")[:-1]
    stage = next((word for word in reversed(said) if not word.startswith("{")), "")
    if child.returncode < 0:
        return Outcome(stage, signal.Signals(-child.returncode).name, "", {})
    if child.returncode > 0:
        return Outcome(stage, "", (child.stderr.strip().splitlines() or ["?"])[-1], {})
    return Outcome(stage, "", "", json.loads(said[-1]))
