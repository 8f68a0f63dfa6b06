"""Reads, from the bytes of an ONNX file, how its integer inputs and outputs are quantised.

ONNX Runtime does not tell. In a QDQ graph the scale and zero point of an integer input are the initialisers of the
``DequantizeLinear`` that reads it, those of an integer output the initialisers of the ``QuantizeLinear`` that makes it
(ONNX operator specification; field numbers from ``onnx.proto3``). Only those few fields are decoded, with a protobuf
reader of a few lines, so that no ONNX library is needed on a device. Runs where the model is loaded: in a child.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from agent.inference.ports import Quantisation

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALISER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE = 1, 2, 4
_TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_INTS, _TENSOR_NAME, _TENSOR_RAW = 2, 4, 5, 8, 9
_RAW_FORMATS = {1: "<f", 2: "<B", 3: "<b", 4: "<H", 5: "<h"}
"""struct formats by ``TensorProto.DataType``: float, uint8, int8, uint16, int16."""
_SCALAR_LIMIT = 64
"""Bytes of a tensor message that can still be a scalar's payload; weights are skipped unread."""

_MOVES_ONLY = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})

Node = tuple[str, list[str], list[str]]
"""Operator, inputs, outputs."""
Field = tuple[int, int, "memoryview | int"]


def read_quantisation(model: bytes) -> dict[str, Quantisation]:
    """Return tensor name -> quantisation, for tensors at the edge of the graph.

    A damaged file yields what could be read: judging the file is the runtime's part, which has loaded it by now.
    """
    try:
        return _read(memoryview(model))
    except (IndexError, ValueError, struct.error):
        return {}


def _read(model: memoryview) -> dict[str, Quantisation]:
    scalars: dict[str, float] = {}
    nodes: list[Node] = []
    for number, _, graph in _fields(model):
        if number != _MODEL_GRAPH or isinstance(graph, int):
            continue
        for inner, _, value in _fields(graph):
            if isinstance(value, int):
                continue
            if inner == _GRAPH_NODE:
                nodes.append(_node(value))
            elif inner == _GRAPH_INITIALISER:
                name, scalar = _scalar(value)
                if scalar is not None:
                    scalars[name] = scalar
    found: dict[str, Quantisation] = {}
    for op_type, inputs, outputs in nodes:
        if op_type not in ("DequantizeLinear", "QuantizeLinear") or len(inputs) < 2:
            continue
        scale = scalars.get(inputs[1])
        zero_point = scalars.get(inputs[2], 0.0) if len(inputs) > 2 else 0.0
        if scale:
            edge = inputs[0] if op_type == "DequantizeLinear" else outputs[0]
            found[edge] = Quantisation(scale, int(zero_point))
    _carry_through(nodes, found)
    return found


def _carry_through(nodes: list[Node], found: dict[str, Quantisation]) -> None:
    # Converters put a Transpose between an input and its DequantizeLinear; moving values does not change their scale.
    moves = [(inputs[0], outputs[0]) for op_type, inputs, outputs in nodes if op_type in _MOVES_ONLY and inputs]
    for before, after in reversed(moves):
        if after in found:
            found.setdefault(before, found[after])
    for before, after in moves:
        if before in found:
            found.setdefault(after, found[before])


def _node(data: memoryview) -> Node:
    op_type, inputs, outputs = "", [], []
    for number, _, value in _fields(data):
        if isinstance(value, int):
            continue
        if number == _NODE_INPUT:
            inputs.append(str(value, "utf-8"))
        elif number == _NODE_OUTPUT:
            outputs.append(str(value, "utf-8"))
        elif number == _NODE_OP_TYPE:
            op_type = str(value, "utf-8")
    return op_type, inputs, outputs


def _scalar(data: memoryview) -> tuple[str, float | None]:
    name, kind, payload = "", 0, None
    for number, wire_type, value in _fields(data):
        if number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_NAME and not isinstance(value, int):
            name = str(value, "utf-8")
        elif number in (_TENSOR_FLOATS, _TENSOR_INTS, _TENSOR_RAW):
            payload = (number, wire_type, value)
    return name, None if payload is None else _decode_scalar(kind, *payload)


def _decode_scalar(kind: int, number: int, wire_type: int, value: memoryview | int) -> float | None:
    if isinstance(value, int):
        if wire_type == 5:  # an unpacked float arrives as its 32 bits
            return float(struct.unpack("<f", struct.pack("<I", value))[0])
        return float(_signed(value))
    if len(value) > _SCALAR_LIMIT:
        return None
    if number == _TENSOR_INTS:
        return float(_signed(_varint(value, 0)[0])) if len(value) else None
    form = "<f" if number == _TENSOR_FLOATS else _RAW_FORMATS.get(kind)
    if form is None or len(value) != struct.calcsize(form):
        return None
    return float(struct.unpack(form, value)[0])


def _fields(data: memoryview) -> Iterator[Field]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = _varint(data, at)
            yield number, wire_type, value
            continue
        if wire_type == 2:
            length, at = _varint(data, at)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if at + length > len(data):
            raise ValueError("a field ends past the data")
        piece = data[at : at + length]
        at += length
        yield number, wire_type, piece if wire_type == 2 else int.from_bytes(piece, "little")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a varint is too long")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
