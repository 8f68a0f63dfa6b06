"""Where the runner meets what it does not do itself: small protocols, with real and virtual implementations.

The real ones are built in ``wiring``; ``agent.virtual`` builds the same runner on shared ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from agent.core.health import HealthNumbers
from agent.core.state import Release
from agent.https import DesiredAnswer
from agent.inference.trial import TrialResult
from bundles.contract import Contract, parse_contract
from bundles.errors import BundleRefused
from bundles.manifest import Manifest, Role, Variant
from bundles.sketch.form import Window
from bundles.wire.messages import Ack, UpEnvelope


class ServerDoor(Protocol):
    """What is asked of the server; ``agent.https.DeviceDoor`` is one."""

    def desired(self, etag: str = "") -> DesiredAnswer | None:
        """Ask for the desired document."""
        ...

    def reports(self, batch: list[UpEnvelope]) -> Ack:
        """Hand over reports."""
        ...

    def commands(self) -> list[bytes]:
        """Ask for the commands that wait, each as its own bytes."""
        ...


@dataclass(frozen=True)
class StagedBundle:
    """One verified bundle on disk, with the variant this device runs.

    Attributes:
        release: how the updater names it.
        slot: folder with the bundle's files at their paths.
        manifest: its manifest.
        variant: the chosen variant.
    """

    release: Release
    slot: Path
    manifest: Manifest
    variant: Variant

    @cached_property
    def contract(self) -> Contract:
        """The bundle's contract.

        Raises:
            BundleRefused: there is none (``CONTRACT_MISSING``), or it cannot be read.
        """
        return parse_contract(self.path_of("contract").read_bytes())

    @property
    def model_path(self) -> Path:
        """The variant's model file."""
        return self.slot / self.variant.file

    def path_of(self, role: Role) -> Path:
        """Return the file with ``role``.

        Raises:
            BundleRefused: there is none.
        """
        entry = self.manifest.file_with_role(role)
        if entry is None:
            raise BundleRefused(
                f"The bundle holds no {role} file.",
                code=f"{role.upper()}_MISSING",
                remedy="Build the bundle again with a contract and goldens.",
            )
        return self.slot / entry.path

    def baseline(self) -> bytes | None:
        """Return the bytes of the baseline, None where the bundle has none."""
        entry = self.manifest.file_with_role("baseline")
        return (self.slot / entry.path).read_bytes() if entry else None


@dataclass(frozen=True)
class Running:
    """What answers for a model now.

    Attributes:
        sha256: bundle digest.
        version: its version.
        variant: id of the variant.
        runtime: runtime and version, such as ``onnxruntime 1.32.0``.
        accelerator: where it runs, read back from the runtime.
        is_healthy: the daemon's own judgement.
        requests: answered since it was loaded.
    """

    sha256: str
    version: str
    variant: str
    runtime: str
    accelerator: str
    is_healthy: bool
    requests: int = 0


class Models(Protocol):
    """The models of one device: trying, activating, judging, watching. May wait; never called on the line."""

    def runtimes(self) -> list[str]:
        """Return usable runtimes in order of preference, each found by running a model."""
        ...

    def try_out(self, bundle: StagedBundle) -> TrialResult:
        """Load the bundle's model and run its goldens where a crash does no harm."""
        ...

    def activate(self, bundle: StagedBundle) -> None:
        """Make the bundle answer for its model; when this raises, the one before still does.

        Raises:
            WavegateError: it cannot be loaded.
        """
        ...

    def deactivate(self, model: str) -> None:
        """Let nothing answer for ``model``."""
        ...

    def withhold(self, model: str, mode: str) -> None:
        """Refuse what is asked of ``model``, with a code of its own, until something is activated; see ``SafeMode``."""
        ...

    def numbers(self, model: str) -> tuple[str, HealthNumbers] | None:
        """Return the answering bundle and its counters since its activation, None where nothing answers."""
        ...

    def running(self, model: str) -> Running | None:
        """Say what answers for ``model``. Quick."""
        ...

    def cut(self, now_ms: int) -> list[Window]:
        """End the windows of every model, those just replaced included, and return them. Quick."""
        ...

    def close(self) -> None:
        """End everything. Being told twice is normal."""
        ...
