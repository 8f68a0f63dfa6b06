"""Second faults, for a device that has just lost its power: a full disk, a clock that jumped, a damaged file."""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from powercut.device import Clock

YEAR_MS = 365 * 86_400_000


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Let nothing be written below ``folder``, by whatever code: files may be made and stay empty."""

    def is_below(path: Any) -> bool:
        return not isinstance(path, int) and Path(os.fsdecode(path)).is_relative_to(folder)

    def no_room(*_: object) -> OSError:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os_open, io_open = os.open, io.open

    def open_number(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and is_below(path) and Path(path).name != "lock":
            raise no_room()
        return os_open(path, flags, *args, **more)

    def open_stream(path: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        if set(mode) & set("wax+") and is_below(path):
            raise no_room()
        return io_open(path, mode, *args, **more)

    os.open = open_number
    io.open = builtins.open = open_stream
    try:
        yield
    finally:
        os.open, io.open, builtins.open = os_open, io_open, io_open


def jump(rng: random.Random, clock: Clock) -> Callable[[], None]:
    """Let the device start with a wrong clock; return what sets it right, as a time server would."""
    jump_ms = rng.choice([-56 * YEAR_MS, -YEAR_MS, -3_600_000, 3_600_000, 40 * 86_400_000, 10 * YEAR_MS])
    clock.now += jump_ms

    def mend() -> None:
        clock.wrong_ms = -jump_ms

    return mend


def corrupt(rng: random.Random, folder: Path) -> str:
    """Damage one file of the device in place; return which. One of trust's two copies of its floors stays sound."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = rng.choice([path for path in files if path.name not in ("floors.backup.json", "lock")])
    data = bytearray(path.read_bytes())
    how = rng.choice(["flipped", "cut off", "zeroed"])
    if how == "flipped":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut off":
        del data[rng.randrange(len(data)) :]
    else:
        data = bytearray(len(data))
    with path.open("r+b") as stream:  # in place: every name of the content sees it
        stream.write(data)
        stream.truncate()
    return f"{path.relative_to(folder)} {how}"
