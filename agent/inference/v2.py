"""The Open Inference Protocol, version 2, as JSON: requests to arrays, answers and metadata to bytes.

Written after the protocol's REST description (Predict Protocol - Version 2). Missing values travel as ``null``, which
the protocol leaves open; an integer tensor takes whole numbers only. Pure: no sockets, no engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.inference.prediction import Prediction
from bundles.contract import Contract, TensorSpec
from bundles.errors import InputRefused

DATATYPES = {
    "BOOL": "bool",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT16": "int16",
    "UINT16": "uint16",
    "INT32": "int32",
    "UINT32": "uint32",
    "INT64": "int64",
    "UINT64": "uint64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_DATATYPE_OF = {dtype: datatype for datatype, dtype in DATATYPES.items()}


class RequestTensor(msgspec.Struct):
    """One input of a request; ``data`` is flat in row-major order, or nested."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class RequestOutput(msgspec.Struct):
    """One output the caller wants."""

    name: str


class InferRequest(msgspec.Struct):
    """The body of an infer request; unknown fields and parameters are let through."""

    inputs: list[RequestTensor]
    id: str = ""
    outputs: list[RequestOutput] = []


def read_request(body: bytes) -> InferRequest:
    """Parse the body of an infer request.

    Raises:
        InputRefused: ``INPUT_JSON``.
    """
    try:
        return msgspec.json.decode(body, type=InferRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputRefused(
            f"The request is not a valid infer request: {error}.",
            code="INPUT_JSON",
            remedy="Send JSON as the Open Inference Protocol V2 describes; NaN is sent as null.",
        ) from error


def arrays(request: InferRequest) -> dict[str, NDArray[Any]]:
    """Return the request's tensors by name, each in the dtype and shape it declares.

    Raises:
        InputRefused: ``INPUT_DTYPE`` or ``INPUT_SHAPE`` where data and declaration differ, ``INPUT_NAME`` for a name
            sent twice.
    """
    found: dict[str, NDArray[Any]] = {}
    for tensor in request.inputs:
        if tensor.name in found:
            _refuse("INPUT_NAME", f"Input {tensor.name!r} is sent twice.", "Send every input once.")
        found[tensor.name] = _array(tensor)
    return found


def check_wanted(request: InferRequest, contract: Contract) -> None:
    """Check that the outputs the caller wants exist, before the model is run.

    Raises:
        InputRefused: ``INPUT_NAME``.
    """
    names = [spec.name for spec in contract.outputs]
    for output in request.outputs:
        if output.name not in names:
            _refuse("INPUT_NAME", f"The model has no output {output.name!r}.", f"Ask for some of: {', '.join(names)}.")


def write_response(prediction: Prediction, request: InferRequest) -> bytes:
    """Return the body of an infer answer, with the outputs the request wants, or all of them."""
    wanted = {output.name for output in request.outputs} or prediction.outputs.keys()
    answer: dict[str, Any] = {
        "model_name": prediction.model,
        "model_version": prediction.version,
        "parameters": {
            "sha256": prediction.sha256,
            "prediction_id": prediction.id,
            "latency_ms": prediction.latency_ms,
        },
        "outputs": [_output(name, array) for name, array in prediction.outputs.items() if name in wanted],
    }
    if request.id:
        answer["id"] = request.id
    return msgspec.json.encode(answer)  # NaN and infinities are written as null


def metadata(model: str, version: str, platform: str, contract: Contract) -> dict[str, Any]:
    """Return a model's metadata; -1 stands for any length."""
    return {
        "name": model,
        "versions": [version],
        "platform": platform,
        "inputs": [_described(spec) for spec in contract.inputs],
        "outputs": [_described(spec) for spec in contract.outputs],
    }


def write_tensor(name: str, array: NDArray[Any]) -> dict[str, Any]:
    """Return one tensor as a request carries it.

    Raises:
        InputRefused: ``INPUT_DTYPE`` for a dtype the protocol does not know.
    """
    if array.dtype.name not in _DATATYPE_OF:
        _refuse(
            "INPUT_DTYPE",
            f"Input {name!r} has dtype {array.dtype}, which cannot be sent.",
            "Convert it to the dtype that the model's metadata names.",
        )
    return _output(name, array)


def read_outputs(outputs: list[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Return the tensors of an infer answer by name."""
    tensors = msgspec.convert(outputs, list[RequestTensor])
    return {tensor.name: _array(tensor) for tensor in tensors}


def _array(tensor: RequestTensor) -> NDArray[Any]:
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None:
        _refuse(
            "INPUT_DTYPE",
            f"Input {tensor.name!r} has the datatype {tensor.datatype!r}, which this server does not take.",
            f"Use one of {', '.join(DATATYPES)}.",
        )
    try:
        values = np.array(tensor.data)
    except ValueError:
        _refuse("INPUT_SHAPE", f"The data of input {tensor.name!r} is ragged.", "Send it flat, in row-major order.")
    if values.size != math.prod(tensor.shape) or any(length < 0 for length in tensor.shape):
        _refuse(
            "INPUT_SHAPE",
            f"Input {tensor.name!r} declares the shape {tensor.shape} and carries {values.size} values.",
            "Send as many values as the shape holds.",
        )
    return _converted(tensor, values, np.dtype(dtype)).reshape(tensor.shape)


def _converted(tensor: RequestTensor, values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f" and values.dtype.kind == "O":
        # null is a missing value; anything else that is no number (or an integer past 64 bits) is refused.
        flat = [math.nan if value is None else value for value in values.reshape(-1)]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in flat):
            values = np.array([float(value) for value in flat])
    if dtype.kind in "iu" and values.dtype.kind in "fO":
        # numpy reads integers past 63 bits as floats or objects; floats that were sent as such stay refused.
        exact = np.array(tensor.data, dtype=object)
        if all(type(value) is int for value in exact.reshape(-1)):
            info = np.iinfo(dtype)
            if info.min <= exact.min() and exact.max() <= info.max:
                return exact.astype(dtype)
    allowed = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    fits = values.dtype.kind in allowed
    if fits and dtype.kind in "iu" and values.size:
        info = np.iinfo(dtype)
        fits = int(values.min()) >= info.min and int(values.max()) <= info.max
    if not fits:
        _refuse(
            "INPUT_DTYPE",
            f"The data of input {tensor.name!r} does not fit its datatype {tensor.datatype}.",
            "Send plain numbers of the declared datatype; a missing value is null in a floating-point tensor.",
        )
    with np.errstate(over="ignore"):  # a number too large for the dtype becomes an infinity, which the contract refuses
        return values.astype(dtype)


def _output(name: str, array: NDArray[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": _DATATYPE_OF[array.dtype.name],
        "shape": list(array.shape),
        "data": array.reshape(-1).tolist(),
    }


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": _DATATYPE_OF[spec.dtype],
        "shape": [-1 if dim is None else dim for dim in spec.shape],
    }


def _refuse(code: str, sentence: str, remedy: str) -> NoReturn:
    raise InputRefused(sentence, code=code, remedy=remedy)
