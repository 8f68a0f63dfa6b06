"""The demo's releases as project files, as a model's maker would write them, for the real commands to build and sign.

Versions of one digit reader, int8, for two kinds of camera: ``cam-a`` runs ONNX Runtime, ``cam-b`` LiteRT or
tflite-runtime. 0.9.0 is a pilot that was published and never rolled out; 1.2.0 is validly signed and bad in three
ways, one a variant: see ``scripts/make_demo_models.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

TEAM, MODEL = "vision", "digits"
MODEL_KEY = f"{TEAM}/{MODEL}"
DATA = Path(str(resources.files("control_plane.demo"))) / "data"
VALIDATION_ROWS = 200
"""Held-out digits baselines are made from: what a model says of its training rows is too sure to compare with."""
CONTRACT = {
    "format_version": 1,
    "task": "classification",
    "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 8, 8, 1], "min": 0.0, "max": 16.0, "kind": "image"}],
    "outputs": [{"name": "probabilities", "dtype": "float32", "shape": [1, 10], "kind": "other"}],
    "labels": [str(digit) for digit in range(10)],
}


@dataclass(frozen=True)
class Release:
    """One version and its model files; ``goldens`` names the version whose goldens it shares, if not its own."""

    version: str
    counter: int
    onnx: str
    litert: str
    tflite: str
    goldens: str = ""

    @property
    def file_name(self) -> str:
        """Name of its archive."""
        return f"{MODEL}-{self.version}.wgb"


PILOT = "0.9.0"
RELEASES = {
    PILOT: Release(PILOT, 1, "digits-1.0.0.onnx", "digits-1.0.0.tflite", "digits-1.0.0.tflite", "1.0.0"),
    "1.0.0": Release("1.0.0", 2, "digits-1.0.0.onnx", "digits-1.0.0.tflite", "digits-1.0.0.tflite"),
    "1.1.0": Release("1.1.0", 3, "digits-1.1.0.onnx", "digits-1.1.0.tflite", "digits-1.1.0.tflite"),
    "1.2.0": Release("1.2.0", 4, "digits-1.2.0.onnx", "digits-1.2.0-slow.tflite", "digits-1.2.0-crash.tflite"),
}


def split_stream(folder: Path) -> tuple[Path, Path]:
    """Split the held-out digits into those baselines are made from and those cameras see; return both files."""
    import numpy as np

    with np.load(DATA / "digits-stream.npz", allow_pickle=False) as held_out:
        x, y = held_out["x"], held_out["y"]
    validation, stream = folder / "digits-validation.npz", folder / "digits-stream.npz"
    np.savez(validation, x=x[:VALIDATION_ROWS], y=y[:VALIDATION_ROWS])
    np.savez(stream, x=x[VALIDATION_ROWS:], y=y[VALIDATION_ROWS:])
    return validation, stream


def write_project(folder: Path, release: Release, validation: Path) -> Path:
    """Write ``bundle.toml`` and the contract of ``release`` into ``folder``; return the path of the project file.

    Args:
        folder: of the project.
        release: what to write down.
        validation: held-out rows the baseline of its answers is made from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contract.json").write_text(json.dumps(CONTRACT, indent=2) + "\n")
    variants = [
        ("onnx-int8", "onnxruntime", release.onnx),
        ("litert-int8", "litert", release.litert),
        ("tflite-int8", "tflite", release.tflite),
    ]
    lines = [
        'contract = "contract.json"',
        f'goldens = "{DATA / f"digits-goldens-{release.goldens or release.version}.npz"}"',
        "",
        "[bundle]",
        f'team = "{TEAM}"',
        f'model = "{MODEL}"',
        f'version = "{release.version}"',
        f"release_counter = {release.counter}",
        'channel = "prod"',
        'licence = "Apache-2.0"',
        "",
        "[training]",
        f'rows = "{DATA / "digits-train.npz"}"',
        "",
        "[validation]",
        f'rows = "{validation}"',
    ]
    for name, runtime, file in variants:
        lines += ["", "[[variants]]", f'id = "{name}"', f'runtime = "{runtime}"', f'file = "{DATA / file}"']
    path = folder / "bundle.toml"
    path.write_text("\n".join(lines) + "\n")
    return path
