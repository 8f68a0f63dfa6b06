"""Writes a network as an int8 `.onnx` file in the quantise-dequantise form, from standard operators only.

Convolutions, pools and matrix products are int8. The division by 16 and the softmax stay float: both doors are
float32, and each costs ten to sixty-four values.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from demo_models.digits import CLASSES, Array
from demo_models.networks import PIXEL_MAX, Conv, Dense, Network, Pool

# Old enough for every ONNX Runtime the project supports, new enough for per-channel quantisation.
OPSET = 17
IR_VERSION = 8

# Relu is quantised too and so vanishes: the range of the int8 tensor behind it does the cutting.
INT8_OPERATORS = ("Conv", "MaxPool", "Flatten", "Gemm")


def onnx_bytes(network: Network, calibration: Array) -> bytes:
    """Builds the graph, quantises it and returns the file's bytes.

    Args:
        network: The trained layers.
        calibration: Images float32 [N,8,8,1], values 0 to 16, that set the activations' ranges.

    Raises:
        ValueError: The quantiser left an operator in float.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(_float_model(network), source)
        quantize_static(
            source,
            target,
            _Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Relu", *INT8_OPERATORS],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        quantised = onnx.load(target)
    onnx.checker.check_model(quantised, full_check=True)
    _require_int8(quantised.graph)
    return bytes(quantised.SerializeToString(deterministic=True))


def _float_model(network: Network) -> Any:
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: Array) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}_{operator}", **attributes))
        return output

    x = add("Mul", ["image", constant("per_pixel", np.array(1 / PIXEL_MAX))], "normalised")
    x = add("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])
    channels = size = 0
    for number, layer in enumerate(network):
        name = f"layer{number}"
        match layer:
            case Conv(kernel, bias):
                weights = constant(f"{name}_kernel", kernel.transpose(3, 2, 0, 1))
                inputs = [x, weights, constant(f"{name}_bias", bias)]
                x = add("Conv", inputs, f"{name}_sum", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
                x = add("Relu", [x], f"{name}_out")
                channels, size = kernel.shape[3], 8
            case Pool():
                x = add("MaxPool", [x], f"{name}_out", kernel_shape=[2, 2], strides=[2, 2])
                size //= 2
            case Dense(kernel, bias):
                if channels:  # the weights were trained on rows of (height, width, channel)
                    x = add("Flatten", [x], f"{name}_in")
                    order = (size, size, channels, kernel.shape[1])
                    kernel = kernel.reshape(order).transpose(2, 0, 1, 3).reshape(kernel.shape)
                    channels = 0
                inputs = [x, constant(f"{name}_kernel", kernel), constant(f"{name}_bias", bias)]
                x = add("Gemm", inputs, f"{name}_sum")
                if layer is not network[-1]:
                    x = add("Relu", [x], f"{name}_out")
    add("Softmax", [x], "probabilities", axis=1)
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 8, 8, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", CLASSES])],
        constants,
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="wavegate")


def _require_int8(graph: Any) -> None:
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    for node in graph.node:
        # A convolution's bias is int32, behind a DequantizeLinear of its own.
        if node.op_type in INT8_OPERATORS and any(made_by[n] != "DequantizeLinear" for n in node.input):
            raise ValueError(f"{node.op_type} {node.name} is not int8")
        if node.op_type == "Relu":
            raise ValueError(f"Relu {node.name} was not folded away")


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands the calibration images to the quantiser one at a time."""

    def __init__(self, images: Array) -> None:
        self._images: Iterator[Array] = iter(images)

    def get_next(self) -> dict[str, Array] | None:
        """The next image as a model input, or None at the end."""
        image = next(self._images, None)
        return None if image is None else {"image": image[None]}
