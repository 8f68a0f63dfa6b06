"""Open Inference Protocol V2: JSON to arrays and back."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.inference import v2
from agent.inference.prediction import Prediction
from bundles.contract import Contract, TensorSpec
from bundles.errors import InputRefused

CONTRACT = Contract(
    inputs=[TensorSpec("x", "float32", [None, 2])],
    outputs=[TensorSpec("y", "float32", [None, 2]), TensorSpec("z", "int64", [1])],
)


def body(datatype="FP32", shape=(1, 2), data=(1.0, 2.0), **more) -> bytes:
    tensor = {"name": "x", "datatype": datatype, "shape": list(shape), "data": data}
    return msgspec.json.encode({"inputs": [tensor], **more})


def read(data: bytes) -> dict[str, np.ndarray]:
    return v2.arrays(v2.read_request(data))


@given(
    st.sampled_from(sorted(set(v2.DATATYPES.values()) - {"float16"})).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4),
            elements={"allow_infinity": False} if "float" in dtype else None,
        )
    )
)
def test_every_array_survives_the_wire(array):
    sent = msgspec.json.encode({"inputs": [v2.write_tensor("x", array)]})
    received = read(sent)["x"]
    assert received.dtype == array.dtype
    assert received.shape == array.shape
    assert np.array_equal(received, array, equal_nan=array.dtype.kind == "f")


def test_data_may_be_nested():
    assert read(body(data=[[1, 2]]))["x"].tolist() == [[1.0, 2.0]]


def test_null_is_a_missing_value():
    missing, present = read(body(data=[None, 2.5]))["x"][0]
    assert math.isnan(missing)
    assert present == 2.5


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{", "INPUT_JSON"),
        (b'{"inputs": 3}', "INPUT_JSON"),
        (b'{"inputs": [], "id": "\xb4"}', "INPUT_JSON"),
        (b"[" * 50_000, "INPUT_JSON"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', "INPUT_JSON"),
        (body(datatype="BYTES"), "INPUT_DTYPE"),
        (body(datatype="FP32", data=["1.5", "2"]), "INPUT_DTYPE"),
        (body(datatype="FP32", data=[True, False]), "INPUT_DTYPE"),
        (body(datatype="FP32", data=[{}, 1]), "INPUT_DTYPE"),
        (body(datatype="INT8", data=[1.5, 2]), "INPUT_DTYPE"),
        (body(datatype="INT8", data=[128, 0]), "INPUT_DTYPE"),
        (body(datatype="UINT8", data=[-1, 0]), "INPUT_DTYPE"),
        (body(datatype="INT8", data=[None, 0]), "INPUT_DTYPE"),
        (body(datatype="BOOL", data=[1, 0]), "INPUT_DTYPE"),
        (body(data=[1.0]), "INPUT_SHAPE"),
        (body(shape=(-1, -2)), "INPUT_SHAPE"),
        (body(data=[[1.0], [1.0, 2.0]]), "INPUT_SHAPE"),
        (b'{"inputs": [%s, %s]}' % ((body()[11:-2],) * 2), "INPUT_NAME"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(data, code):
    with pytest.raises(InputRefused) as refused:
        read(data)
    assert refused.value.code == code
    assert refused.value.remedy


def test_a_number_too_large_for_its_datatype_is_left_to_the_contract():
    assert np.isinf(read(body(data=[1e300, 0.0]))["x"][0, 0])


def prediction() -> Prediction:
    outputs = {"y": np.array([[0.5, np.nan]], dtype=np.float32), "z": np.array([7])}
    return Prediction(outputs, "team/model", "1.0.0", "ab" * 32, 1.5, "p-1")


def test_an_answer_says_which_model_it_came_from():
    answer = msgspec.json.decode(v2.write_response(prediction(), v2.read_request(body(id="r-9"))))
    assert answer["id"] == "r-9"
    assert (answer["model_name"], answer["model_version"]) == ("team/model", "1.0.0")
    assert answer["parameters"] == {"sha256": "ab" * 32, "prediction_id": "p-1", "latency_ms": 1.5}
    assert answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.5, None]},
        {"name": "z", "datatype": "INT64", "shape": [1], "data": [7]},
    ]


def test_only_the_outputs_asked_for_are_sent():
    request = v2.read_request(body(outputs=[{"name": "z"}]))
    v2.check_wanted(request, CONTRACT)
    assert [o["name"] for o in msgspec.json.decode(v2.write_response(prediction(), request))["outputs"]] == ["z"]


def test_an_output_the_model_lacks_is_refused():
    with pytest.raises(InputRefused) as refused:
        v2.check_wanted(v2.read_request(body(outputs=[{"name": "w"}])), CONTRACT)
    assert refused.value.code == "INPUT_NAME"


def test_metadata_speaks_of_any_length_as_minus_one():
    described = v2.metadata("team/model", "1.0.0", "onnxruntime_onnx", CONTRACT)
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
