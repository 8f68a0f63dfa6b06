"""Everything a repository ever listed: a path and a release counter stand for one content for ever, listed or not.

A listing may be withdrawn; what it used up stays used up. Devices hold release counters as floors, so a counter that
comes back with other content would be another bundle under a number they have already judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.metadata import Targets

from bundles.errors import TrustRefused
from bundles.trust.publishing.state import State
from bundles.trust.roles import TEAM_PREFIX, split_file

_NEW = "Give new content a new version and a higher release counter, and sign again."


@dataclass(frozen=True)
class History:
    """Digests of all bundles ever listed.

    Attributes:
        paths: by target path.
        counters: by (``team/model``, release counter).
    """

    paths: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[tuple[str, int], str] = field(default_factory=dict)

    def check(self, path: str, model: str, counter: int, digest: str) -> None:
        """Check that neither the path nor the counter stood for other content before.

        Raises:
            TrustRefused: ``TRUST_ROLLBACK_TEAM``.
        """
        if self.paths.get(path, digest) != digest:
            raise TrustRefused(
                f"{path} was published with other content before.", code="TRUST_ROLLBACK_TEAM", remedy=_NEW
            )
        if self.counters.get((model, counter), digest) != digest:
            raise TrustRefused(
                f"Release counter {counter} of {model} stood for another bundle before.",
                code="TRUST_ROLLBACK_TEAM",
                remedy=_NEW,
                details={"path": path, "counter": counter},
            )

    def with_listing(self, role: Targets) -> History:
        """Return the history after ``role`` (a checked team role) was published as well."""
        return self._with(
            (path, target.hashes.get("sha256", ""), target.unrecognized_fields.get("custom"))
            for path, target in role.targets.items()
        )

    def _with(self, entries: Any) -> History:
        paths, counters = dict(self.paths), dict(self.counters)
        for path, digest, custom in entries:
            paths.setdefault(path, digest)
            if isinstance(custom, dict):
                counters.setdefault((str(custom.get("model")), custom.get("release_counter", -1)), digest)
        return History(paths, counters)


def read_history(folder: Path, state: State) -> History:
    """Read the history of the repository in ``folder`` from every version of every team's role up to ``state``.

    Versions above the state's are left over from a publication that broke off; nobody was ever told of them. Files
    that cannot be read are passed over: whether the repository is whole is judged where it is opened.

    Raises:
        OSError: the folder cannot be read.
    """
    history = History()
    for path in sorted(folder.glob(f"*.{TEAM_PREFIX}*.json"), key=lambda path: split_file(path.name)[1]):
        role, version = split_file(path.name)
        if version > state.version(role):
            continue
        try:
            listed = msgspec.json.decode(path.read_bytes(), type=_File).signed.targets
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        history = history._with((path, entry.hashes.get("sha256", ""), entry.custom) for path, entry in listed.items())
    return history


class _Entry(msgspec.Struct):
    hashes: dict[str, str]
    custom: Any = None


class _Signed(msgspec.Struct):
    targets: dict[str, _Entry]


class _File(msgspec.Struct):
    signed: _Signed
