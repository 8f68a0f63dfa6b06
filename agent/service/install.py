"""Puts the unit of ``unit`` in place, or takes it away. Doing either again changes nothing.

The agent's folder is never touched: identity, trust and models outlive the service. Nothing is started unless asked.
"""

from __future__ import annotations

import grp
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from agent.service import unit
from agent.service.unit import Device, Plan
from bundles.errors import AskPerson
from bundles.trust.durable import write_durably

SYSTEMCTL_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Change:
    """What was done with one file."""

    path: PurePosixPath
    what: Literal["written", "unchanged", "removed"]


def program_of(argument: str) -> tuple[str, ...]:
    """Return the words that start this agent again: the command that runs now, or the interpreter and its module."""
    found = Path(argument)
    if found.name == "wavegate-agent":
        path = shutil.which(argument) or argument
        return (str(Path(path).absolute()),)
    return (sys.executable, "-m", "agent.cli")


def device_of(name: str) -> Device:
    """Return a device with the group of its node, where it is there."""
    try:
        gid = Path(name).stat().st_gid
        return Device(name, grp.getgrgid(gid).gr_name if gid else "")
    except (OSError, KeyError):
        return Device(name)


def install(plan: Plan, root: Path) -> list[Change]:
    """Write every file of ``plan`` below ``root``; drop-ins of ours that it does not hold any more are removed.

    Raises:
        AskPerson: ``SERVICE_FILES``: they cannot all be written. What had been is taken back, or named.
        Refused: as ``unit.files``.
    """
    wanted = unit.files(plan)
    changes: list[Change] = []
    before: dict[PurePosixPath, bytes | None] = {}
    try:
        for path, text in wanted.items():
            before[path] = _content(_below(root, path))
            changes.append(Change(path, _write(_below(root, path), text)))
        for path in _ours(root):
            if path not in wanted:
                before[path] = _content(_below(root, path))
                _below(root, path).unlink()
                changes.append(Change(path, "removed"))
    except OSError as error:
        raise _refused(error, _take_back(root, before)) from error
    return changes


def uninstall(root: Path) -> list[Change]:
    """Remove what ``install`` wrote; the user and the agent's folder stay.

    Raises:
        AskPerson: ``SERVICE_FILES``.
    """
    changes = []
    try:
        for path in (*_ours(root), unit.SYSTEM_FOLDER / unit.UNIT, unit.SYSUSERS_FILE):
            target = _below(root, path)
            if target.exists():
                target.unlink()
                changes.append(Change(path, "removed"))
        folder = _below(root, unit.SYSTEM_FOLDER / f"{unit.UNIT}.d")
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise AskPerson(
            f"Not everything could be removed: {error}.",
            code="SERVICE_FILES",
            remedy="Run this as root; doing it again removes the rest.",
        ) from error
    return changes


def systemctl(*words: str) -> None:
    """Have systemd do something.

    Raises:
        AskPerson: ``SYSTEMD``: it is not there, or it refused.
    """
    _run(["systemctl", *words])


def make_user() -> None:
    """Have the service's user made, where it is not there yet.

    Raises:
        AskPerson: ``SYSTEMD``.
    """
    _run(["systemd-sysusers", str(unit.SYSUSERS_FILE)])


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SYSTEMCTL_TIMEOUT_S, check=False)
        problem = done.stderr.strip() if done.returncode else ""
        failed = done.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        problem, failed = str(error), True
    if failed:
        raise AskPerson(
            f"`{' '.join(command)}` failed: {problem.splitlines()[0] if problem else 'it said nothing'}.",
            code="SYSTEMD",
            remedy="The files are in place; do this step by hand, as root, on the device.",
        )


def _content(target: Path) -> bytes | None:
    return target.read_bytes() if target.is_file() else None


def _take_back(root: Path, before: Mapping[PurePosixPath, bytes | None]) -> list[PurePosixPath]:
    """Give files their earlier content again; returns those that could not be."""
    kept = []
    for path, content in before.items():
        target = _below(root, path)
        try:
            if _content(target) == content:
                continue
            if content is None:
                target.unlink()
            else:
                _write(target, content.decode())
        except OSError:
            kept.append(path)
    return kept


def _write(target: Path, text: str) -> Literal["written", "unchanged"]:
    if target.is_file() and target.read_bytes() == text.encode():
        return "unchanged"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_durably(target, text.encode())
    target.chmod(0o644)  # systemd warns of units that others cannot read
    return "written"


def _ours(root: Path) -> list[PurePosixPath]:
    """Return the drop-ins that an earlier call wrote; those of a person have other names."""
    folder = unit.SYSTEM_FOLDER / f"{unit.UNIT}.d"
    there = _below(root, folder)
    names = sorted(path.name for path in there.iterdir()) if there.is_dir() else []
    return [folder / name for name in names if unit.is_own_drop_in(name)]


def _below(root: Path, path: PurePosixPath) -> Path:
    return root / path.relative_to("/")


def _refused(error: OSError, kept: Sequence[PurePosixPath] = ()) -> AskPerson:
    left = f" Half-way done, see {', '.join(map(str, kept))}." if kept else " Nothing was changed."
    return AskPerson(
        f"The service's files cannot be written: {error}.{left}",
        code="SERVICE_FILES",
        remedy="Mend that, or run this as root; doing it again does the whole. --print shows the files.",
    )
