"""Tying the contract's tensors to the model file's, with quantisation between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ModelRefused
from agent.inference.backend import Port
from agent.inference.ports import Binding, NativeTensor, Quantisation, bind, take_input
from bundles.errors import InputRefused


def native(name="n", dtype="int8", shape=(None, 4), scale=0.5, zero_point=3):
    return NativeTensor(name, dtype, shape, Quantisation(scale, zero_point) if scale else None)


@given(
    scale=st.floats(1e-4, 10.0),
    zero_point=st.integers(-128, 127),
    steps=st.lists(st.integers(-128, 127), min_size=1, max_size=20),
)
def test_every_int8_step_survives_a_round_trip(scale, zero_point, steps):
    binding = Binding(Port("x", "float32", (None,)), native(shape=(None,), scale=scale, zero_point=zero_point))
    quantised = np.array(steps, dtype=np.int8)
    assert (binding.to_native(binding.from_native(quantised)) == quantised).all()


@given(st.lists(st.floats(-50.0, 50.0, width=32), min_size=1, max_size=20))
def test_quantising_is_off_by_half_a_step_at_most_inside_the_range(values):
    binding = Binding(Port("x", "float32", (None,)), native(shape=(None,), scale=0.5, zero_point=0))
    array = np.array(values, dtype=np.float32)
    back = binding.from_native(binding.to_native(array))
    assert back.dtype == np.float32
    assert np.abs(back - array).max() <= 0.25


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_values_beyond_the_range_saturate(dtype):
    binding = Binding(Port("x", "float32", (2,)), native(dtype=dtype, shape=(2,), scale=1.0, zero_point=0))
    info = np.iinfo(dtype)
    assert binding.to_native(np.array([-1e9, 1e9], dtype=np.float32)).tolist() == [info.min, info.max]


def test_a_missing_value_becomes_the_real_value_zero():
    binding = Binding(Port("x", "float32", (2,)), native(shape=(2,), scale=0.5, zero_point=7))
    assert binding.to_native(np.array([np.nan, 1.0], dtype=np.float32)).tolist() == [7, 9]


def test_equal_dtypes_pass_untouched():
    binding = Binding(Port("x", "int8", (2,)), native(shape=(2,)))
    array = np.array([1, 2], dtype=np.int8)
    assert binding.to_native(array) is array
    assert binding.from_native(array) is array


def test_tensors_are_tied_by_name_where_the_names_match():
    ports = [Port("b", "int8", (4,)), Port("a", "int8", (4,))]
    bindings = bind("input", ports, [native("a", shape=(4,)), native("b", shape=(4,))])
    assert [binding.native.name for binding in bindings] == ["b", "a"]


def test_tensors_are_tied_by_position_where_a_name_is_unknown():
    ports = [Port("b", "int8", (4,)), Port("image", "int8", (4,))]
    bindings = bind("input", ports, [native("a", shape=(4,)), native("b", shape=(4,))])
    assert [binding.native.name for binding in bindings] == ["a", "b"]


def test_without_promises_the_model_speaks_for_itself():
    (binding,) = bind("input", [], [native("a", shape=(None, 4))])
    assert binding.port == Port("a", "int8", (None, 4))


@pytest.mark.parametrize(
    ("ports", "tensors"),
    [
        ([Port("x", "float32", (4,))], [native(shape=(4,)), native("m", shape=(4,))]),
        ([Port("x", "float32", (5,))], [native(shape=(4,))]),
        ([Port("x", "float32", (4, 1))], [native(shape=(4,))]),
        ([Port("x", "float32", (4,))], [native(shape=(4,), scale=0)]),
        ([Port("x", "int16", (4,))], [native(shape=(4,))]),
    ],
    ids=["count", "dimension", "rank", "no scale", "integer dtype"],
)
def test_promises_the_model_cannot_keep_are_refused(ports, tensors):
    with pytest.raises(ModelRefused) as refused:
        bind("input", ports, tensors)
    assert refused.value.code == "MODEL_IO"


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({}, "INPUT_NAME"),
        ({"x": np.zeros((1, 4), np.float64)}, "INPUT_DTYPE"),
        ({"x": np.zeros((1, 5), np.float32)}, "INPUT_SHAPE"),
        ({"x": np.zeros(4, np.float32)}, "INPUT_SHAPE"),
    ],
)
def test_a_session_called_without_a_contract_is_still_safe(inputs, code):
    binding = Binding(Port("x", "float32", (None, 4)), native())
    with pytest.raises(InputRefused) as refused:
        take_input(binding, inputs)
    assert refused.value.code == code
