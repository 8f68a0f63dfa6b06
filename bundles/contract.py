"""The feature contract: what a model takes and answers, and the check every request passes before it runs.

A contract is a file of the bundle (role ``contract``), so it is signed with it. ``check`` is pure: the same contract
and the same arrays give the same answer on every door (SDK, socket, trial). Leaves quantisation, tensor names inside
the model file, and what to do with a refused request to the agent. A reader ignores fields it does not know; a dtype
it does not know is refused, because it could not be checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import msgspec

from bundles.errors import BundleRefused, InputRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT_VERSION = 1
MAX_CONTRACT_BYTES = 256 * 1024
MAX_TENSORS = 64
MAX_RANK = 8

DType = Literal[
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"
]
_FLOATS = frozenset({"float16", "float32", "float64"})
_dtypes: dict[str, np.dtype[Any]] = {}


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One named input or output.

    Attributes:
        name: the name callers use; it need not be the name inside the model file.
        dtype: the dtype callers send or receive, such as ``float32`` before an int8 model.
        shape: one entry a dimension; None = any length of 1 or more.
        min: lowest allowed value, in the units of the tensor; None = unbounded.
        max: highest allowed value; None = unbounded.
        allow_missing: NaN stands for a missing value and is let through. Infinity never is.
        kind: ``image``, ``tabular``, ``embedding`` or ``other``; an unknown kind reads as ``other``.
        features: names along the last dimension (tabular), in order; empty = unnamed.
    """

    name: str
    dtype: DType
    shape: list[int | None]
    min: float | None = None
    max: float | None = None
    allow_missing: bool = False
    kind: str = "other"
    features: list[str] = []


