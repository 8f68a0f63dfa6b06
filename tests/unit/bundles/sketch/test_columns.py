import math

import numpy as np
import pytest

from bundles.contract import TensorSpec
from bundles.sketch.columns import IMAGE_COLUMNS, classify, image_columns, input_columns, output_columns

SEED = 3
LABELS = ["cat", "dog", "owl"]


def image_spec(name="image", **options):
    return TensorSpec(name=name, dtype="float32", shape=[None, 8, 8, 1], kind="image", **options)


def scores_spec(**options):
    return TensorSpec(name="scores", dtype="float32", shape=[None, 3], **options)


def random_images(*shape):
    return np.random.default_rng(SEED).random(shape)


def test_brightness_contrast_and_saturation_by_hand():
    image = np.zeros((1, 4, 4, 1))
    image[0, :, 2:] = 1.0
    found = image_columns(image, 0.0, 1.0)
    assert {name: float(v[0]) for name, v in found.items() if name != "sharpness"} == {
        "brightness": 0.5,
        "contrast": 0.5,
        "saturation_share": 0.5,
    }


@pytest.mark.parametrize(("width", "expected"), [(1, 2.0), (2, 1.0), (4, 0.5)])
def test_sharpness_is_two_over_the_width_of_an_edge(width, expected):
    row = np.clip((np.arange(64) - 20) / width, 0, 1)
    image = np.broadcast_to(row, (30, 64))[None]
    across = image_columns(image, 0.0, 1.0)["sharpness"][0]
    assert across == pytest.approx(expected, rel=0.01)


def test_sharpness_does_not_follow_exposure_or_gain():
    images = random_images(5, 8, 8, 1)
    plain, dim = image_columns(images, 0, 1)["sharpness"], image_columns(images * 0.4 + 0.2, 0, 1)["sharpness"]
    assert dim == pytest.approx(plain)


def test_a_flat_image_has_no_sharpness():
    assert image_columns(np.full((2, 8, 8, 1), 0.5), 0, 1)["sharpness"].tolist() == [0.0, 0.0]
    assert image_columns(np.full((1, 1, 2, 1), 0.5), 0, 1)["sharpness"].tolist() == [0.0]


@pytest.mark.parametrize("shape", [(3, 8, 8, 1), (3, 8, 8), (3, 32, 40, 3), (3, 33, 35, 3), (3, 2, 9, 1)])
def test_images_of_any_layout_give_one_value_a_row(shape):
    found = image_columns(random_images(*shape), 0, 1)
    assert tuple(found) == IMAGE_COLUMNS
    assert all(v.shape == (3,) and np.isfinite(v).all() for v in found.values())


def test_large_images_are_sampled_and_still_agree_with_the_whole():
    images = random_images(1, 512, 512, 3)
    sampled = image_columns(images, 0, 1)
    assert sampled["brightness"][0] == pytest.approx(images.mean(), abs=0.01)
    assert sampled["contrast"][0] == pytest.approx(images.mean(axis=3).std(), abs=0.01)
    # White noise: sd of second over sd of first differences is sqrt(6) / sqrt(2).
    assert sampled["sharpness"][0] == pytest.approx(math.sqrt(3), abs=0.03)


def test_a_row_gives_the_same_numbers_alone_and_in_a_batch():
    images = random_images(6, 8, 8, 1).astype(np.float32)
    batch = input_columns({"image": images}, [image_spec()])
    for row in range(6):
        alone = input_columns({"image": images[row : row + 1]}, [image_spec()])
        for name, v in alone.items():
            assert v[0] == pytest.approx(batch[name][row], rel=1e-12)


def test_saturation_is_held_against_the_range_of_the_contract_else_of_the_type():
    declared = input_columns({"image": np.full((1, 8, 8, 1), 4.0)}, [image_spec(min=-4.0, max=4.0)])
    unsigned = input_columns({"image": np.full((1, 8, 8, 1), 251, dtype=np.uint8)}, [image_spec()])
    floats = input_columns({"image": np.full((1, 8, 8, 1), 0.9)}, [image_spec()])
    assert [c["saturation_share"][0] for c in (declared, unsigned, floats)] == [1.0, 1.0, 0.0]


