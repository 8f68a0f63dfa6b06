"""The rows of real handwritten digits behind the demo, and who may see which of them.

The digits are scikit-learn's `load_digits`: 1,797 images of 8x8 pixels, values 0 to 16, from the Optical
Recognition of Handwritten Digits data set of the UCI repository (E. Alpaydin and C. Kaynak, 1998, CC BY 4.0).
Training is left to `networks`, measuring to `runtimes`.

Rules kept here: training, golden and streamed rows are disjoint; the split is drawn at random, so that the
stream does not drift from the training rows by itself (the data set runs writer after writer); training rows
keep the data set's own order, which is the order of collection, so that a baseline's floors can be learned
from them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

SPLIT_SEED = 20240
STREAM_ROWS = 500
GOLDENS_PER_CLASS = 4
CLASSES = 10

# The label mix-up of digits 1.2.0: what the row shows -> what the row was said to show.
MISLABELLED = {3: 8, 4: 9, 7: 1}


@dataclass(frozen=True)
class Rows:
    """Images uint8 [N,8,8] with values 0 to 16, and their labels uint8 [N]."""

    images: Array
    labels: Array

    def as_input(self) -> Array:
        """The images as a model's door takes them: float32 [N,8,8,1], values 0 to 16."""
        return self.images.astype(np.float32)[..., None]


@dataclass(frozen=True)
class Split:
    """The three disjoint parts of the data set."""

    train: Rows
    goldens: Rows
    stream: Rows


def load_split() -> Split:
    """Reads the data set from scikit-learn and splits it, the same way every time."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images, labels = source.images.astype(np.uint8), source.target.astype(np.uint8)
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    stream, rest = shuffled[:STREAM_ROWS], shuffled[STREAM_ROWS:]
    goldens = np.concatenate([rest[labels[rest] == digit][:GOLDENS_PER_CLASS] for digit in range(CLASSES)])
    train = np.setdiff1d(rest, goldens)  # sorted: the order of collection
    return Split(*(Rows(images[rows], labels[rows]) for rows in (train, goldens, stream)))


def mislabel(labels: Array) -> Array:
    """The labels uint8 [N] after the mix-up of `MISLABELLED`."""
    table = np.arange(CLASSES, dtype=np.uint8)
    table[list(MISLABELLED)] = list(MISLABELLED.values())
    return table[labels]


def save_rows(path: Path, rows: Rows) -> None:
    """Writes `x` and `y` compressed. numpy stamps the members with a fixed date: equal rows, equal bytes."""
    np.savez_compressed(path, x=rows.images, y=rows.labels)


def save_goldens(path: Path, images: Array, probabilities: Array) -> None:
    """Writes golden inputs float32 [G,8,8,1] and outputs float32 [G,10] under their tensors' names."""
    np.savez(path, **{"input.image": images, "output.probabilities": probabilities})