class Contract(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model promises to take and to answer.

    Attributes:
        inputs: at least one, names unique, in the model's order.
        outputs: at least one, names unique, in the model's order.
        format_version: 1.
        task: ``classification``, ``regression`` or ``other``.
        labels: class names in the order of the output's last dimension.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    format_version: int = msgspec.field(default_factory=lambda: FORMAT_VERSION)
    task: str = "other"
    labels: list[str] = []


def parse_contract(data: bytes) -> Contract:
    """Parse and check the bytes of a contract file (UTF-8 JSON).

    Raises:
        BundleRefused: ``CONTRACT_JSON``, ``CONTRACT_FORMAT_VERSION`` or ``CONTRACT_FIELD``.
    """
    if len(data) > MAX_CONTRACT_BYTES:
        _refuse_contract("CONTRACT_JSON", f"The contract has {len(data)} bytes; {MAX_CONTRACT_BYTES} is the limit.")
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse_contract("CONTRACT_JSON", f"The contract is not valid JSON: {error}.")
    version = raw.get("format_version", FORMAT_VERSION) if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        _refuse_contract(
            "CONTRACT_FORMAT_VERSION",
            f"The contract has format version {version!r}; this program reads {FORMAT_VERSION}.",
        )
    try:
        contract = msgspec.convert(raw, Contract)
    except (msgspec.ValidationError, RecursionError) as error:
        _refuse_contract("CONTRACT_FIELD", f"The contract is not well formed: {error}.")
    for side, specs in (("input", contract.inputs), ("output", contract.outputs)):
        _check_specs(side, specs)
    return contract


def encode_contract(contract: Contract) -> bytes:
    """Return the bytes of a contract file.

    Raises:
        BundleRefused: the contract breaks a rule of ``parse_contract``.
    """
    data = msgspec.json.format(msgspec.json.encode(contract, order="deterministic"), indent=2) + b"\n"
    parse_contract(data)
    return data


def check(contract: Contract, batch: Mapping[str, NDArray[Any]]) -> None:
    """Check one request: names, dtypes, shapes, missing values, ranges, in this order.

    Args:
        contract: the model's contract.
        batch: tensor name -> array of exactly the dtype of the contract.

    Raises:
        InputRefused: ``INPUT_NAME``, ``INPUT_DTYPE``, ``INPUT_SHAPE``, ``INPUT_MISSING_VALUE`` or ``INPUT_RANGE``;
            ``details`` names the tensor.
    """
    if len(batch) != len(contract.inputs) or any(spec.name not in batch for spec in contract.inputs):
        wanted = [spec.name for spec in contract.inputs]
        raise InputRefused(
            f"The request has the inputs {sorted(map(str, batch))}; the model takes {wanted}.",
            code="INPUT_NAME",
            remedy="Send exactly the inputs that the model's metadata names.",
            details={"expected": wanted},
        )
    for spec in contract.inputs:
        check_tensor(spec, batch[spec.name])


def check_tensor(spec: TensorSpec, array: NDArray[Any]) -> None:
    """Check one array against its spec; see ``check`` for what it raises."""
    wanted = _dtypes.get(spec.dtype) or _numpy_dtype(spec.dtype)
    found = getattr(array, "dtype", None)
    if found is None or found != wanted:
        _refuse_input(
            "INPUT_DTYPE",
            spec,
            f"has dtype {found if found is not None else type(array).__name__}; the contract says {spec.dtype}",
            f"Convert it to {spec.dtype} before the call.",
        )
    shape = array.shape
    if not _fits(shape, spec.shape):
        _refuse_input(
            "INPUT_SHAPE",
            spec,
            f"has shape {list(shape)}; the contract says {_shape_text(spec.shape)}",
            "Reshape it; 'any' is a length of 1 or more.",
        )
    if spec.dtype in _FLOATS:
        _check_floats(spec, array)
    elif spec.min is not None or spec.max is not None:
        _check_range(spec, float(array.min()), float(array.max()))


def _fits(shape: tuple[int, ...], wanted: list[int | None]) -> bool:
    if len(shape) != len(wanted):
        return False
    for have, want in zip(shape, wanted, strict=True):  # noqa: SIM110 - a generator costs a microsecond more
        if have != want and (want is not None or not have):
            return False
    return True


def _check_floats(spec: TensorSpec, array: NDArray[Any]) -> None:
    # Two reductions answer both questions: minimum and maximum carry NaN through and show infinities. The ufuncs
    # are called themselves because array.min() takes twice as long on a small input.
    import numpy as np

    if spec.allow_missing:
        low, high = float(np.fmin.reduce(array, axis=None)), float(np.fmax.reduce(array, axis=None))
        if math.isnan(low):
            return  # everything is missing, and that is allowed
    else:
        low, high = float(np.minimum.reduce(array, axis=None)), float(np.maximum.reduce(array, axis=None))
    if not (math.isfinite(low) and math.isfinite(high)):
        what = "NaN" if math.isnan(low) else "an infinity"
        _refuse_input(
            "INPUT_MISSING_VALUE",
            spec,
            f"holds {what}, which the contract does not allow",
            "Fill in missing values as the model's card says, or skip the sample.",
        )
    _check_range(spec, low, high)


def _check_range(spec: TensorSpec, low: float, high: float) -> None:
    if (spec.min is not None and low < spec.min) or (spec.max is not None and high > spec.max):
        _refuse_input(
            "INPUT_RANGE",
            spec,
            f"has values from {low:g} to {high:g}; the contract allows {_bound(spec.min)} to {_bound(spec.max)}",
            "Check the units and the scaling of the input.",
        )


def _check_specs(side: str, specs: list[TensorSpec]) -> None:
    names = [spec.name for spec in specs]
    if not 1 <= len(specs) <= MAX_TENSORS or len(set(names)) != len(names) or not all(names):
        _refuse_contract("CONTRACT_FIELD", f"The contract needs 1 to {MAX_TENSORS} {side}s with unique names.")
    for spec in specs:
        if len(spec.shape) > MAX_RANK or any(dim is not None and dim < 1 for dim in spec.shape):
            _refuse_contract("CONTRACT_FIELD", f"The shape of {side} {spec.name!r} is not valid: {spec.shape}.")
        if spec.min is not None and spec.max is not None and not spec.min <= spec.max:
            _refuse_contract("CONTRACT_FIELD", f"The range of {side} {spec.name!r} is empty.")
        if spec.allow_missing and spec.dtype not in _FLOATS:
            _refuse_contract("CONTRACT_FIELD", f"{side} {spec.name!r} is {spec.dtype} and can hold no missing value.")
        last = spec.shape[-1] if spec.shape else None
        if spec.features and last != len(spec.features):
            _refuse_contract(
                "CONTRACT_FIELD",
                f"{side} {spec.name!r} names {len(spec.features)} features for a last dimension of {last}.",
            )


def _numpy_dtype(name: str) -> np.dtype[Any]:
    import numpy as np

    return _dtypes.setdefault(name, np.dtype(name))


def _shape_text(shape: list[int | None]) -> str:
    return "[" + ", ".join("any" if dim is None else str(dim) for dim in shape) + "]"


def _bound(value: float | None) -> str:
    return "anything" if value is None else f"{value:g}"


def _refuse_input(code: str, spec: TensorSpec, sentence: str, remedy: str) -> NoReturn:
    raise InputRefused(f"Input {spec.name!r} {sentence}.", code=code, remedy=remedy, details={"tensor": spec.name})


def _refuse_contract(code: str, sentence: str) -> NoReturn:
    raise BundleRefused(sentence, code=code, remedy="Mend the contract file and build the bundle again.")
