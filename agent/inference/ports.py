"""Ties the contract's tensors to the model file's: by name where it matches, else by position; with quantisation.

A float contract may stand before an integer tensor: values are quantised on the way in with the tensor's own scale
and zero point, real = (q - zero_point) * scale (TensorFlow Lite's quantisation specification; ONNX QuantizeLinear is
the same), and dequantised on the way out. Rounding is half to even, as in both runtimes.
A missing value (NaN), where the contract allows one, reaches an integer tensor as the real value zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelRefused
from agent.inference.backend import Port, Tensors
from bundles.errors import InputRefused

_FLOATS = ("float16", "float32", "float64")
_TABLE_DTYPES = ("int8", "uint8")


@dataclass(frozen=True)
class Quantisation:
    """Scale and zero point of one tensor: real = (q - zero_point) * scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class NativeTensor:
    """One tensor as the model file has it; ``shape`` holds None for any length."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    quantisation: Quantisation | None = None


class Binding:
    """One promised tensor tied to one native tensor."""

    def __init__(self, port: Port, native: NativeTensor) -> None:
        self.port = port
        self.native = native
        self._native_dtype = np.dtype(native.dtype)
        self.dtype = np.dtype(port.dtype)
        self._quantisation = native.quantisation if port.dtype != native.dtype else None
        self._table: NDArray[Any] | None = None
        if self._quantisation is not None:
            info = np.iinfo(self._native_dtype)
            self._low, self._high = float(info.min), float(info.max)
            if native.dtype in _TABLE_DTYPES:
                every = np.arange(256, dtype=np.uint8).view(self._native_dtype)
                self._table = self._dequantise(every)

    def to_native(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return ``array`` in the model's dtype, C-contiguous."""
        if self._quantisation is None:
            return np.ascontiguousarray(array)
        # In place, and by plain ufuncs: on a device these few lines run before every request.
        values = np.divide(array, self._quantisation.scale, dtype=np.float32)
        np.rint(values, out=values)
        np.add(values, self._quantisation.zero_point, out=values)
        if math.isnan(np.minimum.reduce(values, axis=None)):
            np.nan_to_num(values, copy=False, nan=float(self._quantisation.zero_point))
        np.maximum(values, self._low, out=values)
        np.minimum(values, self._high, out=values)
        return values.astype(self._native_dtype, order="C")

    def from_native(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the model's ``array`` in the promised dtype."""
        if self._table is not None:
            return self._table.take(array.view(np.uint8))  # 256 possible values: one look-up each
        return array if self._quantisation is None else self._dequantise(array)

    def _dequantise(self, array: NDArray[Any]) -> NDArray[Any]:
        assert self._quantisation is not None
        real = (array.astype(np.float64) - self._quantisation.zero_point) * self._quantisation.scale
        return real.astype(self.dtype)


def bind(side: str, promised: Sequence[Port], native: Sequence[NativeTensor]) -> list[Binding]:
    """Tie each promised tensor to one native tensor.

    Args:
        side: ``input`` or ``output``, for the error's sentence.
        promised: the contract's tensors; empty = take the native ones as they are.
        native: the model file's tensors, in its order.

    Returns:
        One binding a promised tensor, in the contract's order.

    Raises:
        ModelRefused: ``MODEL_IO`` where counts, dtypes or fixed dimensions cannot be reconciled.
    """
    if not promised:
        return [Binding(Port(tensor.name, tensor.dtype, tensor.shape), tensor) for tensor in native]
    if len(promised) != len(native):
        _refuse(f"The contract names {len(promised)} {side}s; the model file has {len(native)}.")
    by_name = {tensor.name: tensor for tensor in native}
    if all(port.name in by_name for port in promised):
        pairs = [(port, by_name[port.name]) for port in promised]
    else:
        pairs = list(zip(promised, native, strict=True))
    return [_reconcile(side, port, tensor) for port, tensor in pairs]


def take_input(binding: Binding, inputs: Tensors) -> NDArray[Any]:
    """Return the array for one binding after the checks a runtime needs to be safe: name, dtype, rank and length.

    The contract's check comes before this and says more; this one keeps a session safe when it is called without.

    Raises:
        InputRefused: ``INPUT_NAME``, ``INPUT_DTYPE`` or ``INPUT_SHAPE``.
    """
    port = binding.port
    array = inputs.get(port.name)
    if array is None:
        raise InputRefused(
            f"The input {port.name!r} is missing.", code="INPUT_NAME", remedy="Send every input of the model."
        )
    if array.dtype != binding.dtype:
        raise InputRefused(
            f"Input {port.name!r} has dtype {array.dtype}; the model takes {port.dtype}.",
            code="INPUT_DTYPE",
            remedy=f"Convert it to {port.dtype} before the call.",
        )
    shape = binding.native.shape
    if len(array.shape) != len(shape) or any(
        want is not None and have != want for have, want in zip(array.shape, shape, strict=True)
    ):
        raise InputRefused(
            f"Input {port.name!r} has shape {list(array.shape)}; the model file takes {list(shape)}.",
            code="INPUT_SHAPE",
            remedy="Send the shape that the model's metadata names.",
        )
    return array


def _reconcile(side: str, port: Port, tensor: NativeTensor) -> Binding:
    same_rank = len(port.shape) == len(tensor.shape)
    if not same_rank or any(
        p is not None and n is not None and p != n for p, n in zip(port.shape, tensor.shape, strict=True)
    ):
        _refuse(
            f"The contract gives {side} {port.name!r} the shape {list(port.shape)}; "
            f"the model file's {tensor.name!r} has {list(tensor.shape)}."
        )
    if port.dtype != tensor.dtype and not (port.dtype in _FLOATS and tensor.quantisation is not None):
        _refuse(
            f"The contract gives {side} {port.name!r} the dtype {port.dtype}; the model file's {tensor.name!r} "
            f"is {tensor.dtype} without a scale and zero point to convert with."
        )
    return Binding(port, tensor)


def _refuse(sentence: str) -> None:
    raise ModelRefused(
        sentence, code="MODEL_IO", remedy="Build the bundle again with a contract that fits its model files."
    )
