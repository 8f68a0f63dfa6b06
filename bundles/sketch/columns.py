"""Named columns from tensors: what a baseline describes and what alerts will name.

``bundle build`` and the agent derive columns here and nowhere else, so that a device's window and the signed baseline
speak of the same numbers. What a tensor gives depends on its ``kind`` in the contract:

- ``image`` [N, H, W, C] or [N, H, W]: ``brightness``, ``contrast``, ``saturation_share``, ``sharpness``;
- ``tabular`` [N, F] or [N]: one column a feature, under its name in the contract;
- scores of a classification [N, K]: ``predicted_class`` (categorical), ``confidence``, ``margin``;
- outputs of a regression: one column an output.

Other kinds give no columns. A name that two tensors claim is written ``tensor.name``. Needs numpy, as tensors do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGE_COLUMNS = ("brightness", "contrast", "saturation_share", "sharpness")
PREDICTED_CLASS, CONFIDENCE, MARGIN = "predicted_class", "confidence", "margin"
SATURATED_RATIO = 0.02
"""A value in the top 2 % of its range (250 of 255 and up) is saturated: a sensor's ceiling is rarely one value."""
SAMPLED_FROM_SIDE = 32
STRIDE = 4
"""From 32 pixels a side every fourth row and column is looked at: 1/16 of the work, the same statistics."""


class SpecLike(Protocol):
    """What is needed of a contract's ``TensorSpec``."""

    @property
    def name(self) -> str:
        """Name of the tensor."""
        ...

    @property
    def kind(self) -> str:
        """``image``, ``tabular``, ``embedding`` or ``other``."""
        ...

    @property
    def features(self) -> Sequence[str]:
        """Names along the last dimension; empty = unnamed."""
        ...

    @property
    def min(self) -> float | None:
        """Lowest allowed value; None = unbounded."""
        ...

    @property
    def max(self) -> float | None:
        """Highest allowed value; None = unbounded."""
        ...


SCORE_STEPS = 64
"""Confidence and margin are told in steps of 1/64, four of an int8 output. Finer, and the columns would tell backends
apart instead of models: right int8 answers differ between them by several steps (the design's runtime page), and a
sure model's answers all lie there (digits, ONNX Runtime's baseline against LiteRT's windows: eff 0.9, with this < 0.1).
"""


@dataclass(frozen=True)
class Classified:
    """What a classification answered, one entry a row.

    Attributes:
        index: int64 [N]: class in label order; -1 where a score was not finite.
        confidence: float64 [N]: probability of that class in steps of 1/64; NaN where index is -1.
        margin: float64 [N]: confidence less the runner-up's probability; NaN where index is -1.
    """

    index: NDArray[np.int64]
    confidence: NDArray[np.float64]
    margin: NDArray[np.float64]


def input_columns(tensors: Mapping[str, NDArray[Any]], specs: Sequence[SpecLike]) -> dict[str, NDArray[Any]]:
    """Return the columns of a batch of inputs: name -> float64 [N].

    Args:
        tensors: arrays that passed the contract, by name; a tensor that is not there gives no columns.
        specs: the contract's inputs.
    """
    claims = Counter([PREDICTED_CLASS, CONFIDENCE, MARGIN])
    for spec in specs:
        claims.update(IMAGE_COLUMNS if spec.kind == "image" else spec.features)
    columns: dict[str, NDArray[Any]] = {}
    for spec in specs:
        array = tensors.get(spec.name)
        if array is None:
            continue
        own: dict[str, NDArray[Any]] = {}
        if spec.kind == "image":
            own = image_columns(array, *_value_range(spec, array))
        elif spec.kind == "tabular":
            own = _feature_columns(array, spec)
        columns.update((name if claims[name] <= 1 else f"{spec.name}.{name}", v) for name, v in own.items())
    return columns


