"""Gathers the support bundle of one agent: a fixed list of things, each read, shortened, redacted.

Nobody says which: there is no path and no command among the arguments of a diagnosis. Keys and certificates are not
read at all, neither are models, goldens, the spool, or anything that ever held an input of a model. What cannot be
had stands in the index with the reason, and is no reason to send nothing.
"""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config import Folders
from agent.diagnose import disk, machine, reading
from agent.diagnose.kernel import kernel_lines
from agent.diagnose.pack import pack
from agent.diagnose.shorten import newest_lines, shortened
from agent.redact import masked, redact, secrets_of
from bundles import __version__
from bundles.errors import WavegateError
from bundles.wire.commands import MAX_BUNDLE_BYTES

MAX_LOG_BYTES = 512 * 1024
MAX_FILE_BYTES = 4 * 1024 * 1024
"""Of a file of the agent's own that is read whole; a larger one is no status and no journal any more."""
MAX_JOURNALS = 32

Probe = Callable[[], Any]
"""Returns plain values about one part of the agent."""


@dataclass(frozen=True)
class Sources:
    """What is asked beside the folder.

    Attributes:
        folders: of the agent.
        device: id.
        probes: name of a JSON file in the bundle -> who makes its content, such as ``network`` or ``trust``.
        environ: of the process: what is secret in it must not be in the bundle, and nothing else of it is either.
        kernel: (lines, where from) of the kernel.
    """

    folders: Folders
    device: str
    probes: Mapping[str, Probe] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    kernel: Callable[[], tuple[list[str], str]] = kernel_lines


def collect(sources: Sources, at_ms: int, max_bytes: int = MAX_BUNDLE_BYTES) -> bytes:
    """Return the support bundle: a gzipped tar of at most ``max_bytes``, with ``README.txt`` and ``index.json``.

    Args:
        sources: what is asked.
        at_ms: UTC epoch ms, for the bundle's name and times.
        max_bytes: of the bundle.
    """
    gathering = _Gathering(secrets_of(sources.environ))
    folders = sources.folders
    config = gathering.settings(folders.config)
    gathering.value("about.json", lambda: {"agent": __version__, "versions": machine.versions()})
    gathering.value("config.json", lambda: config)
    gathering.value("status.json", lambda: json.loads(_read(folders.status)))
    for name, probe in sources.probes.items():
        gathering.value(f"{name}.json", probe)
    gathering.value("resources.json", lambda: machine.resources(folders.root))
    gathering.value("processes.json", lambda: machine.processes(os.getpid()))
    gathering.value("slots.json", lambda: disk.slots(folders.root))
    journals = _files(folders.root / "journal")
    for path in journals[:MAX_JOURNALS]:
        gathering.value(f"journal/{path.name}.json", lambda path=path: _journal(path))  # type: ignore[misc]
    if len(journals) > MAX_JOURNALS:
        gathering.left_out["journal/"] = [f"{len(journals) - MAX_JOURNALS} of {len(journals)} left out"]
    gathering.text("agent.log", lambda: _log(folders.log, gathering.left_out))
    gathering.text("disk.txt", lambda: "\n".join(disk.tree(folders.root)))
    gathering.text("kernel.txt", lambda: _kernel(sources.kernel))
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_ms // 1000))
    seen = gathering.seen(sources.device, at)

    def index(files: Mapping[str, bytes], cuts: Mapping[str, str]) -> dict[str, bytes]:
        return {
            reading.INDEX: _json(reading.index(seen, files, cuts)),
            reading.README: reading.readme(seen, files, cuts).encode(),
        }

    return pack(f"diagnosis-{sources.device}-{at_ms // 1000}", gathering.files, at_ms // 1000, max_bytes, index)


class _Gathering:
    """Takes in one thing after the other: shortened, redacted, whatever goes wrong.

    Args:
        secrets: values that must not be in the bundle whatever form they have.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        self._secrets = set(secrets)
        self._values: dict[str, Any] = {}
        self._texts: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self.left_out: dict[str, list[str]] = {}
        self.files: dict[str, bytes] = {}

    def settings(self, path: Path) -> dict[str, Any]:
        """Return the settings, and know from now on what is secret in them."""
        try:
            config = tomllib.loads(_read(path))
        except (OSError, ValueError, WavegateError) as error:
            return {"error": f"config.toml cannot be read: {type(error).__name__}"}
        self._secrets |= secrets_of(config)
        return config

    def value(self, name: str, make: Callable[[], Any]) -> None:
        """Take in what ``make`` returns, as JSON."""

        def whole() -> bytes:
            notes = self.left_out.setdefault(name, [])
            self._values[name] = shortened(masked(make(), self._secrets), notes)
            return _json(self._values[name])

        self._take(name, whole)

    def text(self, name: str, make: Callable[[], str]) -> None:
        """Take in what ``make`` returns."""

        def whole() -> bytes:
            self._texts[name] = redact(make(), self._secrets)
            return self._texts[name].encode()

        self._take(name, whole)

    def seen(self, device: str, at: str) -> reading.Gathered:
        """Return what was gathered."""
        return reading.Gathered(device, at, self._values, self._texts, self._problems, self.left_out)

    def _take(self, name: str, make: Callable[[], bytes]) -> None:
        try:
            self.files[name] = make()
        except WavegateError as error:
            self._problems[name] = redact(str(error), self._secrets)
        except Exception as error:  # a sick device is what this is for: whatever is broken there, the rest is told
            self._problems[name] = redact(f"{type(error).__name__}: {error}", self._secrets)


def _log(path: Path, left_out: dict[str, list[str]]) -> str:
    """Return the newest lines of the ring, the oldest file first."""
    parts = [part for part in (*(Path(f"{path}.{number}") for number in (2, 1)), path) if part.exists()]
    if not parts:
        return "The agent has written no log here.\n"
    notes = left_out.setdefault("agent.log", [])
    if unread := sum(max(0, part.stat().st_size - MAX_LOG_BYTES) for part in parts):
        notes.append(f"{unread} older bytes not read")
    return newest_lines("".join(_tail(part, MAX_LOG_BYTES) for part in parts), MAX_LOG_BYTES, notes)


def _kernel(kernel: Callable[[], tuple[list[str], str]]) -> str:
    lines, source = kernel()
    return "\n".join([f"# {source}; {len(lines)} lines tell of memory, heat or storage", *lines, ""])


def _journal(path: Path) -> Any:
    """Return a journal: its entry as it lies there, below the digest that ought to be its."""
    digest, _, entry = _read(path).partition("\n")
    return {"digest": digest, "entry": json.loads(entry)}


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.is_symlink()]


def _read(path: Path) -> str:
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise ValueError(f"{path.name} has {size} bytes, which is no size for it")
    return path.read_text("utf-8", "replace")


def _tail(path: Path, most: int) -> str:
    """Return the last bytes of a file, from the beginning of a line on."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most))
        data = file.read(most)
    if size > most:
        data = data.partition(b"\n")[2] or data
    return data.decode("utf-8", "replace")


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str).encode()
