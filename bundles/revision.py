"""The git revision of a folder, for a bundle that says which code made it. Asks the ``git`` program, or refuses."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bundles.errors import BundleRefused

GIT_S = 30.0
_CREDENTIALS = re.compile(r"^([a-z][a-z0-9+.-]*://)[^/@]*@", re.IGNORECASE)


@dataclass(frozen=True)
class Revision:
    """What is checked out.

    Attributes:
        code_revision: the commit, followed by ``-dirty`` where tracked files differ from it.
        repository: address of the remote ``origin`` without names and passwords, empty where there is none.
    """

    code_revision: str
    repository: str


def read_revision(folder: Path) -> Revision:
    """Return the revision of the repository that ``folder`` lies in.

    Raises:
        BundleRefused: ``BUNDLE_REVISION``: no git program, no repository, or no commit yet.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    is_dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    try:
        remote = _git(folder, "config", "--get", "remote.origin.url")
    except BundleRefused:
        remote = ""  # a repository without a remote is a repository
    return Revision(commit + ("-dirty" if is_dirty else ""), _CREDENTIALS.sub(r"\1", remote))


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=GIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or "").strip().partition("\n")[0] or str(error)
        raise BundleRefused(
            f"The git revision of {folder} cannot be read: {said}.",
            code="BUNDLE_REVISION",
            remedy='Write the revision into [lineage] instead of code_revision = "git", or build in a git repository.',
        ) from error
    return done.stdout.strip()
