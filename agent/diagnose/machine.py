"""How the machine stands: disk, memory, load, temperatures, and this agent's own processes. Reads /proc and /sys only.

A file that is not there, or may not be read, is left out: no two devices have the same.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PROC, SYS = Path("/proc"), Path("/sys")
PACKAGES = ("onnxruntime", "ai-edge-litert", "tflite-runtime", "numpy", "httpx", "paho-mqtt", "cryptography", "tuf")
_MEMORY = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree", "Committed_AS")


def versions() -> dict[str, str]:
    """Return versions of what runs here."""
    found = {"python": sys.version.split()[0], "system": platform.platform(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def resources(folder: Path, proc: Path = PROC, sys_folder: Path = SYS) -> dict[str, Any]:
    """Return disk (bytes), memory (KiB), load, uptime (s), pressure and temperatures (degrees Celsius).

    Args:
        folder: whose disk.
        proc: procfs.
        sys_folder: sysfs.
    """
    found: dict[str, Any] = {}
    try:
        disk = os.statvfs(folder)
        found["disk"] = {
            "bytes": disk.f_blocks * disk.f_frsize,
            "free_bytes": disk.f_bavail * disk.f_frsize,
            "files": disk.f_files,
            "free_files": disk.f_favail,
            "is_read_only": bool(disk.f_flag & os.ST_RDONLY),
        }
    except OSError as error:
        found["disk"] = {"error": str(error.strerror)}
    meminfo = dict(line.partition(":")[::2] for line in _lines(proc / "meminfo"))
    found["memory_kib"] = {
        name: int(meminfo[name].split()[0]) for name in _MEMORY if meminfo.get(name, "").split()[:1] != []
    }
    found["load"] = " ".join(_lines(proc / "loadavg"))
    found["uptime_s"] = (_lines(proc / "uptime") or ["0"])[0].split()[0]
    found["pressure"] = {name: _lines(proc / "pressure" / name) for name in ("cpu", "memory", "io")}
    found["temperatures"] = temperatures(sys_folder)
    return found


def temperatures(sys_folder: Path = SYS) -> dict[str, float]:
    """Return degrees Celsius of the thermal zones; of the hardware monitors where there are none."""
    found: dict[str, float] = {}
    for zone in sorted((sys_folder / "class" / "thermal").glob("thermal_zone*")):
        _take(found, zone.name, zone / "type", zone / "temp")
    if not found:
        for sensor in sorted((sys_folder / "class" / "hwmon").glob("hwmon*/temp*_input")):
            number = sensor.name.removesuffix("_input")
            _take(found, f"{sensor.parent.name} {number}", sensor.parent / "name", sensor)
    return found


def _take(found: dict[str, float], name: str, kind: Path, value: Path) -> None:
    kinds, values = _lines(kind), _lines(value)
    if values and values[0].lstrip("-").isdecimal():
        found[f"{name} {kinds[0] if kinds else ''}".strip()] = int(values[0]) / 1000


def processes(pid: int, proc: Path = PROC) -> list[dict[str, Any]]:
    """Return the process ``pid`` and those it started, and nobody else's; their arguments are left out."""
    parents: dict[int, int] = {}
    for entry in proc.iterdir():
        if entry.name.isdecimal() and (status := _status(entry)):
            parents[int(entry.name)] = int(status.get("PPid", "0"))
    family, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in family} - family
        family |= more
        grown = bool(more)
    found = []
    for one in sorted(family):
        status = _status(proc / str(one))
        if status:
            found.append(
                {
                    "pid": one,
                    "parent": int(status.get("PPid", "0")),
                    "name": status.get("Name", ""),
                    "state": status.get("State", ""),
                    "rss": status.get("VmRSS", ""),
                    "peak_rss": status.get("VmHWM", ""),
                    "threads": status.get("Threads", ""),
                }
            )
    return found


def _status(entry: Path) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in _lines(entry / "status"))}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
