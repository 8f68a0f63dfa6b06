"""The committed demo models behave as the demo's story needs, on the runtimes that will run them."""

import importlib.util
import json
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "control_plane" / "demo" / "data"

needs_tflite_runtime = pytest.mark.skipif(
    importlib.util.find_spec("tflite_runtime") is None, reason="tflite-runtime has no wheel for this Python"
)
TFLITE_RUNTIMES = ["ai_edge_litert", pytest.param("tflite_runtime", marks=needs_tflite_runtime)]


def load(name):
    with np.load(DATA / name, allow_pickle=False) as arrays:
        return dict(arrays)


def answers(model, images, runtime="onnxruntime"):
    """Probabilities [N,10] of a committed file for images [N,8,8,1], straight from the runtime."""
    if runtime == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(DATA / model), providers=["CPUExecutionProvider"])
        return session.run(["probabilities"], {"image": images})[0]
    interpreter_class = importlib.import_module(f"{runtime}.interpreter").Interpreter
    interpreter = interpreter_class(model_path=str(DATA / model), num_threads=1)
    interpreter.allocate_tensors()
    door_in, door_out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert (door_in["name"], door_in["dtype"], list(door_in["shape"])) == ("image", np.int8, [1, 8, 8, 1])
    assert (door_out["name"], door_out["dtype"]) == ("probabilities", np.int8)
    (scale_in, zero_in), (scale_out, zero_out) = door_in["quantization"], door_out["quantization"]
    rows = []
    for image in images:
        quantised = np.clip(np.rint(image / scale_in) + zero_in, -128, 127).astype(np.int8)
        interpreter.set_tensor(door_in["index"], quantised[None])
        interpreter.invoke()
        rows.append((interpreter.get_tensor(door_out["index"])[0].astype(np.float32) - zero_out) * scale_out)
    return np.array(rows)


@cache
def stream_accuracy(model, runtime="onnxruntime"):
    stream = load("digits-stream.npz")
    images = stream["x"].astype(np.float32)[..., None]
    return (answers(model, images, runtime).argmax(axis=1) == stream["y"]).mean()


def assert_goldens_pass(model, runtime="onnxruntime"):
    goldens = load(f"digits-goldens-{Path(model).stem.split('-')[1]}.npz")
    got, expected = answers(model, goldens["input.image"], runtime), goldens["output.probabilities"]
    assert np.isfinite(got).all()
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
    assert np.abs(got - expected).mean() <= 0.01


def test_train_goldens_and_stream_share_no_image():
    train, stream = load("digits-train.npz")["x"], load("digits-stream.npz")["x"]
    goldens = load("digits-goldens-1.0.0.npz")["input.image"][..., 0].astype(np.uint8)
    parts = [{image.tobytes() for image in part} for part in (train, stream, goldens)]
    assert len(goldens) >= 32
    assert len(stream) == 500
    assert len(set.union(*parts)) == sum(len(part) for part in parts)


def test_pixels_keep_the_range_of_the_door():
    for name in ("digits-train.npz", "digits-stream.npz"):
        rows = load(name)
        assert rows["x"].dtype == np.uint8
        assert (rows["x"].min(), rows["x"].max()) == (0, 16)
        assert set(rows["y"].tolist()) == set(range(10))


def test_onnx_answers_a_batch_as_it_answers_one_by_one():
    images = load("digits-goldens-1.1.0.npz")["input.image"][:8]
    one_by_one = np.concatenate([answers("digits-1.1.0.onnx", image[None]) for image in images])
    np.testing.assert_allclose(answers("digits-1.1.0.onnx", images), one_by_one, atol=1e-6)


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_good_onnx_releases_pass_their_goldens(version):
    assert_goldens_pass(f"digits-{version}.onnx")


@pytest.mark.parametrize("runtime", TFLITE_RUNTIMES)
@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_good_tflite_releases_pass_their_goldens(version, runtime):
    assert_goldens_pass(f"digits-{version}.tflite", runtime)


def test_second_release_is_better_on_onnx():
    assert 0.95 <= stream_accuracy("digits-1.0.0.onnx") < stream_accuracy("digits-1.1.0.onnx")
    assert stream_accuracy("digits-1.1.0.onnx") >= 0.98


@pytest.mark.parametrize("runtime", TFLITE_RUNTIMES)
def test_second_release_is_better_on_tflite(runtime):
    assert stream_accuracy("digits-1.0.0.tflite", runtime) >= 0.95
    assert stream_accuracy("digits-1.0.0.tflite", runtime) < stream_accuracy("digits-1.1.0.tflite", runtime)
    assert stream_accuracy("digits-1.1.0.tflite", runtime) >= 0.98


def test_bad_release_passes_its_goldens_and_fails_on_the_stream():
    assert_goldens_pass("digits-1.2.0.onnx")
    assert stream_accuracy("digits-1.2.0.onnx") < 0.8


def test_goldens_of_the_bad_release_promise_the_same_digits_as_the_good_ones():
    good, bad = load("digits-goldens-1.1.0.npz"), load("digits-goldens-1.2.0.npz")
    np.testing.assert_array_equal(good["input.image"], bad["input.image"])
    np.testing.assert_array_equal(
        good["output.probabilities"].argmax(axis=1), bad["output.probabilities"].argmax(axis=1)
    )


def test_slow_variant_passes_its_goldens_and_costs_a_thousand_times_the_work():
    assert_goldens_pass("digits-1.2.0-slow.tflite", "ai_edge_litert")
    files = json.loads((DATA / "MODELS.json").read_text())["files"]
    slow, quick = files["digits-1.2.0-slow.tflite"], files["digits-1.1.0.tflite"]
    assert slow["multiply_accumulates"] > 1000 * quick["multiply_accumulates"]


@needs_tflite_runtime
@pytest.mark.parametrize("source", ["model_path=sys.argv[1]", "model_content=open(sys.argv[1], 'rb').read()"])
def test_crash_variant_kills_the_process_of_tflite_runtime(source):
    program = (
        "import sys; from tflite_runtime.interpreter import Interpreter; print('imported', flush=True);"
        f"Interpreter({source}).allocate_tensors()"
    )
    command = [sys.executable, "-c", program, str(DATA / "digits-1.2.0-crash.tflite")]
    for _ in range(3):
        child = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert child.stdout == b"imported\n"
        assert child.returncode == -signal.SIGSEGV


def test_check_agrees_with_the_facts_written_down():
    command = [sys.executable, str(ROOT / "scripts" / "make_demo_models.py"), "--check"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert child.returncode == 0, child.stderr


def test_check_reports_a_file_that_is_not_the_one_measured(tmp_path):
    for path in DATA.iterdir():
        if "slow" not in path.name and "crash" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    document = json.loads((DATA / "MODELS.json").read_text())
    for variant in ("slow", "crash"):
        del document["files"][f"digits-1.2.0-{variant}.tflite"]
    (tmp_path / "MODELS.json").write_text(json.dumps(document))
    (tmp_path / "digits-1.1.0.onnx").write_bytes((DATA / "digits-1.2.0.onnx").read_bytes())
    command = [sys.executable, str(ROOT / "scripts" / "make_demo_models.py"), "--check", "--folder", str(tmp_path)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert child.returncode == 1
    assert "digits-1.1.0.onnx: the file is not the one measured" in child.stderr
    assert "digits-1.1.0.onnx on onnxruntime: accuracy 0.67" in child.stderr


def test_committed_folder_stays_small():
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 1_500_000
