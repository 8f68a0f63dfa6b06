"""A manifest's lineage for people, and for other tools: an in-toto Statement with SLSA's provenance predicate.

Field names are those of in-toto's Statement v1 and ResourceDescriptor v1 (in-toto/attestation, ``spec/v1``) and of
SLSA's provenance v1 (slsa.dev/spec/v1.0/provenance). The statement is exported unsigned: it repeats what the team
signed with the manifest, names that manifest by digest, and claims no SLSA level.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from bundles.digest import canonical_json, is_sha256, sha256_hex
from bundles.lineage import Lineage
from bundles.manifest import Manifest, parse_manifest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:wavegate:training:v1"
"""External parameters: ``bundle`` (team/model), ``version``, and the training's own parameters."""
UNSTATED_BUILDER = "urn:wavegate:builder:unstated"
"""SLSA requires a builder; a publisher who names none has vouched for none."""
_COMMIT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_DIRTY = "-dirty"


def lineage_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Return what the manifest says of the model's origin, as (label, value), each label once; empty = nothing."""
    lineage = manifest.lineage
    rows = [
        ("Training run", " ".join(filter(None, [lineage.training_run, lineage.training_run_uri]))),
        ("Training began", _time(lineage.started_ms)),
        ("Training ended", _time(lineage.finished_ms)),
        ("Builder", lineage.builder),
        ("Code", " ".join(filter(None, [lineage.repository, lineage.code_revision]))),
        ("Dataset", f"sha256 {lineage.dataset_sha256}" if lineage.dataset_sha256 else ""),
        *(
            (f"Material {n}", " ".join(filter(None, [m.name, f"sha256 {m.sha256}" if m.sha256 else "", m.uri])))
            for n, m in enumerate(lineage.materials, 1)
        ),
        ("Parent bundle", ", ".join(lineage.all_parents)),
        ("Parameters", ", ".join(f"{name} = {value}" for name, value in sorted(lineage.parameters.items()))),
    ]
    return [(label, value) for label, value in rows if value]


def statement(manifest_bytes: bytes) -> bytes:
    """Return the in-toto Statement of a bundle as canonical JSON.

    Args:
        manifest_bytes: ``bundle.json``, exactly as signed.

    Raises:
        BundleRefused: the manifest breaks the format.
    """
    manifest = parse_manifest(manifest_bytes)
    lineage = manifest.lineage
    models = {entry.path: entry.sha256 for entry in manifest.files if entry.role == "model"}
    subjects = {manifest.target_path: sha256_hex(manifest_bytes), **models}
    metadata = {
        "invocationId": lineage.training_run_uri or lineage.training_run,
        "startedOn": _time(lineage.started_ms),
        "finishedOn": _time(lineage.finished_ms),
    }
    run: dict[str, Any] = {"builder": {"id": lineage.builder or UNSTATED_BUILDER}}
    if said := {name: value for name, value in metadata.items() if value}:
        run["metadata"] = said
    definition: dict[str, Any] = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "bundle": manifest.model_key,
            "version": manifest.version,
            "parameters": lineage.parameters,
        },
    }
    if dependencies := _dependencies(lineage):
        definition["resolvedDependencies"] = dependencies
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects.items()],
            "predicateType": PREDICATE_TYPE,
            "predicate": {"buildDefinition": definition, "runDetails": run},
        }
    )


def _dependencies(lineage: Lineage) -> list[dict[str, Any]]:
    """Return ResourceDescriptors; each names a digest or a URI, as the specification demands."""
    found = [_code(lineage)] if lineage.code_revision else []
    if lineage.dataset_sha256:
        found.append(_resource("dataset", lineage.dataset_sha256))
    found += [_resource(material.name, material.sha256, material.uri) for material in lineage.materials]
    found += [_resource("parent bundle", digest) for digest in lineage.all_parents]
    return [resource for resource in found if "uri" in resource or "digest" in resource]


def _code(lineage: Lineage) -> dict[str, Any]:
    revision = lineage.code_revision
    commit = revision.removesuffix(_DIRTY)
    resource: dict[str, Any] = {"name": "training code"}
    if lineage.repository:
        scheme = "" if lineage.repository.startswith("git+") else "git+"
        resource["uri"] = f"{scheme}{lineage.repository}@{commit}"
    if _COMMIT.match(commit):
        resource["digest"] = {"gitCommit": commit}
    elif not lineage.repository:
        resource["uri"] = "urn:wavegate:revision:" + quote(revision, safe="")
    if commit != revision:
        resource["annotations"] = {"dirty": True}
    return resource


def _resource(name: str, sha256: str, uri: str = "") -> dict[str, Any]:
    resource: dict[str, Any] = {"name": name}
    if uri:
        resource["uri"] = uri
    if is_sha256(sha256):
        resource["digest"] = {"sha256": sha256}
    return resource


def _time(at_ms: int) -> str:
    """Return RFC 3339 with whole seconds, empty for "not said" or for no time at all."""
    try:
        return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_ms > 0 else ""
    except (OverflowError, ValueError, OSError):
        return ""  # a number beyond the year 9999, in a manifest from elsewhere
