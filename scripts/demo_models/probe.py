"""Runs one model file on one runtime: the program of a child process, since the file may kill it.

Started by `runtimes`. Needs numpy and the runtime asked for, nothing of training. Prints the stage it has
reached, line by line, and at the end one line of JSON with what it measured.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[Array], Array]

WARM_UPS = 3
TIMED_RUNS = 20


def load_onnxruntime(path: Path, from_memory: bool) -> tuple[Run, list[str]]:
    """Opens an .onnx file on the CPU; float doors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    source = path.read_bytes() if from_memory else str(path)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    print("constructed", flush=True)
    return lambda image: session.run(["probabilities"], {"image": image})[0], []


def load_interpreter(interpreter: Any, path: Path, from_memory: bool) -> tuple[Run, list[str]]:
    """Opens a .tflite file and puts float doors around its int8 tensors."""
    source = {"model_content": path.read_bytes()} if from_memory else {"model_path": str(path)}
    model = interpreter(num_threads=1, **source)
    print("constructed", flush=True)
    model.allocate_tensors()
    print("allocated", flush=True)
    door_in, door_out = model.get_input_details()[0], model.get_output_details()[0]
    (scale_in, zero_in), (scale_out, zero_out) = door_in["quantization"], door_out["quantization"]

    def run(image: Array) -> Array:
        quantised = np.clip(np.rint(image / scale_in) + zero_in, -128, 127).astype(door_in["dtype"])
        model.set_tensor(door_in["index"], quantised)
        model.invoke()
        answer = model.get_tensor(door_out["index"]).astype(np.float32)
        return np.asarray((answer - zero_out) * scale_out, np.float32)

    return run, sorted({np.dtype(tensor["dtype"]).name for tensor in model.get_tensor_details()})


def load(runtime: str, path: Path, from_memory: bool) -> tuple[Run, list[str]]:
    """Opens a file on the runtime of that distribution name; the second value lists its tensors' dtypes."""
    if runtime == "onnxruntime":
        return load_onnxruntime(path, from_memory)
    if runtime == "ai-edge-litert":
        from ai_edge_litert.interpreter import Interpreter
    else:
        from tflite_runtime.interpreter import Interpreter
    return load_interpreter(Interpreter, path, from_memory)


def measure(run: Run, stream: tuple[Array, Array], goldens: tuple[Array, Array]) -> dict[str, Any]:
    """Accuracy and predicted class counts on labelled rows, agreement with goldens, and the time of a call."""
    images, labels = stream
    predicted = np.concatenate([run(image[None]) for image in images]).argmax(axis=1)
    print("invoked", flush=True)
    inputs, expected = goldens
    answers = np.concatenate([run(image[None]) for image in inputs])
    times_ms = []
    for number in range(WARM_UPS + TIMED_RUNS):
        started = time.perf_counter()
        run(inputs[number % len(inputs)][None])
        times_ms.append((time.perf_counter() - started) * 1e3)
    classes = expected.shape[1]
    return {
        "stream_rows": len(labels),
        "stream_accuracy": round(float((predicted == labels).mean()), 4),
        "class_counts": np.bincount(predicted, minlength=classes).tolist(),
        "label_counts": np.bincount(labels, minlength=classes).tolist(),
        "golden_top1_agreement": round(float((answers.argmax(1) == expected.argmax(1)).mean()), 4),
        # Probabilities range over 0 to 1, so this is the share of the output range too.
        "golden_mean_abs_diff": round(float(np.abs(answers - expected).mean()), 6),
        "finite": bool(np.isfinite(answers).all()),
        "median_ms": round(float(np.median(times_ms[WARM_UPS:])), 4),
    }


def main() -> None:
    """Loads, runs, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runtime", choices=["onnxruntime", "ai-edge-litert", "tflite-runtime"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--stream", type=Path, required=True)
    parser.add_argument("--goldens", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=None, help="only the first rows of the stream")
    parser.add_argument("--from-memory", action="store_true")
    args = parser.parse_args()
    with np.load(args.stream, allow_pickle=False) as rows:
        stream = rows["x"][: args.rows].astype(np.float32)[..., None], rows["y"][: args.rows]
    with np.load(args.goldens, allow_pickle=False) as arrays:
        goldens = arrays["input.image"], arrays["output.probabilities"]
    run, dtypes = load(args.runtime, args.model, args.from_memory)
    print(json.dumps({**measure(run, stream, goldens), "tensor_dtypes": dtypes}))


if __name__ == "__main__":
    main()
