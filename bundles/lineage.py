"""Where a model comes from, as far as its publisher says: the lineage part of a manifest.

Every field may be left out, and what is not known to a reader is ignored, so that bundles of every age stay readable.
It is a statement of the publisher, signed with the manifest; nobody checks it against the world. Leaves wording and
exchange with other tools to ``provenance``, and how it is written in ``bundle.toml`` to ``project``.
"""

from __future__ import annotations

import msgspec

from bundles.digest import is_sha256
from bundles.errors import BundleRefused

Scalar = str | int | float | bool
MAX_MATERIALS = 128
MAX_PARAMETERS = 128
MAX_TEXT = 1024


class Material(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that went into the training, such as a dataset.

    Attributes:
        name: what its maker calls it.
        sha256: digest of its content, empty where it is not known.
        uri: where it lies.
    """

    name: str
    sha256: str = ""
    uri: str = ""


class Lineage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the model comes from.

    Attributes:
        training_run: id of the run that made it.
        dataset_sha256: digest of the dataset, where there is one and no name for it; see ``materials``.
        code_revision: of the training code; a git commit may end in ``-dirty``.
        parent_sha256: bundle digest of the model it was made from; see ``parents``.
        training_run_uri: where that run can be looked at.
        materials: datasets and whatever else went in.
        repository: address of the training code.
        builder: URI of what ran the training, such as a pipeline.
        parents: bundle digests, where there are several.
        started_ms: of the training, UTC epoch milliseconds; 0 = not said.
        finished_ms: likewise.
        parameters: of the training, by name.
    """

    training_run: str = ""
    dataset_sha256: str = ""
    code_revision: str = ""
    parent_sha256: str = ""
    training_run_uri: str = ""
    materials: list[Material] = []
    repository: str = ""
    builder: str = ""
    parents: list[str] = []
    started_ms: int = 0
    finished_ms: int = 0
    parameters: dict[str, Scalar] = {}

    @property
    def all_parents(self) -> list[str]:
        """Every parent's bundle digest, once each."""
        return list(dict.fromkeys(filter(None, [self.parent_sha256, *self.parents])))


def check_lineage(lineage: Lineage) -> None:
    """Check what a publisher is about to state. Readers are lenient: they show what is there.

    Raises:
        BundleRefused: ``BUNDLE_LINEAGE``.
    """
    for name in ("dataset_sha256", "parent_sha256"):
        _check_digest(name, getattr(lineage, name))
    for digest in lineage.parents:
        _check_digest("parents", digest or "empty")
    names = [material.name for material in lineage.materials]
    if len(set(names)) != len(names) or "" in names:
        raise _refused("materials", "every material needs a name of its own", "Name each material once.")
    for material in lineage.materials:
        _check_digest(f"materials, {material.name!r}", material.sha256)
        if not material.sha256 and not material.uri:
            raise _refused(
                "materials", f"{material.name!r} has neither file, sha256 nor uri", "Say what it is, or leave it out."
            )
    if len(names) > MAX_MATERIALS or len(lineage.parameters) > MAX_PARAMETERS:
        raise _refused(
            "materials or parameters", f"there are more than {MAX_MATERIALS}", "Name a file that lists them instead."
        )
    if lineage.started_ms and lineage.finished_ms and lineage.finished_ms < lineage.started_ms:
        raise _refused("finished", "it lies before started", "Look at the two times, and at their time zones.")
    texts = [getattr(lineage, name) for name in ("training_run", "training_run_uri", "repository", "builder")]
    if any(len(text) > MAX_TEXT for text in [*texts, *names, *map(str, lineage.parameters.values())]):
        raise _refused("a text", f"it is longer than {MAX_TEXT} characters", "Put it into a file of the bundle.")


def _check_digest(what: str, digest: str) -> None:
    if digest and not is_sha256(digest):
        raise _refused(what, f"{digest!r} is no sha256", "Write a digest as 64 lower-case hex digits.")


def _refused(what: str, why: str, remedy: str) -> BundleRefused:
    return BundleRefused(f"[lineage] {what}: {why}.", code="BUNDLE_LINEAGE", remedy=remedy)
