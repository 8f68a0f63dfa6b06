"""Reading quantisation from the bytes of an ONNX file, also of a damaged one."""

import struct

from hypothesis import example, given
from hypothesis import strategies as st

from agent.inference.backend import probe_model
from agent.inference.onnx_graph import read_quantisation
from agent.inference.ports import Quantisation

TINY = probe_model("tiny.onnx").read_bytes()


def field(number: int, payload: bytes) -> bytes:
    assert len(payload) < 128
    return bytes([number << 3 | 2, len(payload)]) + payload


def node(op_type: str, inputs: list[str], outputs: list[str]) -> bytes:
    names = b"".join(field(1, name.encode()) for name in inputs)
    names += b"".join(field(2, name.encode()) for name in outputs)
    return field(1, names + field(4, op_type.encode()))


def scalar(name: str, payload: bytes, kind: int) -> bytes:
    return field(5, bytes([2 << 3, kind]) + field(8, name.encode()) + payload)


SCALE = scalar("s", field(9, struct.pack("<f", 0.5)), 1)


def model(*parts: bytes) -> bytes:
    return field(7, b"".join(parts))


def test_scale_and_zero_point_of_the_shipped_model_are_found():
    found = read_quantisation(TINY)
    assert found["x"].zero_point == -1
    assert abs(found["x"].scale - 0.00784) < 1e-5
    assert abs(found["y"].scale - 0.01622) < 1e-5


def test_a_transpose_between_input_and_dequantise_is_looked_through():
    graph = model(node("Transpose", ["x"], ["t"]), node("DequantizeLinear", ["t", "s"], ["f"]), SCALE)
    assert read_quantisation(graph)["x"] == Quantisation(0.5, 0)


def test_a_reshape_after_the_last_quantise_is_looked_through():
    graph = model(node("QuantizeLinear", ["f", "s"], ["q"]), node("Reshape", ["q", "shape"], ["y"]), SCALE)
    assert read_quantisation(graph)["y"] == Quantisation(0.5, 0)


def test_zero_points_are_read_in_each_encoding():
    dequantise = node("DequantizeLinear", ["x", "s", "z"], ["f"])
    raw = scalar("z", field(9, struct.pack("<b", -5)), 3)
    packed = scalar("z", field(5, b"\xfb" + b"\xff" * 8 + b"\x01"), 3)
    unpacked = scalar("z", bytes([5 << 3]) + b"\xfb" + b"\xff" * 8 + b"\x01", 3)
    for zero_point in (raw, packed, unpacked):
        assert read_quantisation(model(dequantise, SCALE, zero_point))["x"] == Quantisation(0.5, -5)


def test_per_channel_scales_say_nothing_about_an_edge():
    channels = scalar("s", field(9, struct.pack("<ff", 0.5, 0.25)), 1)
    assert read_quantisation(model(node("DequantizeLinear", ["w", "s"], ["f"]), channels)) == {}


@given(st.binary(max_size=200))
@example(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
def test_garbage_yields_nothing_and_raises_nothing(data):
    assert isinstance(read_quantisation(data), dict)


@given(st.integers(0, len(TINY) - 1), st.integers(0, 255))
def test_a_flipped_byte_raises_nothing(position, value):
    damaged = bytearray(TINY)
    damaged[position] = value
    assert isinstance(read_quantisation(bytes(damaged)), dict)
