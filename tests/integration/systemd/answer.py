"""Prints what a digit reader answers in a worker of the engine: ``python answer.py RUNTIME``."""

import sys
from pathlib import Path

import numpy as np

from agent.inference.engine import Engine
from agent.inference.spec import ModelSpec
from bundles.contract import Contract, TensorSpec

DATA = Path(__file__).parents[3] / "control_plane" / "demo" / "data"
CONTRACT = Contract(
    inputs=[TensorSpec("image", "float32", [1, 8, 8, 1], min=0.0, max=16.0, kind="image")],
    outputs=[TensorSpec("probabilities", "float32", [1, 10], min=0.0, max=1.0)],
    task="classification",
    labels=[str(digit) for digit in range(10)],
)


def main(runtime):
    suffix = ".onnx" if runtime == "onnxruntime" else ".tflite"
    path = DATA / f"digits-1.1.0{suffix}"
    engine = Engine()
    try:
        engine.load(ModelSpec("vision/digits", "d" * 64, "1.1.0", "any", runtime, path, CONTRACT))
        image = (np.arange(64, dtype=np.float32) % 17).reshape(1, 8, 8, 1)
        answer = engine.infer({"image": image})
        print(*(f"{value:.5f}" for value in answer.outputs["probabilities"].ravel()))
    finally:
        engine.close()


if __name__ == "__main__":
    main(sys.argv[1])
