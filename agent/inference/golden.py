"""Golden inputs and outputs: reading them, and judging a model's answers by the rule signed in the manifest.

Correct int8 answers differ between runtimes by several steps of the quantisation, so equality is never asked for.
The rule is task agreement and a bound on the mean difference, and every output must be finite. ``judge`` is pure.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundles.contract import Contract, TensorSpec
from bundles.errors import BundleRefused
from bundles.manifest import HealthCheck

MAX_GOLDEN_BYTES = 1 << 28
"""256 MiB unpacked: an ``.npz`` is a zip file, and its length says nothing of what it unpacks to."""


@dataclass(frozen=True)
class Goldens:
    """G golden samples.

    Attributes:
        inputs: tensor name -> array [G, ...] in the contract's dtype.
        outputs: tensor name -> array [G, ...].
        count: G.
    """

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    count: int

    def sample(self, contract: Contract, number: int) -> dict[str, NDArray[Any]]:
        """Return the inputs of one sample, in the contract's rank (a leading dimension of 1 where it has one)."""
        return {spec.name: _one(spec, self.inputs[spec.name], number) for spec in contract.inputs}


@dataclass(frozen=True)
class Judgement:
    """How a model's answers compare with the golden ones.

    Attributes:
        ok: the rule holds.
        top1_agreement: share of samples whose best class is the golden one; None where the rule does not ask.
        mean_abs_diff_ratio: mean absolute difference over the outputs' range, of the worst output; NaN where an
            answer was not finite.
        detail: one sentence.
    """

    ok: bool
    top1_agreement: float | None
    mean_abs_diff_ratio: float
    detail: str


def read_goldens(path: Path, contract: Contract) -> Goldens:
    """Read an ``.npz`` file with the arrays ``input.<tensor>`` and ``output.<tensor>``, each [G, ...].

    Raises:
        BundleRefused: ``GOLDENS_INVALID``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_GOLDEN_BYTES:
                raise ValueError("it unpacks to too much")
        with np.load(path, allow_pickle=False) as arrays:
            inputs = {spec.name: arrays[f"input.{spec.name}"] for spec in contract.inputs}
            outputs = {spec.name: arrays[f"output.{spec.name}"] for spec in contract.outputs}
        counts = {array.shape[0] if array.ndim else 0 for array in (*inputs.values(), *outputs.values())}
        if len(counts) != 1 or 0 in counts:
            raise ValueError("its arrays do not hold the same number of samples, one or more")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise BundleRefused(
            f"The goldens {path.name!r} cannot be used: {error}.",
            code="GOLDENS_INVALID",
            remedy="Build the bundle again with goldens that fit its contract.",
        ) from error
    return Goldens(inputs, outputs, counts.pop())


def judge(
    rule: HealthCheck, contract: Contract, expected: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]]
) -> Judgement:
    """Judge answers by the manifest's rule.

    Args:
        rule: the manifest's ``health_check``; with ``top1`` the best class is looked for along the last dimension
            of the contract's first output.
        contract: names the outputs, and their range where it is signed.
        expected: golden outputs, [G, ...] each.
        actual: the answers, as many elements as ``expected``.
    """
    ratio = 0.0
    for spec in contract.outputs:
        want = expected[spec.name].astype(np.float64)
        have = actual[spec.name].astype(np.float64).reshape(-1)
        if have.size != want.size:
            return Judgement(False, None, float("nan"), f"Output {spec.name!r} has another shape than its goldens.")
        if not np.isfinite(have).all():
            return Judgement(False, None, float("nan"), f"Output {spec.name!r} holds values that are not finite.")
        ratio = max(ratio, float(np.abs(have - want.reshape(-1)).mean()) / _range(spec, want))
    agreement = None
    if rule.comparator == "top1":
        name = contract.outputs[0].name
        agreement = _top1_agreement(expected[name], actual[name])
        if agreement < rule.min_agreement:
            return Judgement(
                False,
                agreement,
                ratio,
                f"Top-1 agrees with {agreement:.3f} of the goldens; {rule.min_agreement} is asked.",
            )
    if ratio > rule.max_mean_abs_diff_ratio:
        return Judgement(
            False,
            agreement,
            ratio,
            f"The mean difference is {ratio:.4f} of the output range; {rule.max_mean_abs_diff_ratio} is allowed.",
        )
    return Judgement(True, agreement, ratio, "The answers agree with the goldens.")


def _top1_agreement(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    classes = expected.shape[-1]
    want = expected.reshape(-1, classes).argmax(axis=1)
    have = actual.reshape(-1, classes)
    # A tie at the top is agreement: coarse int8 probabilities tie, and which one comes first means nothing.
    return float((have[np.arange(len(want)), want] >= have.max(axis=1)).mean())


def _range(spec: TensorSpec, expected: NDArray[Any]) -> float:
    if spec.min is not None and spec.max is not None:
        width = spec.max - spec.min
    else:
        width = float(expected.max() - expected.min())
    return width if width > 0 else 1.0


def _one(spec: TensorSpec, array: NDArray[Any], number: int) -> NDArray[Any]:
    sample: NDArray[Any] = array[number : number + 1] if array.ndim == len(spec.shape) else array[number]
    return sample
