"""Reading goldens, and judging answers by the manifest's rule."""

import io
import zipfile

import numpy as np
import pytest

from agent.inference.golden import judge, read_goldens
from bundles.contract import Contract, TensorSpec
from bundles.errors import BundleRefused
from bundles.manifest import HealthCheck

CLASSES = Contract(
    inputs=[TensorSpec("x", "float32", [1, 4])], outputs=[TensorSpec("p", "float32", [1, 3], min=0.0, max=1.0)]
)
VALUES = Contract(inputs=[TensorSpec("x", "float32", [1, 4])], outputs=[TensorSpec("y", "float32", [1, 1])])
TOP1 = HealthCheck(comparator="top1")
CLOSE = HealthCheck(comparator="allclose")


def one_hot(classes: list[int]) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[classes]


def test_equal_answers_agree():
    expected = one_hot([0, 1, 2] * 40)
    judgement = judge(TOP1, CLASSES, {"p": expected}, {"p": expected[:, None, :]})
    assert judgement.ok
    assert judgement.top1_agreement == 1.0
    assert judgement.mean_abs_diff_ratio == 0.0


@pytest.mark.parametrize(("wrong", "ok"), [(1, True), (2, False)])
def test_agreement_is_asked_of_99_in_100(wrong, ok):
    expected = one_hot([0] * 100)
    actual = expected.copy()
    actual[:wrong] = [0.49, 0.51, 0.0]  # another class by a hair: a small difference in value
    assert judge(TOP1, CLASSES, {"p": expected}, {"p": actual}).ok is ok


@pytest.mark.parametrize(("shift", "ok"), [(0.009, True), (0.011, False)])
def test_the_mean_difference_may_be_one_percent_of_the_range(shift, ok):
    expected = one_hot([0] * 10)
    judgement = judge(TOP1, CLASSES, {"p": expected}, {"p": np.abs(expected - shift)})
    assert judgement.ok is ok
    assert judgement.mean_abs_diff_ratio == pytest.approx(shift)


def test_a_tie_at_the_top_is_agreement():
    expected = one_hot([1] * 10) * np.float32(0.5)
    actual = expected.copy()
    actual[:, 0] = 0.5
    loose = HealthCheck(max_mean_abs_diff_ratio=1.0)
    assert judge(loose, CLASSES, {"p": expected}, {"p": actual}).top1_agreement == 1.0


def test_without_a_signed_range_the_goldens_give_it():
    expected = np.array([[0.0], [200.0]], dtype=np.float32)
    judgement = judge(CLOSE, VALUES, {"y": expected}, {"y": expected + 1})
    assert judgement.ok
    assert judgement.top1_agreement is None
    assert judgement.mean_abs_diff_ratio == pytest.approx(1 / 200)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_fails(value):
    expected = one_hot([0] * 1000)
    actual = expected.copy()
    actual[500, 2] = value
    judgement = judge(TOP1, CLASSES, {"p": expected}, {"p": actual})
    assert not judgement.ok
    assert "finite" in judgement.detail


def test_an_answer_of_another_size_fails():
    assert not judge(CLOSE, VALUES, {"y": np.zeros((2, 1))}, {"y": np.zeros((2, 2))}).ok


def save(path, **arrays):
    np.savez(path, **{name.replace("__", "."): array for name, array in arrays.items()})
    return path


def test_samples_take_the_rank_of_the_contract(tmp_path):
    flat = read_goldens(save(tmp_path / "a.npz", input__x=np.ones((5, 4)), output__p=np.ones((5, 3))), CLASSES)
    full = read_goldens(save(tmp_path / "b.npz", input__x=np.ones((5, 1, 4)), output__p=np.ones((5, 1, 3))), CLASSES)
    assert flat.count == full.count == 5
    assert flat.sample(CLASSES, 4)["x"].shape == full.sample(CLASSES, 4)["x"].shape == (1, 4)


@pytest.mark.parametrize(
    "arrays",
    [
        {"input__x": np.ones((5, 4))},
        {"input__x": np.ones((5, 4)), "output__p": np.ones((4, 3))},
        {"input__x": np.ones((0, 4)), "output__p": np.ones((0, 3))},
        {"input__x": np.ones((5, 4)), "output__p": np.array([{}] * 5)},
    ],
    ids=["missing", "counts differ", "none", "pickled"],
)
def test_goldens_that_do_not_fit_are_refused(tmp_path, arrays):
    with pytest.raises(BundleRefused) as refused:
        read_goldens(save(tmp_path / "g.npz", **arrays), CLASSES)
    assert refused.value.code == "GOLDENS_INVALID"


def test_a_damaged_file_is_refused(tmp_path):
    path = save(tmp_path / "g.npz", input__x=np.ones((5, 4)), output__p=np.ones((5, 3)))
    data = path.read_bytes()
    for damaged in (b"", b"garbage", data[:100], data[:40] + b"\xff" * 60 + data[100:]):
        path.write_bytes(damaged)
        with pytest.raises(BundleRefused):
            read_goldens(path, CLASSES)


def test_a_file_that_unpacks_to_too_much_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        block = io.BytesIO(bytes(1 << 20)).getvalue()
        with archive.open("input.x.npy", "w", force_zip64=True) as member:
            for _ in range(257):
                member.write(block)
    with pytest.raises(BundleRefused, match="too much"):
        read_goldens(path, CLASSES)