def output_columns(
    tensors: Mapping[str, NDArray[Any]], specs: Sequence[SpecLike], *, task: str, labels: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Return the columns of a batch of outputs: name -> float64 [N], ``predicted_class`` as labels (None = missing).

    Args:
        tensors: the model's answers in the contract's units (dequantised), by name.
        specs: the contract's outputs.
        task: the contract's task; other than ``classification`` and ``regression`` gives no columns.
        labels: the contract's labels.
    """
    if task == "classification":
        found = classify(tensors, specs, labels)
        return {} if found is None else classification_columns(found, labels)
    columns: dict[str, NDArray[Any]] = {}
    if task == "regression":
        for spec in specs:
            if spec.name in tensors:
                columns.update(_feature_columns(tensors[spec.name], spec))
    return columns


def classification_columns(found: Classified, labels: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return ``predicted_class``, ``confidence`` and ``margin`` of what ``classify`` found."""
    import numpy as np

    names = np.array([*labels, None], dtype=object)  # index -1 picks the None
    return {PREDICTED_CLASS: names[found.index], CONFIDENCE: found.confidence, MARGIN: found.margin}


def classify(
    tensors: Mapping[str, NDArray[Any]], specs: Sequence[SpecLike], labels: Sequence[str]
) -> Classified | None:
    """Read class, confidence and margin from the scores: the first output with one score a label.

    Scores declared to lie in 0..1 by the contract are probabilities as they stand; so are rows that are not negative
    and add up to 1 within 2 % (what an int8 softmax of ten classes is off by); others are taken as logits. One score
    for two labels is the probability of the second.

    Returns:
        None where no output looks like scores.
    """
    import numpy as np

    for spec in specs:
        array = tensors.get(spec.name)
        if array is None or array.ndim != 2:
            continue
        scores = array.astype(np.float64)
        if scores.shape[1] == 1 and len(labels) == 2:
            scores = np.concatenate([1.0 - scores, scores], axis=1)
        elif scores.shape[1] != len(labels):
            continue
        declared = spec.min == 0.0 and spec.max == 1.0
        return _read_scores(scores, declared)
    return None


def image_columns(images: NDArray[Any], low: float, high: float) -> dict[str, NDArray[Any]]:
    """Return brightness, contrast, share of saturated values and sharpness of each image, float64 [N].

    Brightness and contrast are mean and standard deviation of the grey image (mean of channels), in the tensor's
    units. Saturated is a value in the top 2 % of the range. Sharpness is the mean absolute second difference of grey
    neighbours, across and down, over the mean absolute first difference: about 2 / (width of an edge in pixels), and
    0 for a flat image. It does not change with exposure or gain, which move the plain gradient as much as blur does
    (handwritten digits: dimming by 40 % moves the gradient by 3.3 sd and this by 0; a 3x3 blur by 4.2 sd and 7.6).

    Args:
        images: [N, H, W, C] or [N, H, W], any real dtype.
        low: lowest value a pixel can have.
        high: highest value a pixel can have.
    """
    import numpy as np

    if images.ndim == 3:
        images = images[..., None]
    step = STRIDE if min(images.shape[1:3]) >= SAMPLED_FROM_SIDE else 1
    sampled = images[:, ::step, ::step]
    grey = _grey(sampled)
    first_across, second_across = _differences(images, grey, step)
    first_down, second_down = _differences(images.swapaxes(1, 2), grey.swapaxes(1, 2), step)
    first, second = first_across + first_down, second_across + second_down
    return {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "saturation_share": (sampled >= high - SATURATED_RATIO * (high - low)).mean(axis=(1, 2, 3)),
        "sharpness": np.divide(second, first, out=np.zeros_like(first), where=first != 0.0),
    }


def _grey(images: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean of the channels of [N, H, W, C]."""
    import numpy as np

    grey: NDArray[np.float64]
    grey = images[..., 0].astype(np.float64) if images.shape[3] == 1 else images.mean(axis=3, dtype=np.float64)
    return grey


def _differences(
    images: NDArray[Any], grey: NDArray[np.float64], step: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (mean absolute first, mean absolute second) difference along axis 2 at the sampled pixels, [N] each.

    Neighbours are true neighbours whatever the step; pixels with fewer than two after them are left out.
    """
    import numpy as np

    third = _grey(images[:, ::step, 2::step])
    width = third.shape[2]
    if not width:
        return np.zeros(len(images)), np.zeros(len(images))
    second = _grey(images[:, ::step, 1::step])[:, :, :width]
    left, right = second - grey[:, :, :width], third - second
    return np.abs(left).mean(axis=(1, 2)), np.abs(right - left).mean(axis=(1, 2))


def _read_scores(scores: NDArray[np.float64], declared: bool) -> Classified:
    import numpy as np

    rows = np.arange(len(scores))
    finite = np.isfinite(scores).all(axis=1)
    safe = scores if finite.all() else np.where(finite[:, None], scores, 0.0)
    if not declared:
        exponent = np.exp(safe - safe.max(axis=1, keepdims=True))
        softmax = exponent / exponent.sum(axis=1, keepdims=True)
        is_share = (safe >= 0.0).all(axis=1) & (np.abs(safe.sum(axis=1) - 1.0) <= 0.02)
        safe = np.where(is_share[:, None], safe, softmax)
    index = safe.argmax(axis=1)
    confidence = safe[rows, index]
    others = safe.copy()
    others[rows, index] = -np.inf
    margin = confidence - others.max(axis=1) if scores.shape[1] > 1 else confidence
    return Classified(
        index=np.where(finite, index, -1),
        confidence=np.where(finite, _coarse(confidence), np.nan),
        margin=np.where(finite, _coarse(margin), np.nan),
    )


def _coarse(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to ``SCORE_STEPS``."""
    import numpy as np

    rounded: NDArray[np.float64] = np.round(values * SCORE_STEPS) / SCORE_STEPS
    return rounded


def _feature_columns(array: NDArray[Any], spec: SpecLike) -> dict[str, NDArray[Any]]:
    flat = array.reshape(len(array), -1)
    width = flat.shape[1]
    names = list(spec.features)
    if len(names) != width:
        names = [spec.name] if width == 1 else [f"{spec.name}_{i}" for i in range(width)]
    return {name: flat[:, i] for i, name in enumerate(names)}


def _value_range(spec: SpecLike, array: NDArray[Any]) -> tuple[float, float]:
    """Return the range of a pixel: the contract's, else the integer type's, else 0..1."""
    import numpy as np

    if spec.min is not None and spec.max is not None:
        return spec.min, spec.max
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        return float(limits.min), float(limits.max)
    return 0.0, 1.0
