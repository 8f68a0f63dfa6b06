import threading

import numpy as np
import pytest

from agent.inference.prediction import Prediction
from agent.runner.stream import Accuracy, Camera, box_blur, load_rows
from bundles.contract import Contract, TensorSpec
from bundles.errors import AskPerson, TryAgain

CONTRACT = Contract([TensorSpec("image", "float32", [1, 8, 8, 1])], [TensorSpec("scores", "float32", [1, 10])])


@pytest.fixture
def rows(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.integers(0, 17, (12, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "rows.npz", x=x, y=np.arange(12, dtype=np.uint8) % 10)
    return load_rows(tmp_path / "rows.npz")


def test_rows_come_in_the_contracts_dtype_and_shape(rows):
    inputs = rows.inputs(3, CONTRACT, is_blurred=False)
    assert list(inputs) == ["image"]
    assert (inputs["image"].dtype, inputs["image"].shape) == (np.float32, (1, 8, 8, 1))
    assert (inputs["image"][0, :, :, 0] == rows.x[3]).all()
    assert not np.array_equal(rows.inputs(3, CONTRACT, is_blurred=True)["image"], inputs["image"])


def test_a_blur_keeps_flat_images_and_averages_edges_away():
    flat = np.full((1, 8, 8), 7, np.uint8)
    assert (box_blur(flat) == flat).all()
    point = np.zeros((1, 8, 8), np.uint8)
    point[0, 4, 4] = 9
    blurred = box_blur(point)
    assert blurred[0, 3:6, 3:6].tolist() == [[1, 1, 1]] * 3
    assert blurred.sum() == 9


@pytest.mark.parametrize(
    "arrays", [{}, {"x": np.zeros((3, 8)), "y": np.zeros(3)}, {"x": np.zeros((3, 8, 8)), "y": np.zeros(2)}]
)
def test_a_file_that_is_no_stream_is_told(tmp_path, arrays):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(AskPerson) as caught:
        load_rows(tmp_path / "bad.npz")
    assert caught.value.code == "STREAM_FILE"


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(AskPerson):
        load_rows(tmp_path / "none.npz")


def test_accuracy_is_counted_by_bundle_and_by_window():
    accuracy = Accuracy()
    accuracy.count("a", is_right=True)
    accuracy.count("a", is_right=False)
    accuracy.count("b", is_right=True)
    assert (accuracy.cut("a").n, accuracy.cut("a").n) == (2, 0)
    assert {sha: (entry.n, entry.right) for sha, entry in accuracy.total().items()} == {"a": (2, 1), "b": (1, 1)}


def test_the_camera_asks_row_by_row_waits_for_a_model_and_counts_what_is_right(rows):
    accuracy, enough, asked = Accuracy(), threading.Event(), []
    contracts = iter([None, CONTRACT])

    def ask(inputs):
        asked.append(inputs["image"][0, :, :, 0])
        if len(asked) == 2:
            raise TryAgain("busy")
        if len(asked) == 6:
            enough.set()
        scores = np.zeros((1, 10), np.float32)
        scores[0, 0] = 1  # always says 0: right for every tenth row
        return Prediction({"scores": scores}, "m", "1", "sha", 0.1, "id")

    camera = Camera(rows, 10, 500.0, ask, lambda: next(contracts, CONTRACT), lambda: False, accuracy)
    camera.start()
    assert enough.wait(20)
    camera.close()
    assert [next(i for i in range(12) if (rows.x[i] == image).all()) for image in asked[:6]] == [10, 11, 0, 1, 2, 3]
    counted = accuracy.total()["sha"]
    assert counted.n >= 4
    assert counted.right >= 2  # rows 10 and 0 are zeros
