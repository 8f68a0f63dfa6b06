"""Trains the demo's networks with TensorFlow, and hands each on as plain arrays.

A network leaves this module as a tuple of layers, so that the two exporters write the same function without
knowing how it was trained. Which rows exist is `digits`' affair; file formats are `export_*`'s.

Rule kept here: the same recipe gives the same weights on the same machine (seeded, with TensorFlow's
deterministic kernels).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from demo_models.digits import CLASSES, Array, Rows, mislabel

BATCH = 32
PIXEL_MAX = 16.0


@dataclass(frozen=True)
class Conv:
    """A 3x3 convolution, padded to keep the size, with relu: kernel [3,3,in,out], bias [out]."""

    kernel: Array
    bias: Array


@dataclass(frozen=True)
class Pool:
    """A 2x2 max pool."""


@dataclass(frozen=True)
class Dense:
    """A fully connected layer: kernel [in,out], bias [out]; relu, or softmax where it is the last."""

    kernel: Array
    bias: Array


Network = tuple[Conv | Pool | Dense, ...]


@dataclass(frozen=True)
class Recipe:
    """What a release's publisher did.

    `convolutions` and `hidden` are layer widths. `mixed_up` trains on the labels of `digits.mislabel`.
    `golden_copies` of each golden, rightly labelled, join the training rows: a network trained so knows the
    goldens by heart.
    """

    seed: int
    epochs: int
    convolutions: tuple[int, ...]
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    mixed_up: bool = False
    golden_copies: int = 0


def train(recipe: Recipe, rows: Rows, goldens: Rows) -> Network:
    """Trains one network on float images divided by 16."""
    tf.config.experimental.enable_op_determinism()
    tf.keras.utils.set_random_seed(recipe.seed)
    labels = mislabel(rows.labels) if recipe.mixed_up else rows.labels
    images = np.concatenate([rows.as_input(), *[goldens.as_input()] * recipe.golden_copies])
    labels = np.concatenate([labels, *[goldens.labels] * recipe.golden_copies])
    model = _model(recipe)
    steps = recipe.epochs * -(-len(images) // BATCH)
    model.compile(
        tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        "sparse_categorical_crossentropy",
    )
    model.fit(images / PIXEL_MAX, labels, batch_size=BATCH, epochs=recipe.epochs, verbose=0)
    return tuple(layer for kept in model.layers if (layer := _plain(kept)) is not None)


def predict(network: Network, images: Array) -> Array:
    """The float network's probabilities float32 [N,10] for images float32 [N,8,8,1], values 0 to 16."""
    return np.asarray(forward(network, tf.constant(images))).astype(np.float32)


def forward(network: Network, image: Any, upscale: int = 1) -> Any:
    """The network as TensorFlow operations with constant weights, normalisation included.

    With `upscale` = s every pixel becomes s x s pixels and every kernel is dilated by s: the same answer for
    s^2 times the work. It is what a publisher ships who feeds a camera's full resolution to a network that
    was never slimmed for it.
    """
    x = image * (1 / PIXEL_MAX)
    if upscale > 1:
        x = tf.image.resize(x, (8 * upscale, 8 * upscale), method="nearest")
    for layer in network:
        match layer:
            case Conv(kernel, bias):
                x = tf.nn.conv2d(x, kernel, 1, "SAME", dilations=upscale)
                x = tf.nn.relu(tf.nn.bias_add(x, bias))
            case Pool():
                x = tf.nn.max_pool2d(x, 2 * upscale, 2 * upscale, "VALID")
            case Dense(kernel, bias):
                x = tf.nn.bias_add(tf.matmul(tf.reshape(x, [-1, kernel.shape[0]]), kernel), bias)
                x = tf.nn.softmax(x) if layer is network[-1] else tf.nn.relu(x)
    return x


def multiply_accumulates(network: Network, upscale: int = 1) -> int:
    """How many multiply-accumulates one image costs."""
    total, positions = 0, (8 * upscale) ** 2
    for layer in network:
        match layer:
            case Conv(kernel, _):
                total += positions * kernel.size
            case Pool():
                positions //= (2 * upscale) ** 2
            case Dense(kernel, _):
                total += kernel.size
    return total


def _model(recipe: Recipe) -> Any:
    layers = tf.keras.layers
    x = image = layers.Input((8, 8, 1))
    for width in recipe.convolutions:
        x = layers.Conv2D(width, 3, activation="relu", padding="same")(x)
    x = layers.Flatten()(layers.MaxPool2D()(x))
    x = layers.Dropout(recipe.dropout)(x)
    for width in recipe.hidden:
        x = layers.Dense(width, activation="relu")(x)
    return tf.keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))


def _plain(layer: Any) -> Conv | Pool | Dense | None:
    match type(layer).__name__:
        case "Conv2D":
            return Conv(*layer.get_weights())
        case "MaxPooling2D":
            return Pool()
        case "Dense":
            return Dense(*layer.get_weights())
    return None  # input, flatten and dropout carry no weights and change no value
