"""``bundle.json``: what one bundle promises.

The bundle digest, everywhere, is the sha256 of these bytes (at most 256 KiB). Parsing is strict about what could
deceive (duplicate keys, NaN, paths, unknown *critical* entries) and keeps silent about unknown fields, so that last
year's agent reads next year's bundle. Leaves signatures to ``trust`` and archives to ``archive``.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal, NoReturn

import msgspec

from bundles.digest import canonical_json, is_sha256
from bundles.errors import BundleRefused
from bundles.lineage import Lineage

FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 256 * 1024
MAX_FILES = 512
MAX_FILE_BYTES = 4 * 1024**3
MAX_DEPTH = 16
MAX_INT = 2**53 - 1
UNDERSTOOD_CRITICAL: frozenset[str] = frozenset()
"""Entries of ``critical[]`` this code honours. An entry not listed here makes the bundle refused."""

Channel = Literal["dev", "canary", "prod"]
CHANNEL_RANK: dict[str, int] = {"dev": 0, "canary": 1, "prod": 2}
Role = Literal["model", "contract", "baseline", "goldens", "model_card", "licence", "other"]
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_PATH_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}\Z")


class BundleFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One content-addressed file: its blob is ``blobs/sha256/<sha256>``.

    Attributes:
        path: relative, forward slashes, unique without regard to case.
        sha256: digest of the content.
        length: bytes.
        role: what the file is for.
    """

    path: str
    sha256: str
    length: int
    role: Role


