"""``bundle.json``: whatever is accepted must mean the same to every reader."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from bundles.archive import open_archive
from bundles.manifest import encode_manifest, parse_manifest, split_target
from fuzzing.mutation import mutate_json
from fuzzing.target import RELEASED, Target, require, unless_refused

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*", re.ASCII)
"""Spelled here again on purpose: a reader's own rule cannot judge itself."""


def samples() -> dict[str, bytes]:
    """Return the released manifests, and one with every field set."""
    found = {path.name: open_archive(path).manifest_bytes for path in sorted(RELEASED.glob("*/*.wgb"))}
    full = {
        **json.loads(next(iter(found.values()))),
        "parameters": {"threshold": {"type": "number", "minimum": 0}},
        "swap": "cold",
        "safe_mode": "constant",
        "requires": ["agent>=1.4"],
        "lineage": {"training_run": "r-1", "dataset_sha256": "0" * 64, "code_revision": "c", "parent_sha256": "1" * 64},
        "approvals": [{"by": "grace"}],
        "licence": "Apache-2.0",
        "labels": ["a", "b"],
        "critical": [],
        "x-next-year": {"unknown": [1, 2.5, None]},
    }
    full["variants"][0] |= {"hardware": ["cam-a"], "min_driver": "1.2", "latency_p95_ms": 2.5}
    return {**found, "every-field": json.dumps(full).encode()}


def try_one(data: bytes) -> None:
    """Parse; what is accepted is checked by rules written a second time."""
    manifest = unless_refused(lambda: parse_manifest(data))
    if manifest is None:
        return
    json.loads(data, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    require(parse_manifest(encode_manifest(manifest)) == manifest, "a manifest changes when it is written and read")
    require(split_target(manifest.target_path) == (manifest.team, manifest.model, manifest.version), "its target path")
    require(not manifest.critical, "an unknown critical entry")
    check_files([entry.path for entry in manifest.files])
    require(all(manifest.file_at(variant.file).role == "model" for variant in manifest.variants), "a variant's file")


def check_files(paths: list[str]) -> None:
    """Check that these paths can lie side by side below one folder, on any file system, and nowhere else."""
    folded = [path.casefold() for path in paths]
    require(len(set(folded)) == len(folded), "two paths that are one without case")
    for path in folded:
        require(_PLAIN.fullmatch(path) is not None and ".." not in path.split("/"), f"the path {path!r}")
        require(not any(other.startswith(f"{path}/") for other in folded), f"{path!r} is a file and a folder")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    require(len(dict(pairs)) == len(pairs), "a key that stands twice")
    return dict(pairs)


def _no_constant(text: str) -> None:
    require(False, f"the number {text}")


def _finite(text: str) -> float:
    require(math.isfinite(float(text)), f"the number {text}")
    return float(text)


TARGET = Target("manifest", ("bundles.manifest",), samples, try_one, mutate_json)
