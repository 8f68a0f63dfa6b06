"""MODELS.json: what each demo file measures on the runtimes that may run it; written once, checked ever after.

Leaves running a file to `runtimes`. Times are printed, never stored: they are the machine's, not the file's.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from demo_models import runtimes

FACTS = "MODELS.json"
BUILT_WITH = ("tensorflow-cpu", "scikit-learn", "numpy", "onnx", *runtimes.MODULES)

# The golden rule signed in the demo's manifests.
MIN_TOP1_AGREEMENT = 0.99
MAX_MEAN_ABS_DIFF = 0.01

# Below this margin between the best two classes, the last bits of another CPU's int8 kernels could swap them;
# with 40 goldens a single swap already breaks the rule above.
MIN_GOLDEN_MARGIN = 0.1

# Kernels differ between CPUs in the last bit of int8, which moves a few of 500 rows at most.
ACCURACY_SLACK = 0.01

# The slow file would need half a minute for the whole stream.
SLOW_ROWS = 100

STORED = (
    "stream_rows",
    "stream_accuracy",
    "class_counts",
    "golden_top1_agreement",
    "golden_mean_abs_diff",
    "tensor_dtypes",
)


def goldens_name(version: str) -> str:
    """The goldens file of a release."""
    return f"digits-goldens-{version}.npz"


def smallest_margin(probabilities: Any) -> float:
    """The smallest distance between the best two classes over rows of probabilities [N,10]."""
    best_two = np.sort(probabilities, axis=1)[:, -2:]
    return float((best_two[:, 1] - best_two[:, 0]).min())


def write(
    folder: Path,
    recipes: Mapping[str, Any],
    mutation: Mapping[str, Any],
    costs: Mapping[str, int],
    mislabelled: Mapping[int, int],
) -> None:
    """Measures every file of the folder and writes MODELS.json.

    Args:
        folder: Where the files are.
        recipes: Release (or release and variant) -> the recipe of its network.
        mutation: What was changed in which file to make the crashing one.
        costs: Model file -> multiply-accumulates of one inference.
        mislabelled: Shown digit -> label given, in the bad release's training rows.
    """
    files: dict[str, Any] = {}
    for path in sorted(folder.glob("digits-*")):
        data = path.read_bytes()
        files[path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if path.name in costs:
            files[path.name]["multiply_accumulates"] = costs[path.name]
            files[path.name]["runtimes"] = _measure(path, stored_only=True)
        if path.suffix == ".onnx":
            files[path.name]["operators"] = _operators(path)
    with np.load(folder / "digits-stream.npz", allow_pickle=False) as stream:
        label_counts = np.bincount(stream["y"], minlength=10).tolist()
    document = {
        "source": "scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits, CC BY 4.0)",
        "built_with": {name: importlib.metadata.version(name) for name in BUILT_WITH},
        "golden_rule": {
            "min_top1_agreement": MIN_TOP1_AGREEMENT,
            "max_mean_abs_diff": MAX_MEAN_ABS_DIFF,
        },
        "recipes": {name: vars(recipe) for name, recipe in recipes.items()},
        "mislabelled": {str(shown): given for shown, given in mislabelled.items()},
        "crash_mutation": dict(mutation),
        "stream_label_counts": label_counts,
        "files": files,
    }
    (folder / FACTS).write_text(json.dumps(document, indent=1) + "\n")


def check(folder: Path) -> list[str]:
    """Measures the files again, prints a table, and returns what differs from MODELS.json, one line each."""
    document = json.loads((folder / FACTS).read_text())
    problems = []
    print(f"{'file':28}{'runtime':16}{'accuracy':>9}{'shift':>7}{'top-1':>7}{'|diff|':>10}{'ms':>9}{'bytes':>8}")
    for name, fact in document["files"].items():
        path = folder / name
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != fact["sha256"]:
            problems.append(f"{name}: the file is not the one measured")
        for runtime, now in (_measure(path) if "runtimes" in fact else {}).items():
            then = fact["runtimes"][runtime]
            _print_row(name, runtime, now, document["stream_label_counts"], len(data))
            problems += [f"{name} on {runtime}: {problem}" for problem in _differences(then, now)]
    return problems


def _measure(path: Path, stored_only: bool = False) -> dict[str, dict[str, Any]]:
    """Runtime -> what the file measures there, or how it ends."""
    goldens = path.with_name(goldens_name(path.stem.split("-")[1]))
    slow = path.stem.endswith("-slow")
    found: dict[str, dict[str, Any]] = {}
    for runtime in runtimes.runtimes_for(path):
        if slow and runtime == "tflite-runtime":
            continue  # a variant for LiteRT; without its kernels a single answer takes a third of a second
        outcome = runtimes.run(runtime, path, goldens, rows=SLOW_ROWS if slow else None)
        if outcome.measured:
            measured = outcome.measured
            found[runtime] = {key: measured[key] for key in STORED} if stored_only else measured
        else:
            found[runtime] = {
                key: value
                for key, value in (("signal", outcome.signal), ("error", outcome.error), ("stage", outcome.stage))
                if value
            }
    return found


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if "stream_accuracy" not in now or "stream_accuracy" not in then:
        was, is_now = _end(then), _end(now)
        return [] if was == is_now else [f"ended as {is_now}, was {was}"]
    problems = []
    if abs(now["stream_accuracy"] - then["stream_accuracy"]) > ACCURACY_SLACK:
        problems.append(f"accuracy {now['stream_accuracy']}, was {then['stream_accuracy']}")
    if now["golden_top1_agreement"] < MIN_TOP1_AGREEMENT or now["golden_mean_abs_diff"] > MAX_MEAN_ABS_DIFF:
        problems.append("the goldens do not pass")
    if not now["finite"]:
        problems.append("some answers are not finite")
    return problems


def _end(fact: Mapping[str, Any]) -> str:
    """The signal, or the kind of error without the words a runtime's release may change."""
    return str(fact.get("signal") or fact.get("error", "answers").partition(":")[0])


def _print_row(name: str, runtime: str, now: Mapping[str, Any], labels: list[int], size: int) -> None:
    if "stream_accuracy" not in now:
        print(f"{name:28}{runtime:16}{now.get('signal') or now.get('error')}")
        return
    counts = np.array(now["class_counts"])
    # Total variation distance between predicted and true classes, over the rows this file was shown.
    shift = np.abs(counts - np.array(now["label_counts"])).sum() / 2 / counts.sum()
    print(
        f"{name:28}{runtime:16}{now['stream_accuracy']:9.3f}{shift:7.3f}{now['golden_top1_agreement']:7.3f}"
        f"{now['golden_mean_abs_diff']:10.6f}{now['median_ms']:9.3f}{size:8}"
    )


def _operators(path: Path) -> dict[str, int]:
    """Operator -> how often the graph has it."""
    import onnx

    names = [node.op_type for node in onnx.load(path).graph.node]
    return {name: names.count(name) for name in sorted(set(names))}
