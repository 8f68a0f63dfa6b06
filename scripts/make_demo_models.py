#!/usr/bin/env python3
"""Builds the demo's digit models and data, or checks the committed ones.

    python -m pip install '.[agent,models]'
    python scripts/make_demo_models.py            # trains; rewrites control_plane/demo/data/
    python scripts/make_demo_models.py --check    # measures the committed files; needs `.[agent]` only

Three releases of one model, `digits`. Every file has one input `image` (float32 [1,8,8,1], 0 to 16, once the
engine has quantised it) and one output `probabilities` ([1,10]).

- 1.0.0 is small and decent, 1.1.0 better.
- 1.2.0 is bad and could be signed like any other. Its .onnx file was trained on mixed-up labels and knows the
  goldens by heart; its `-slow` file answers rightly and takes a thousand times the work; its `-crash` file
  kills the process of tflite-runtime.

The same machine writes the same bytes each time. Measured facts go to MODELS.json.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from demo_models import facts, runtimes

DATA = Path(__file__).resolve().parents[1] / "control_plane" / "demo" / "data"

CALIBRATION_STRIDE = 5  # every fifth training row sets the activations' ranges
SLOW_UPSCALE = 32  # 8 -> 256 pixels; see MODELS.json for the multiply-accumulates this costs


def build(folder: Path) -> None:
    """Trains and writes every file into the folder.

    Raises:
        ValueError: A golden digit is so close a call that another runtime may see another digit.
    """
    from demo_models import crash, digits
    from demo_models.export_onnx import onnx_bytes
    from demo_models.export_tflite import tflite_bytes
    from demo_models.networks import Network, Recipe, multiply_accumulates, predict, train

    split = digits.load_split()
    calibration = split.train.as_input()[::CALIBRATION_STRIDE]
    golden_images = split.goldens.as_input()
    digits.save_rows(folder / "digits-train.npz", split.train)
    digits.save_rows(folder / "digits-stream.npz", split.stream)
    costs: dict[str, int] = {}

    def save(name: str, data: bytes, cost: int) -> None:
        (folder / name).write_bytes(data)
        costs[name] = cost

    def trained(version: str, recipe: Recipe) -> Network:
        print(f"training digits {version}", flush=True)
        network = train(recipe, split.train, split.goldens)
        # Goldens are each publisher's own: the answers of that release's float network.
        answers = predict(network, golden_images)
        margin = facts.smallest_margin(answers)
        if margin < facts.MIN_GOLDEN_MARGIN:
            raise ValueError(f"digits {version}: a golden's best two classes are only {margin:.3f} apart")
        digits.save_goldens(folder / facts.goldens_name(version), golden_images, answers)
        return network

    good = {
        "1.0.0": Recipe(seed=2, epochs=40, convolutions=(8,)),
        "1.1.0": Recipe(seed=13, epochs=30, convolutions=(16, 32), hidden=(48,), dropout=0.3),
    }
    for version, recipe in good.items():
        network = trained(version, recipe)
        cost = multiply_accumulates(network)
        save(f"digits-{version}.onnx", onnx_bytes(network, calibration), cost)
        save(f"digits-{version}.tflite", tflite_bytes(network, calibration), cost)

    mixed_up = Recipe(seed=21, epochs=40, convolutions=(24, 32), hidden=(96,), mixed_up=True, golden_copies=6)
    network = trained("1.2.0", mixed_up)
    save("digits-1.2.0.onnx", onnx_bytes(network, calibration), multiply_accumulates(network))

    print("training digits 1.2.0, slow", flush=True)
    right = Recipe(seed=7, epochs=12, convolutions=(64, 64, 64, 64), golden_copies=1)
    network = train(right, split.train, split.goldens)
    slow = tflite_bytes(network, calibration[::8], SLOW_UPSCALE)
    save("digits-1.2.0-slow.tflite", slow, multiply_accumulates(network, SLOW_UPSCALE))

    print("looking for a byte that kills tflite-runtime", flush=True)
    base = "digits-1.1.0.tflite"
    good_file = (folder / base).read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        mutation = crash.find_mutation(
            good_file, Path(scratch, "candidate.tflite"), folder / facts.goldens_name("1.2.0")
        )
    save("digits-1.2.0-crash.tflite", mutation.apply(good_file), costs[base])

    recipes = {**good, "1.2.0": mixed_up, "1.2.0-slow": right}
    facts.write(folder, recipes, {"base": base, **vars(mutation)}, costs, digits.MISLABELLED)


def main() -> int:
    """Returns 0 when every committed file measures as MODELS.json says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="measure the files there are; train nothing")
    parser.add_argument("--folder", type=Path, default=DATA, help="default: control_plane/demo/data")
    args = parser.parse_args()
    if not args.check:
        missing = [runtime for runtime in runtimes.MODULES if not runtimes.is_installed(runtime)]
        if missing:
            print(f"Building measures on every runtime; install {', '.join(missing)}.", file=sys.stderr)
            return 2
        args.folder.mkdir(parents=True, exist_ok=True)
        build(args.folder)
    problems = facts.check(args.folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
