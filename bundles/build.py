"""Building a bundle: model files, contract, goldens and training rows in; one ``.wgb`` out.

The same inputs and ``created_ms`` give the same bytes. The baseline is made here from the training rows, in the very
columns a device will count (``sketch.columns``). Runs where models are made, never on a device; needs numpy for rows
and goldens. Runs no model: answers of the model on the training rows are handed in. Leaves signing to ``trust``.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bundles.archive import Archive, pack
from bundles.contract import Contract, TensorSpec, encode_contract
from bundles.digest import sha256_file, sha256_hex
from bundles.errors import BundleRefused
from bundles.lineage import Lineage, check_lineage
from bundles.manifest import BundleFile, Channel, HealthCheck, Manifest, Role, Variant, encode_manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONTRACT_PATH, GOLDENS_PATH, BASELINE_PATH = "contract.json", "goldens.npz", "baseline.json"
MODEL_FOLDER = "model/"


@dataclass(frozen=True)
class VariantSource:
    """One variant and the file it is built from; see ``manifest.Variant`` for the fields.

    Attributes:
        source: the model file; variants may share one.
    """

    id: str
    runtime: str
    source: Path
    hardware: Sequence[str] = ()
    execution_provider: str = "cpu"
    min_driver: str = ""
    quantization: str = "int8"
    latency_p95_ms: float = 0.0

    @property
    def path(self) -> str:
        """Where the model file lies in the bundle."""
        return MODEL_FOLDER + self.source.name


@dataclass(frozen=True)
class TrainingRows:
    """What the baseline is made from: rows in the order they happened.

    Attributes:
        inputs: tensor name -> array [N, ...] in the contract's shape, dtype and units.
        outputs: tensor name -> the model's answers [M, ...], best to rows it was not trained on, of which it is too
            sure for its answers elsewhere to be compared with; empty = the baseline describes inputs only.
    """

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildSpec:
    """Everything one bundle is built from. Fields as in ``manifest.Manifest`` where not said.

    Attributes:
        contract: what the model takes and answers; its labels become the manifest's.
        variants: in the order in which devices should prefer them.
        goldens: ``.npz`` with ``input.<tensor>`` and ``output.<tensor>``, each [G, ...].
        rows: None = no baseline, and so no drift watch.
        swap: ``cold`` where devices cannot hold two copies: a gap in the answers is the price.
        extra: path in the bundle -> (file, role), such as a model card.
    """

    team: str
    model: str
    version: str
    release_counter: int
    channel: Channel
    created_ms: int
    contract: Contract
    variants: Sequence[VariantSource]
    goldens: Path
    rows: TrainingRows | None = None
    health_check: HealthCheck = field(default_factory=HealthCheck)
    lineage: Lineage = field(default_factory=Lineage)
    licence: str = ""
    swap: Literal["hot", "cold"] = "hot"
    extra: Mapping[str, tuple[Path, Role]] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """A built bundle, and sentences its builder should read (a provisional baseline, say)."""

    archive: Archive
    notes: list[str]


def build(spec: BuildSpec, path: Path) -> Built:
    """Build the bundle of ``spec`` into the file ``path``.

    Raises:
        BundleRefused: an input is missing (``BUNDLE_FILE_MISSING``), two of them want one path (``BUNDLE_PATH``), the
            goldens do not fit the contract (``BUNDLE_GOLDENS``), the rows do not (``BUNDLE_ROWS``), the lineage makes
            no sense (``BUNDLE_LINEAGE``), or the result would break a rule of manifest, contract or baseline.
        OSError: the disk is full.
    """
    contract_bytes = encode_contract(spec.contract)
    check_lineage(spec.lineage)
    check_goldens(spec.goldens, spec.contract)
    sources: dict[str, tuple[Path | bytes, Role]] = {}
    for variant in spec.variants:
        known = sources.setdefault(variant.path, (variant.source, "model"))[0]
        if known != variant.source:
            raise BundleRefused(
                f"Two model files are called {variant.source.name!r}.",
                code="BUNDLE_PATH",
                remedy="Rename one of them.",
            )
    sources[CONTRACT_PATH] = (contract_bytes, "contract")
    sources[GOLDENS_PATH] = (spec.goldens, "goldens")
    notes: list[str] = []
    if spec.rows is None:
        notes.append("There are no training rows, so this bundle has no baseline and its drift is not watched.")
    else:
        sources[BASELINE_PATH] = (_baseline(spec, spec.rows, notes), "baseline")
    for name, (source, role) in spec.extra.items():
        if name in sources:
            raise BundleRefused(f"{name!r} is a path of the bundle already.", code="BUNDLE_PATH", remedy="Rename it.")
        sources[name] = (source, role)
    manifest = Manifest(
        team=spec.team,
        model=spec.model,
        version=spec.version,
        release_counter=spec.release_counter,
        channel=spec.channel,
        created_ms=spec.created_ms,
        files=[_describe(name, source, role) for name, (source, role) in sources.items()],
        variants=[_variant(variant) for variant in spec.variants],
        health_check=spec.health_check,
        labels=list(spec.contract.labels),
        lineage=spec.lineage,
        licence=spec.licence,
        swap=spec.swap,
    )
    files = {name: source for name, (source, _) in sources.items()}
    return Built(pack(path, encode_manifest(manifest), files), notes)


def read_rows(path: Path, contract: Contract, predictions: Path | None = None) -> TrainingRows:
    """Read training rows: an ``.npz`` with ``input.<tensor>`` (or ``x``, where there is one input), rows in time order.

    The model's answers are ``output.<tensor>`` of the same file or of ``predictions`` (or ``probabilities``, where
    there is one output).

    Args:
        path: the rows, in the contract's units.
        contract: gives shape and dtype.
        predictions: the model's answers to the same rows, if they are in a file of their own.

    Raises:
        BundleRefused: ``BUNDLE_ROWS``.
    """
    arrays = _load_arrays(path, "BUNDLE_ROWS")
    inputs = {
        spec.name: _fit(spec, _pick(arrays, "input", spec, contract.inputs, "x", path)) for spec in contract.inputs
    }
    answers = _load_arrays(predictions, "BUNDLE_ROWS") if predictions is not None else arrays
    outputs: dict[str, NDArray[Any]] = {}
    if predictions is not None or any(name.startswith("output.") for name in arrays):
        outputs = {
            spec.name: _fit(spec, _pick(answers, "output", spec, contract.outputs, "probabilities", path))
            for spec in contract.outputs
        }
    lengths = {len(array) for array in (*inputs.values(), *outputs.values())}
    if len(lengths) != 1:
        raise _rows_refused(path, f"their arrays have {sorted(lengths)} rows")
    return TrainingRows(inputs, outputs)


def check_goldens(path: Path, contract: Contract) -> None:
    """Check that the goldens name every tensor of the contract, equally often, without reading objects.

    Raises:
        BundleRefused: ``BUNDLE_GOLDENS`` or ``BUNDLE_FILE_MISSING``.
    """
    arrays = _load_arrays(path, "BUNDLE_GOLDENS")
    wanted = [f"input.{spec.name}" for spec in contract.inputs] + [f"output.{spec.name}" for spec in contract.outputs]
    missing = [name for name in wanted if name not in arrays]
    lengths = {len(arrays[name]) for name in wanted if name in arrays and arrays[name].ndim}
    if missing or len(lengths) != 1 or 0 in lengths:
        what = f"lack {', '.join(missing)}" if missing else "do not hold the same number of samples, one or more"
        raise BundleRefused(
            f"The goldens in {path.name} {what}.",
            code="BUNDLE_GOLDENS",
            remedy="Save input.<tensor> and output.<tensor> for every tensor of the contract, each [G, ...].",
        )


def _baseline(spec: BuildSpec, rows: TrainingRows, notes: list[str]) -> bytes:
    from bundles.sketch.build import build_baseline, encode_baseline, provisional_reason
    from bundles.sketch.columns import PREDICTED_CLASS, input_columns, output_columns
    from bundles.sketch.form import ColumnSource

    contract = spec.contract
    columns: dict[str, Any] = dict(input_columns(rows.inputs, contract.inputs))
    sources: dict[str, ColumnSource] = dict.fromkeys(columns, "input")
    if rows.outputs:
        answered = output_columns(rows.outputs, contract.outputs, task=contract.task, labels=contract.labels)
        columns |= answered
        sources |= dict.fromkeys(answered, "output")
    else:
        notes.append(
            "The model's answers to the training rows are not known, so its outputs are not watched for drift."
        )
    categories = {PREDICTED_CLASS: contract.labels} if PREDICTED_CLASS in columns else {}
    baseline = build_baseline(
        f"{spec.team}/{spec.model}", spec.version, columns, sources=sources, categories=categories
    )
    if reason := provisional_reason(baseline):
        notes.append(reason)
    return encode_baseline(baseline)


def _describe(name: str, source: Path | bytes, role: Role) -> BundleFile:
    if isinstance(source, bytes):
        return BundleFile(name, sha256_hex(source), len(source), role)
    try:
        digest, length = sha256_file(source)
    except OSError as error:
        raise _missing(source, error) from error
    return BundleFile(name, digest, length, role)


def _variant(source: VariantSource) -> Variant:
    return Variant(
        id=source.id,
        runtime=source.runtime,
        file=source.path,
        hardware=list(source.hardware),
        execution_provider=source.execution_provider,
        min_driver=source.min_driver,
        quantization=source.quantization,
        latency_p95_ms=source.latency_p95_ms,
    )


def _load_arrays(path: Path, code: str) -> dict[str, NDArray[Any]]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise _missing(path, error) from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleRefused(
            f"{path.name} is not an .npz of plain arrays: {error}.",
            code=code,
            remedy="Save it with numpy.savez, without objects.",
        ) from error


def _pick(
    arrays: Mapping[str, NDArray[Any]],
    side: str,
    spec: TensorSpec,
    specs: Sequence[TensorSpec],
    alone: str,
    path: Path,
) -> NDArray[Any]:
    for name in (f"{side}.{spec.name}", spec.name, *([alone] if len(specs) == 1 else [])):
        if name in arrays:
            return arrays[name]
    raise _rows_refused(path, f"they hold no {side}.{spec.name}")


def _fit(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """Give rows [N, ...] the contract's shape of one sample, and its dtype."""
    size = math.prod(array.shape[1:])
    # A contract may or may not spell the batch dimension out; rows always have one.
    spelled_out = len(spec.shape) > 1 and spec.shape[0] in (None, 1)
    for shape in (spec.shape[1:], spec.shape) if spelled_out else (spec.shape,):
        fixed = math.prod(dim for dim in shape if dim is not None)
        if shape.count(None) == 0 and fixed == size:
            return array.reshape(len(array), *(dim for dim in shape if dim is not None)).astype(spec.dtype)
        if shape.count(None) and len(shape) == array.ndim - 1:
            return array.astype(spec.dtype)
    raise BundleRefused(
        f"The rows' shape {list(array.shape)} does not fit {spec.name!r} of the contract, {spec.shape}.",
        code="BUNDLE_ROWS",
        remedy="Save the rows as [N, ...] with the contract's shape of one sample.",
    )


def _rows_refused(path: Path, what: str) -> BundleRefused:
    return BundleRefused(
        f"The training rows in {path.name} do not fit the contract: {what}.",
        code="BUNDLE_ROWS",
        remedy="Save input.<tensor> [N, ...] for every input, and output.<tensor> for every output or for none.",
    )


def _missing(path: Path, error: OSError) -> BundleRefused:
    return BundleRefused(
        f"The file {path} cannot be read: {error.strerror}.",
        code="BUNDLE_FILE_MISSING",
        remedy="Check the paths in bundle.toml; they are relative to it.",
    )
