"""Which inference runtimes really work on this device, found out once for each change of software or processor.

Importing a runtime proves nothing (tflite-runtime beside numpy 2 imports and then fails), and running one may kill the
process. So each is examined in a throwaway child, by a function the runner hands in, and the answer is kept in the
agent's state directory under a fingerprint of versions and processor. Leaves choosing a variant to the updater.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bundles import __version__
from bundles.digest import canonical_json, sha256_hex

FORMAT_VERSION = 1
CACHE_NAME = "probe.json"
_CPU_FIELDS = ("model name", "flags", "Features", "CPU implementer", "CPU part", "Hardware", "Model")
"""Lines of ``/proc/cpuinfo`` that tell one processor from another, on x86 and ARM."""


class AcceleratorReport(msgspec.Struct, frozen=True):
    """Something a backend can run on; ``reason`` says why it is not usable."""

    id: str
    kind: str
    usable: bool
    reason: str = ""


class BackendReport(msgspec.Struct, frozen=True):
    """What was found out about one backend.

    Attributes:
        backend: its name, such as ``onnxruntime``.
        usable: a tiny model was constructed and run on at least one accelerator.
        version: of the installed runtime; empty = not installed.
        reason: why it is not usable; empty when it is.
        accelerators: what it can run on.
    """

    backend: str
    usable: bool
    version: str = ""
    reason: str = ""
    accelerators: list[AcceleratorReport] = []


class _Cache(msgspec.Struct, frozen=True):
    fingerprint: str
    reports: dict[str, BackendReport]
    format_version: int = FORMAT_VERSION


def probe(
    backends: Mapping[str, str],
    examine: Callable[[str], Mapping[str, Any]],
    state_dir: Path,
    cpu: Callable[[], str] | None = None,
) -> tuple[BackendReport, ...]:
    """Report on each backend, from the cache where nothing has changed since.

    Args:
        backends: backend name -> distribution that carries its runtime, such as ``onnxruntime``.
        examine: runs the backend's tiny model in a child and answers ``usable``, ``reason``, ``accelerators`` and
            ``transient`` (an answer that is not worth keeping).
        state_dir: where the answer is kept.
        cpu: describes the processor; by default ``describe_cpu``.

    Returns:
        One report a backend, in the order asked.
    """
    versions = {name: installed_version(distribution) for name, distribution in backends.items()}
    fingerprint = _fingerprint(versions, (cpu or describe_cpu)())
    known = _read(state_dir / CACHE_NAME, fingerprint)
    fresh: dict[str, BackendReport] = {}
    reports = []
    for name in backends:
        report = known.get(name)
        if report is None:
            found = examine(name)
            report = msgspec.convert({**found, "backend": name, "version": versions[name]}, BackendReport)
            if not found.get("transient", False):
                fresh[name] = report
        reports.append(report)
    if fresh:
        _write(state_dir / CACHE_NAME, _Cache(fingerprint, {**known, **fresh}))
    return tuple(reports)


def installed_version(distribution: str) -> str:
    """Return the installed version of a distribution, or an empty string."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def describe_cpu() -> str:
    """Return a text that changes with the processor: its model and the instructions it offers."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = {line for line in lines if line.split(":", 1)[0].strip() in _CPU_FIELDS}
    return "\n".join(sorted(found))


def _fingerprint(versions: Mapping[str, str], cpu: str) -> str:
    facts = {
        "agent": __version__,
        "python": sys.version,
        "machine": platform.machine(),
        "numpy": installed_version("numpy"),
        "runtimes": dict(versions),
        "cpu": cpu,
    }
    return sha256_hex(canonical_json(facts))


def _read(path: Path, fingerprint: str) -> dict[str, BackendReport]:
    try:
        cache = msgspec.json.decode(path.read_bytes(), type=_Cache)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}  # none yet, or damaged: find out again
    is_current = cache.fingerprint == fingerprint and cache.format_version == FORMAT_VERSION
    return cache.reports if is_current else {}


def _write(path: Path, cache: _Cache) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(cache), indent=2))
    new.replace(path)
