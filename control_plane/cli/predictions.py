"""The model's answers to the training rows, for the baseline of its outputs: runs an ONNX variant where it can.

Belongs to the command line because ``bundles`` runs no models. ONNX Runtime is imported only when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundles.contract import Contract
from bundles.errors import AskPerson, BundleRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray


def predict(model: Path, contract: Contract, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run ``model`` over rows.

    Args:
        model: an ``.onnx`` file.
        contract: names the tensors; a model of one input or output may call it otherwise.
        inputs: tensor name -> rows [N, ...] in the contract's dtype.

    Returns:
        Output tensor name -> [N, ...].

    Raises:
        AskPerson: ``PREDICTIONS_UNAVAILABLE``: ONNX Runtime is not installed.
        BundleRefused: ``BUNDLE_ROWS``: the model does not take these rows.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise AskPerson(
            "The model's answers to the training rows need ONNX Runtime, which is not installed here.",
            code="PREDICTIONS_UNAVAILABLE",
            remedy="Install onnxruntime, or hand the answers in with --predictions FILE.npz.",
        ) from error
    import numpy as np

    try:
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        asked = [tensor.name for tensor in session.get_inputs()]
        answered = [tensor.name for tensor in session.get_outputs()]
        named = _match([spec.name for spec in contract.inputs], asked)
        rows = len(next(iter(inputs.values())))
        pieces = [
            session.run(answered, {named[name]: array[row : row + 1] for name, array in inputs.items()})
            for row in range(rows)
        ]
        outputs = _match([spec.name for spec in contract.outputs], answered)
    except Exception as error:  # the runtime raises a family of its own for each fault
        raise BundleRefused(
            f"{model.name} does not take the training rows: {error}.",
            code="BUNDLE_ROWS",
            remedy="Check the rows against the contract, or hand the answers in with --predictions FILE.npz.",
        ) from error
    columns = dict(zip(answered, zip(*pieces, strict=True), strict=True))
    return {name: np.concatenate(columns[inside]) for name, inside in outputs.items()}


def _match(names: list[str], inside: list[str]) -> dict[str, str]:
    """Return the contract's names -> the model's; by name, or by place where they are called otherwise."""
    if set(names) <= set(inside):
        return {name: name for name in names}
    return dict(zip(names, inside, strict=True))
