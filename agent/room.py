"""What room this device has left, for its heartbeats: an operator sees before a rollout who cannot hold two releases.

Leaves judging an update's needs to the store, which asks the disk again at that moment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
_AVAILABLE = b"MemAvailable:"


@dataclass(frozen=True)
class Room:
    """What is left; None = this device cannot tell.

    Attributes:
        disk_free_bytes: what the agent may still write.
        disk_reserve_bytes: of that, what stays free for journals, the spool and the rest of the device.
        memory_available_bytes: what a new process can have without swapping.
    """

    disk_free_bytes: int | None = None
    disk_reserve_bytes: int | None = None
    memory_available_bytes: int | None = None


def with_memory(disk: Room) -> Room:
    """Return ``disk`` with the memory that is available now."""
    return replace(disk, memory_available_bytes=memory_available_bytes())


def memory_available_bytes(meminfo: Path = MEMINFO) -> int | None:
    """Return the kernel's estimate of the memory a new process can have; None where it gives none.

    Args:
        meminfo: in the form of ``proc_meminfo(5)``.
    """
    try:
        lines = meminfo.read_bytes().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(_AVAILABLE)), None)
    except (OSError, ValueError, IndexError):
        return None
