"""``bundle.toml``: what a bundle is built from, as its maker writes it down. Paths are relative to the file.

::

    contract = "contract.json"
    goldens = "goldens.npz"

    [bundle]
    team = "vision"
    model = "digits"
    version = "1.0.0"
    release_counter = 1
    channel = "prod"

    [[variants]]
    id = "onnx-int8"
    runtime = "onnxruntime"
    file = "digits.onnx"

    [training]
    rows = "train.npz"

    [validation]
    rows = "validation.npz"
    predictions = "answers.npz"

    [lineage]
    training_run = "digits-17"
    code_revision = "git"
    started = 2026-11-20T08:00:00Z
    parameters = { epochs = 30 }

    [[lineage.materials]]
    name = "MNIST, cleaned"
    file = "train.npz"

Also: ``[health_check]`` (fields of the manifest) and ``[[files]]`` (``path``, ``file``, ``role``). A name that is not
known is refused here, because it is a typing error; readers of the built manifest ignore them.
"""

from __future__ import annotations

import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from bundles.build import BuildSpec, TrainingRows, VariantSource
from bundles.contract import Contract, parse_contract
from bundles.digest import sha256_file
from bundles.errors import BundleRefused
from bundles.lineage import Lineage, Material, Scalar, check_lineage
from bundles.manifest import Channel, HealthCheck, Role
from bundles.revision import read_revision

FROM_GIT = "git"
"""The ``code_revision`` that stands for what is checked out."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class BundleSection(_Strict, frozen=True):
    """``[bundle]``; ``created_ms`` makes the bytes reproducible and is the time of building where it is left out."""

    team: str
    model: str
    version: str
    release_counter: int
    channel: Channel = "prod"
    created_ms: int | None = None
    licence: str = ""
    swap: Literal["hot", "cold"] = "hot"


class VariantSection(_Strict, frozen=True):
    """``[[variants]]``: fields as in the manifest; ``file`` is the model file."""

    id: str
    runtime: str
    file: str
    hardware: list[str] = []
    execution_provider: str = "cpu"
    min_driver: str = ""
    quantization: str = "int8"
    latency_p95_ms: float = 0.0


class RowsSection(_Strict, frozen=True):
    """``[training]`` and ``[validation]``: rows in time order, and the model's answers to them.

    The baseline of inputs is made from the training rows; that of outputs from the validation rows where there are
    any, because a model is too sure of rows it was trained on for its answers to be compared with.
    """

    rows: str
    predictions: str = ""


class FileSection(_Strict, frozen=True):
    """``[[files]]``: anything else, such as a model card."""

    path: str
    file: str
    role: Role = "other"


class MaterialSection(_Strict, frozen=True):
    """``[[lineage.materials]]``: what went into the training; ``file`` is hashed, and not put into the bundle."""

    name: str
    file: str = ""
    sha256: str = ""
    uri: str = ""


class LineageSection(_Strict, frozen=True):
    """``[lineage]``: fields as in the manifest, times as TOML writes them.

    ``code_revision = "git"`` reads the repository that ``bundle.toml`` lies in, and its remote where ``repository`` is
    left out.
    """

    training_run: str = ""
    training_run_uri: str = ""
    dataset_sha256: str = ""
    materials: list[MaterialSection] = []
    code_revision: str = ""
    repository: str = ""
    builder: str = ""
    parent_sha256: str = ""
    parents: list[str] = []
    started: datetime | None = None
    finished: datetime | None = None
    parameters: dict[str, Scalar] = {}


class Project(_Strict, frozen=True):
    """A whole ``bundle.toml``."""

    bundle: BundleSection
    contract: str
    goldens: str
    variants: list[VariantSection]
    training: RowsSection | None = None
    validation: RowsSection | None = None
    health_check: dict[str, Any] = {}
    lineage: LineageSection = LineageSection()
    files: list[FileSection] = []


def read_project(path: Path) -> Project:
    """Read ``bundle.toml``.

    Raises:
        BundleRefused: ``BUNDLE_PROJECT``.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Project)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise _refused(path, error) from error


