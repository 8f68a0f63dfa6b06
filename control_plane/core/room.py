"""Which devices cannot hold two releases at once: the one they run and the one they are to get. Pure.

An update needs both, so that there is always one to go back to: on disk until the old one is collected, in memory
while the new one is warmed, unless the bundle says ``swap: cold``. What a device has left it says in its heartbeats; a
device that never said so is unknown, which is never taken for enough. What this finds keeps nobody out of a rollout:
the device judges by what it has at that moment, and puts the update off with a reason where it does not suffice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Resource = Literal["disk", "memory"]
NAMED_DEVICES = 5
"""As many ids as a note names; the rest is counted."""


@dataclass(frozen=True)
class Room:
    """What an update needs on one device, and what the device has.

    Attributes:
        disk_needed_bytes: files of the new release that the running one does not share.
        disk_left_bytes: free above the device's own reserve, may be negative; None = it never said.
        memory_needed_bytes: the least the new model takes: the length of its file.
        memory_left_bytes: available without swapping; None = it never said.
    """

    disk_needed_bytes: int = 0
    disk_left_bytes: int | None = None
    memory_needed_bytes: int = 0
    memory_left_bytes: int | None = None


NOTHING_SAID = Room()


@dataclass(frozen=True)
class Shortage:
    """One device that has not enough of something.

    Attributes:
        device: id.
        resource: of what.
        needed_bytes: what the update needs.
        left_bytes: what there is; may be negative where the reserve is broken into.
        sentence: both, and what will happen.
    """

    device: str
    resource: Resource
    needed_bytes: int
    left_bytes: int
    sentence: str


def shortages(device: str, room: Room, *, runs_something: bool, is_swap_cold: bool) -> tuple[Shortage, ...]:
    """Return what one device lacks to hold the new release beside the one it runs; nothing where it never said.

    Args:
        device: id.
        room: what it needs and has.
        runs_something: whether there is a release beside which the new one must fit.
        is_swap_cold: whether the bundle lets the old model be stopped before the new one is loaded.
    """
    found = []
    beside = " beside the one it runs" if runs_something else ""
    if room.disk_left_bytes is not None and room.disk_needed_bytes > room.disk_left_bytes:
        sentence = (
            f"{device} cannot store this release{beside}: {_mib(room.disk_needed_bytes)} are needed and "
            f"{_mib(max(0, room.disk_left_bytes))} are free above its reserve; it will give up what it keeps to roll "
            "back to, or put the update off (disk)."
        )
        found.append(Shortage(device, "disk", room.disk_needed_bytes, room.disk_left_bytes, sentence))
    must_fit = not is_swap_cold or not runs_something
    if must_fit and room.memory_left_bytes is not None and room.memory_needed_bytes > room.memory_left_bytes:
        remedy = "build the bundle with swap: cold" if runs_something else "give it a smaller variant"
        sentence = (
            f"{device} cannot load this release{beside}: at least {_mib(room.memory_needed_bytes)} are needed and "
            f"{_mib(room.memory_left_bytes)} of memory are available; {remedy}."
        )
        found.append(Shortage(device, "memory", room.memory_needed_bytes, room.memory_left_bytes, sentence))
    return tuple(found)


def is_unknown(room: Room, *, is_swap_cold: bool) -> bool:
    """Whether something that matters for this bundle was never said by the device."""
    return room.disk_left_bytes is None or (not is_swap_cold and room.memory_left_bytes is None)


def room_notes(found: Iterable[Shortage], unknown: Iterable[str], *, is_swap_cold: bool) -> tuple[str, ...]:
    """Return what the reader of a plan should know of room, in sentences."""
    notes = []
    if is_swap_cold:
        notes.append("The bundle says swap: cold: a device stops the old model before it loads this one.")
    short = list(dict.fromkeys(one.device for one in found))
    if short:
        notes.append(f"{_devices(short)} cannot hold two copies; the update waits there until there is room.")
    without = list(unknown)
    if without:
        notes.append(f"Whether {_devices(without)} can hold two copies is unknown: no room was ever reported.")
    return tuple(notes)


def _devices(ids: list[str]) -> str:
    named = ", ".join(ids[:NAMED_DEVICES])
    more = f" and {len(ids) - NAMED_DEVICES} more" if len(ids) > NAMED_DEVICES else ""
    return f"{len(ids)} device{'' if len(ids) == 1 else 's'} ({named}{more})"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