def test_two_cameras_are_told_apart_by_their_tensors():
    specs = [image_spec("left"), image_spec("right")]
    columns = input_columns({s.name: random_images(2, 8, 8, 1) for s in specs}, specs)
    assert set(columns) == {f"{s.name}.{c}" for s in specs for c in IMAGE_COLUMNS}


def test_tabular_features_keep_the_names_of_the_contract():
    spec = TensorSpec(
        name="row", dtype="float32", shape=[None, 3], kind="tabular", features=["age", "confidence", "income"]
    )
    columns = input_columns({"row": np.arange(6.0).reshape(2, 3)}, [spec])
    # ``confidence`` is what outputs are called, so the input of that name says whose it is.
    assert {name: v.tolist() for name, v in columns.items()} == {
        "age": [0.0, 3.0],
        "row.confidence": [1.0, 4.0],
        "income": [2.0, 5.0],
    }


def test_unnamed_features_are_numbered():
    spec = TensorSpec(name="row", dtype="float32", shape=[None, 2], kind="tabular")
    assert list(input_columns({"row": np.zeros((1, 2))}, [spec])) == ["row_0", "row_1"]


def test_tensors_of_other_kinds_give_no_columns():
    spec = TensorSpec(name="e", dtype="float32", shape=[None, 2], kind="embedding")
    assert input_columns({"e": np.zeros((1, 2))}, [spec]) == {}
    assert input_columns({}, [image_spec()]) == {}


def test_probabilities_are_read_as_they_stand_and_logits_through_softmax():
    logits = np.array([[0.0, math.log(6), math.log(3)]], dtype=np.float32)
    shares = np.array([[0.1, 0.6, 0.3]], dtype=np.float32)
    for scores in (logits, shares):
        found = classify({"scores": scores}, [scores_spec()], LABELS)
        assert (found.index[0], found.confidence[0], found.margin[0]) == (
            1,
            38 / 64,  # 0.6 and 0.3 in steps of 1/64
            19 / 64,
        )


def test_declared_probabilities_need_not_add_up():
    found = classify({"scores": np.array([[0.5, 0.9, 0.2]])}, [scores_spec(min=0.0, max=1.0)], LABELS)
    assert (found.confidence[0], found.margin[0]) == (58 / 64, 26 / 64)


def test_huge_logits_do_not_overflow():
    found = classify({"scores": np.array([[1e30, -1e30, 0.0]])}, [scores_spec()], LABELS)
    assert (found.index[0], found.confidence[0]) == (0, 1.0)


def test_one_score_for_two_labels_is_the_chance_of_the_second():
    found = classify({"scores": np.array([[0.8], [0.1]])}, [scores_spec()], ["no", "yes"])
    assert found.index.tolist() == [1, 0]
    assert found.confidence.tolist() == [51 / 64, 58 / 64]


def test_backends_that_differ_by_a_step_of_int8_are_told_alike():
    exact = np.array([[0.0, 1.0, 0.0], [0.25, 0.5, 0.25]])
    int8 = np.array([[0.0, 255 / 256, 0.0], [64 / 256, 129 / 256, 63 / 256]])
    for name in ("confidence", "margin"):
        told = [
            output_columns({"scores": scores}, [scores_spec()], task="classification", labels=LABELS)[name].tolist()
            for scores in (exact, int8)
        ]
        assert told[0] == told[1]


def test_scores_that_are_not_finite_have_no_class():
    scores = np.array([[0.1, np.nan, 0.3], [0.1, 0.6, 0.3]])
    columns = output_columns({"scores": scores}, [scores_spec()], task="classification", labels=LABELS)
    assert columns["predicted_class"].tolist() == [None, "dog"]
    assert np.isnan(columns["confidence"]).tolist() == [True, False]


def test_an_output_without_one_score_a_label_is_not_scores():
    assert classify({"scores": np.zeros((1, 4))}, [scores_spec()], LABELS) is None
    assert output_columns({"scores": np.zeros((1, 4))}, [scores_spec()], task="classification", labels=LABELS) == {}


def test_a_regression_gives_one_column_an_output():
    spec = TensorSpec(name="temperature", dtype="float32", shape=[None, 1])
    columns = output_columns({"temperature": np.array([[1.0], [2.0]])}, [spec], task="regression", labels=[])
    assert columns["temperature"].tolist() == [1.0, 2.0]
    assert output_columns({"temperature": np.zeros((1, 1))}, [spec], task="other", labels=[]) == {}
