"""The contract's check, as a table of cases and as a property."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bundles.contract import Contract, TensorSpec, check, encode_contract, parse_contract
from bundles.errors import BundleRefused, InputRefused

IMAGE = TensorSpec("image", "float32", [None, 2, 2], min=0.0, max=16.0, kind="image")
AGES = TensorSpec("age", "float64", [2], allow_missing=True, min=0.0, max=120.0, kind="tabular", features=["a", "b"])
CODES = TensorSpec("code", "int8", [None], min=-1.0, max=1.0)
SCORES = TensorSpec("scores", "float32", [None, 2])


def contract(*inputs: TensorSpec) -> Contract:
    return Contract(inputs=list(inputs), outputs=[SCORES])


def image(value: float = 1.0, shape: tuple[int, ...] = (1, 2, 2), dtype: str = "float32") -> np.ndarray:
    return np.full(shape, value, dtype=dtype)


@pytest.mark.parametrize(
    ("spec", "array"),
    [
        (IMAGE, image()),
        (IMAGE, image(shape=(7, 2, 2))),
        (IMAGE, image(0.0)),
        (IMAGE, image(16.0)),
        (AGES, np.array([np.nan, 30.0])),
        (AGES, np.array([np.nan, np.nan])),
        (CODES, np.array([-1, 0, 1], dtype=np.int8)),
    ],
)
def test_what_the_contract_allows_passes(spec, array):
    check(contract(spec), {spec.name: array})


@pytest.mark.parametrize(
    ("spec", "array", "code"),
    [
        (IMAGE, image(shape=(1, 2, 3)), "INPUT_SHAPE"),
        (IMAGE, image(shape=(2, 2)), "INPUT_SHAPE"),
        (IMAGE, image(shape=(0, 2, 2)), "INPUT_SHAPE"),
        (IMAGE, image(dtype="float64"), "INPUT_DTYPE"),
        (IMAGE, image(dtype=">f4"), "INPUT_DTYPE"),
        (IMAGE, [[1.0]], "INPUT_DTYPE"),
        (IMAGE, None, "INPUT_DTYPE"),
        (IMAGE, image(np.nan), "INPUT_MISSING_VALUE"),
        (IMAGE, image(np.inf), "INPUT_MISSING_VALUE"),
        (IMAGE, image(-np.inf), "INPUT_MISSING_VALUE"),
        (IMAGE, image(16.1), "INPUT_RANGE"),
        (IMAGE, image(-0.1), "INPUT_RANGE"),
        (AGES, np.array([np.nan, 121.0]), "INPUT_RANGE"),
        (AGES, np.array([np.nan, np.inf]), "INPUT_MISSING_VALUE"),
        (CODES, np.array([2], dtype=np.int8), "INPUT_RANGE"),
    ],
)
def test_a_bad_tensor_is_refused_by_name_and_code(spec, array, code):
    with pytest.raises(InputRefused) as refused:
        check(contract(spec), {spec.name: array})
    assert refused.value.code == code
    assert refused.value.details["tensor"] == spec.name
    assert refused.value.remedy


@pytest.mark.parametrize("names", [[], ["other"], ["image", "other"]])
def test_inputs_that_are_missing_or_unknown_are_refused(names):
    with pytest.raises(InputRefused) as refused:
        check(contract(IMAGE), {name: image() for name in names})
    assert refused.value.code == "INPUT_NAME"


@given(
    hnp.arrays(
        dtype=st.sampled_from([np.float32, np.float64, np.int8]),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        elements=None,
    )
)
def test_check_passes_exactly_what_a_plain_reading_of_the_contract_allows(array):
    spec = TensorSpec("x", "float32", [None, 2], min=-2.0, max=2.0)
    allowed = (
        array.dtype == np.float32
        and array.ndim == 2
        and array.shape[0] > 0
        and array.shape[1] == 2
        and bool(np.isfinite(array).all())
        and bool((array >= -2.0).all() and (array <= 2.0).all())
    )
    try:
        check(contract(spec), {"x": array})
        passed = True
    except InputRefused:
        passed = False
    assert passed == allowed


def test_a_contract_survives_its_file():
    original = contract(IMAGE, AGES, CODES)
    assert parse_contract(encode_contract(original)) == original


def test_fields_and_kinds_of_next_year_are_let_through():
    raw = msgspec.to_builtins(contract(IMAGE)) | {"units_system": "si"}
    raw["inputs"][0] |= {"kind": "point_cloud", "colour_space": "linear"}
    assert parse_contract(msgspec.json.encode(raw)).inputs[0].kind == "point_cloud"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "CONTRACT_JSON"),
        (b"{", "CONTRACT_JSON"),
        (b"\xff\xfe", "CONTRACT_JSON"),
        (b'{"task": "\xb4"}', "CONTRACT_JSON"),
        (b"[" * 100_000, "CONTRACT_JSON"),
        (b"[]", "CONTRACT_FORMAT_VERSION"),
        (b'{"format_version": 2, "inputs": [], "outputs": []}', "CONTRACT_FORMAT_VERSION"),
        (b'{"inputs": [], "outputs": []}', "CONTRACT_FIELD"),
        (b'{"inputs": [{"name": "x", "dtype": "complex64", "shape": []}], "outputs": []}', "CONTRACT_FIELD"),
    ],
)
def test_a_file_that_is_no_contract_is_refused(data, code):
    with pytest.raises(BundleRefused) as refused:
        parse_contract(data)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "specs",
    [
        [IMAGE, IMAGE],
        [TensorSpec("", "float32", [1])],
        [TensorSpec("x", "float32", [0])],
        [TensorSpec("x", "float32", [-1])],
        [TensorSpec("x", "float32", [1] * 9)],
        [TensorSpec("x", "float32", [1], min=1.0, max=0.0)],
        [TensorSpec("x", "int8", [1], allow_missing=True)],
        [TensorSpec("x", "float32", [3], features=["a"])],
        [TensorSpec("x", "float32", [None], features=["a"])],
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(specs):
    with pytest.raises(BundleRefused) as refused:
        encode_contract(contract(*specs))
    assert refused.value.code == "CONTRACT_FIELD"
