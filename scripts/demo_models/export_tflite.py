"""Writes a network as a full-int8 `.tflite` file.

Input and output are int8 too; their scales and zero points are in the file, and the engine uses them at its
float door. TensorFlow's converter folds the division by 16 into the first convolution where it can.
"""

from typing import Any

import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

from demo_models.digits import Array
from demo_models.networks import Network, forward


def tflite_bytes(network: Network, calibration: Array, upscale: int = 1) -> bytes:
    """Converts and quantises.

    Args:
        network: The trained layers.
        calibration: Images float32 [N,8,8,1], values 0 to 16, that set the activations' ranges.
        upscale: See `networks.forward`.

    Returns:
        The file's bytes, with tensors and signature named `image` and `probabilities`.
    """
    # Constants, not variables: the converter's calibrator cannot run the variables Keras 3 leaves behind.
    function = tf.function(
        lambda image: {"probabilities": forward(network, image, upscale)},
        input_signature=[tf.TensorSpec([1, 8, 8, 1], tf.float32, name="image")],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return _with_plain_names(converter.convert())


def _with_plain_names(data: bytes) -> bytes:
    """Names the door's tensors; the converter calls them `serving_default_image:0` and `PartitionedCall:0`."""
    model: Any = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name = b"image"
    graph.tensors[graph.outputs[0]].name = b"probabilities"
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