def read_contract(project: Project, folder: Path) -> Contract:
    """Read the contract that ``project`` names.

    Raises:
        BundleRefused: it is missing or breaks a rule of contracts.
    """
    path = folder / project.contract
    try:
        return parse_contract(path.read_bytes())
    except OSError as error:
        raise _refused(path, error) from error


def to_spec(project: Project, folder: Path, contract: Contract, rows: TrainingRows | None, now_ms: int) -> BuildSpec:
    """Return what to build.

    Args:
        project: as read.
        folder: what its paths are relative to.
        contract: as read.
        rows: the training rows, with the model's answers where they are known.
        now_ms: time of building, used where the project states none.

    Raises:
        BundleRefused: ``BUNDLE_PROJECT``, ``BUNDLE_LINEAGE``, ``BUNDLE_REVISION`` or ``BUNDLE_FILE_MISSING``.
    """
    head = project.bundle
    try:
        health = msgspec.convert(project.health_check, HealthCheck)
    except msgspec.ValidationError as error:
        raise _refused(folder / "bundle.toml", error) from error
    return BuildSpec(
        team=head.team,
        model=head.model,
        version=head.version,
        release_counter=head.release_counter,
        channel=head.channel,
        created_ms=head.created_ms if head.created_ms is not None else now_ms,
        contract=contract,
        variants=[
            VariantSource(
                v.id,
                v.runtime,
                folder / v.file,
                tuple(v.hardware),
                v.execution_provider,
                v.min_driver,
                v.quantization,
                v.latency_p95_ms,
            )
            for v in project.variants
        ],
        goldens=folder / project.goldens,
        rows=rows,
        health_check=health,
        lineage=_lineage(project.lineage, folder),
        licence=head.licence,
        swap=head.swap,
        extra={entry.path: (folder / entry.file, entry.role) for entry in project.files},
    )


def _lineage(section: LineageSection, folder: Path) -> Lineage:
    revision, repository = section.code_revision, section.repository
    if revision == FROM_GIT:
        found = read_revision(folder)
        revision, repository = found.code_revision, repository or found.repository
    lineage = Lineage(
        training_run=section.training_run,
        dataset_sha256=section.dataset_sha256,
        code_revision=revision,
        parent_sha256=section.parent_sha256,
        training_run_uri=section.training_run_uri,
        materials=[_material(entry, folder) for entry in section.materials],
        repository=repository,
        builder=section.builder,
        parents=section.parents,
        started_ms=_ms("started", section.started),
        finished_ms=_ms("finished", section.finished),
        parameters=section.parameters,
    )
    check_lineage(lineage)
    return lineage


def _material(section: MaterialSection, folder: Path) -> Material:
    sha256 = section.sha256
    if section.file:
        try:
            found, _ = sha256_file(folder / section.file)
        except OSError as error:
            raise _refused_lineage(f"material {section.name!r}: {section.file} cannot be read") from error
        if sha256 not in ("", found):
            raise _refused_lineage(f"material {section.name!r}: {section.file} has another sha256, {found}")
        sha256 = found
    return Material(section.name, sha256, section.uri)


def _ms(name: str, time: datetime | None) -> int:
    if time is None:
        return 0
    if time.tzinfo is None:
        raise _refused_lineage(f"{name} has no time zone; write {time.isoformat()}Z for UTC")
    return int(time.timestamp() * 1000)


def _refused_lineage(what: str) -> BundleRefused:
    return BundleRefused(
        f"[lineage] {what}.", code="BUNDLE_LINEAGE", remedy="Correct the section, or leave out what is not known."
    )


def _refused(path: Path, error: Exception) -> BundleRefused:
    return BundleRefused(
        f"{path} cannot be used: {error}.",
        code="BUNDLE_PROJECT",
        remedy="See `wavegate bundle build --help` for what belongs into bundle.toml.",
    )