class Variant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One build of the model for some hardware. A device takes the first it can run, in the manifest's order.

    Attributes:
        id: short name, unique in the manifest; reported by the device.
        runtime: ``onnxruntime``, ``litert``, ``tflite`` or ``openvino``; the ``fake`` runtime exists in tests only.
        file: path of the model file.
        hardware: hardware names it fits; empty = any.
        execution_provider: the accelerator asked for, such as ``cpu`` or ``cuda``.
        min_driver: lowest driver version; empty = any.
        quantization: ``int8``, ``float16``, ``float32``...
        latency_p95_ms: measured by the publisher, for people.
    """

    id: str
    runtime: str
    file: str
    hardware: list[str] = []
    execution_provider: str = "cpu"
    min_driver: str = ""
    quantization: str = "int8"
    latency_p95_ms: float = 0.0


class HealthCheck(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a device must see before it activates: the golden rule of the design's runtime page.

    Attributes:
        comparator: ``top1`` (classification) or ``allclose``.
        min_agreement: share of goldens whose top-1 agrees.
        max_mean_abs_diff_ratio: mean |difference| over the outputs' range.
        max_latency_ms: hard cap on the median golden latency; 0 = none.
    """

    comparator: Literal["top1", "allclose"] = "top1"
    min_agreement: float = 0.99
    max_mean_abs_diff_ratio: float = 0.01
    max_latency_ms: float = 0.0


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One bundle. Fields marked *reserved* are carried and checked for form, and used by later releases.

    Attributes:
        team: lower-case name; the trust role that must sign.
        model: lower-case name within the team.
        version: a version such as ``1.2.0``; compared only for equality, order is ``release_counter``.
        release_counter: rises with every release of this model; what floors compare.
        channel: dev < canary < prod; a device accepts channels at or above its pin.
        created_ms: UTC epoch milliseconds.
        files: every file but the manifest itself.
        variants: at least one.
        kind: ``model``; ``parameters`` and ``agent`` are reserved, and refused by every reader of today.
        health_check: the golden rule.
        labels: class names in output order, for people and charts.
        parameters: reserved: schema of run-time parameters.
        swap: ``hot`` (two copies in memory while one replaces the other) or ``cold`` (the old one is stopped first).
        safe_mode: ``keep_with_alarm`` | ``constant`` | ``stop`` (reserved).
        requires: reserved: what must run before, such as ``agent>=1.4``.
        lineage: provenance.
        approvals: reserved: signed approvals.
        licence: SPDX identifier.
        critical: names a reader must understand or refuse the bundle.
        format_version: 1.
    """

    team: str
    model: str
    version: str
    release_counter: int
    channel: Channel
    created_ms: int
    files: list[BundleFile]
    variants: list[Variant]
    format_version: int = msgspec.field(default_factory=lambda: FORMAT_VERSION)
    kind: Literal["model", "parameters", "agent"] = "model"
    health_check: HealthCheck = HealthCheck()
    labels: list[str] = []
    parameters: dict[str, Any] = {}
    swap: Literal["hot", "cold"] = "hot"
    safe_mode: Literal["keep_with_alarm", "constant", "stop"] = "keep_with_alarm"
    requires: list[str] = []
    lineage: Lineage = Lineage()
    approvals: list[dict[str, Any]] = []
    licence: str = ""
    critical: list[str] = []

    @property
    def model_key(self) -> str:
        """``team/model``, the key of desired and reported models."""
        return f"{self.team}/{self.model}"

    @property
    def target_path(self) -> str:
        """The TUF target path of this bundle."""
        return f"{self.team}/{self.model}/{self.version}/bundle.json"

    def file_with_role(self, role: Role) -> BundleFile | None:
        """Return the first file with ``role``, or None."""
        return next((f for f in self.files if f.role == role), None)

    def file_at(self, path: str) -> BundleFile:
        """Return the file named ``path``.

        Raises:
            BundleRefused: no such file (``BUNDLE_FILE_MISSING``).
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        _refuse("BUNDLE_FILE_MISSING", f"The manifest names no file {path!r}.", "Build the bundle again.")


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of ``bundle.json``; their sha256 is the bundle digest.

    Raises:
        BundleRefused: the manifest breaks a rule of ``parse_manifest``.
    """
    data = canonical_json(manifest)
    parse_manifest(data)
    return data


def parse_manifest(data: bytes) -> Manifest:
    """Parse and check ``bundle.json``.

    Raises:
        BundleRefused: with ``BUNDLE_TOO_LARGE``, ``BUNDLE_JSON``, ``BUNDLE_FORMAT_VERSION``, ``BUNDLE_FIELD``,
            ``BUNDLE_PATH``, ``BUNDLE_VARIANT`` or ``BUNDLE_CRITICAL``.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        _refuse(
            "BUNDLE_TOO_LARGE",
            f"The manifest has {len(data)} bytes; {MAX_MANIFEST_BYTES} is the limit.",
            "Move large content into files of the bundle.",
        )
    raw = _strict_json(data)
    if not isinstance(raw, dict):
        _refuse("BUNDLE_JSON", "The manifest is not a JSON object.", "Build the bundle again.")
    version = raw.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        _refuse(
            "BUNDLE_FORMAT_VERSION",
            f"The manifest has format version {version!r}; this program reads {FORMAT_VERSION}.",
            "Update this program, or build the bundle with a matching release of the tools.",
        )
    try:
        manifest = msgspec.convert(raw, Manifest)
    except msgspec.ValidationError as error:
        _refuse("BUNDLE_FIELD", f"The manifest is not well formed: {error}.", "Build the bundle again.")
    _check(manifest)
    return manifest


def split_target(path: str) -> tuple[str, str, str]:
    """Split a target path into (team, model, version); never normalises.

    Raises:
        BundleRefused: ``BUNDLE_PATH`` where it is not ``<team>/<model>/<version>/bundle.json`` in plain names.
    """
    parts = path.split("/")
    if len(parts) != 4 or parts[3] != "bundle.json" or not all(_NAME.match(p) for p in parts[:3]):
        _refuse("BUNDLE_PATH", f"{path!r} is not a bundle's target path.", "Use team/model/version/bundle.json.")
    return parts[0], parts[1], parts[2]


def check_path(path: str) -> None:
    """Check that a path inside a bundle is relative, plain and bounded.

    Raises:
        BundleRefused: ``BUNDLE_PATH``.
    """
    parts = path.split("/")
    if len(path) > 240 or len(parts) > 8 or not all(_PATH_PART.match(part) for part in parts):
        _refuse(
            "BUNDLE_PATH",
            f"{path!r} is not allowed as a path inside a bundle.",
            "Use short relative paths of letters, digits, '.', '_', '+', '-', and no '..'.",
        )


def _check(manifest: Manifest) -> None:
    for what, name in (("team", manifest.team), ("model", manifest.model), ("version", manifest.version)):
        if not _NAME.match(name):
            _refuse(
                "BUNDLE_FIELD",
                f"{name!r} is not allowed as a {what}.",
                "Use lower-case letters, digits, '.', '_' and '-', at most 64, starting with a letter or digit.",
            )
    if not 1 <= manifest.release_counter <= MAX_INT:
        _refuse("BUNDLE_FIELD", "release_counter must be a positive integer.", "Raise it with every release.")
    if manifest.kind != "model":
        _refuse(
            "BUNDLE_KIND",
            f"Bundles of kind {manifest.kind!r} are reserved: nothing installs them yet.",
            "Update the agent itself with the device's package manager."
            if manifest.kind == "agent"
            else "Build a bundle of kind 'model'.",
        )
    unknown = [entry for entry in manifest.critical if entry not in UNDERSTOOD_CRITICAL]
    if unknown:
        _refuse(
            "BUNDLE_CRITICAL",
            f"The bundle needs {', '.join(map(repr, unknown))}, which this program does not know.",
            "Update this program before installing the bundle.",
        )
    _check_files(manifest)
    _check_variants(manifest)


def _check_files(manifest: Manifest) -> None:
    if not manifest.files or len(manifest.files) > MAX_FILES:
        _refuse("BUNDLE_FIELD", f"A bundle has 1 to {MAX_FILES} files.", "Build the bundle again.")
    seen: set[str] = {"bundle.json"}
    for entry in manifest.files:
        check_path(entry.path)
        folded = entry.path.casefold()
        if folded in seen:
            _refuse("BUNDLE_PATH", f"The path {entry.path!r} appears twice.", "Give every file its own path.")
        seen.add(folded)
        if not is_sha256(entry.sha256) or not 0 <= entry.length <= MAX_FILE_BYTES:
            _refuse("BUNDLE_FIELD", f"Digest or length of {entry.path!r} is not valid.", "Build the bundle again.")
    for path in seen:
        if any(path[:at] in seen for at, letter in enumerate(path) if letter == "/"):
            _refuse("BUNDLE_PATH", f"{path!r} lies below the path of a file.", "Give every file its own path.")


def _check_variants(manifest: Manifest) -> None:
    if not manifest.variants:
        _refuse("BUNDLE_VARIANT", "A model bundle has at least one variant.", "Name a model file and its runtime.")
    ids = [variant.id for variant in manifest.variants]
    if len(set(ids)) != len(ids):
        _refuse("BUNDLE_VARIANT", "Variant ids must differ from one another.", "Rename one of them.")
    paths = {entry.path: entry.role for entry in manifest.files}
    for variant in manifest.variants:
        if paths.get(variant.file) != "model":
            _refuse(
                "BUNDLE_VARIANT",
                f"Variant {variant.id!r} names {variant.file!r}, which is no file with role model.",
                "Add the file with role model.",
            )


def _strict_json(data: bytes) -> Any:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError("a key appears twice")
        return dict(pairs)

    def no_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is no JSON number")

    def bounded_int(text: str) -> int:
        if len(text) > 17:
            raise ValueError("an integer is out of bounds")
        return int(text)

    def finite_float(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError("a number is out of bounds")
        return value

    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=no_duplicates,
            parse_constant=no_constant,
            parse_int=bounded_int,
            parse_float=finite_float,
        )
        _check_values(value, MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        raise BundleRefused(
            f"The manifest is not valid JSON: {error}.", code="BUNDLE_JSON", remedy="Build the bundle again."
        ) from error
    return value


def _check_values(value: Any, left: int) -> None:
    if left < 0:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str) and not value.isascii():
        value.encode()  # half of a surrogate pair can be escaped in JSON, and written nowhere afterwards
    children = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _check_values(child, left - 1)


def _refuse(code: str, sentence: str, remedy: str) -> NoReturn:
    raise BundleRefused(sentence, code=code, remedy=remedy)
