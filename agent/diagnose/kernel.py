"""What the kernel said of lack of memory, heat and failing storage: the newest such lines, where they can be read.

``/dev/kmsg`` where this process may read it; else journalctl, which members of ``systemd-journal`` may ask; else in
words why not. No other line of the kernel's leaves the device.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

KMSG = Path("/dev/kmsg")
JOURNALCTL = ("journalctl", "-k", "-q", "-n", "5000", "--no-pager", "-o", "short-iso")
TIMEOUT_S = 10.0
MOST_LINES = 200
MAX_RECORDS = 20_000
_TELLING = re.compile(
    r"(?i)out of memory|\boom[-_ ]|oom_reaper|killed process|invoked oom|thermal|throttl|temperature|overheat"
    r"|under-?voltage|i/o error|(?:ext4|f2fs|btrfs|xfs)\b.*(?:error|warning|corrupt)|remount"
    r"|(?:\bmmc|\bnvme|\bata)\d.*(?:error|timeout|reset|failed|is down)"
    r"|segfault|hung task|blocked for more than|soft lockup|rcu.*stall|machine check|\bmce:|nvrm:|\bxid\b"
)

Ask = Callable[[Sequence[str]], str]
"""Runs a program and returns what it wrote; raises ``OSError`` or ``subprocess.SubprocessError``."""


def telling_lines(lines: Sequence[str]) -> list[str]:
    """Return the newest lines that tell of memory, heat or storage, at most ``MOST_LINES``."""
    return [line for line in lines if _TELLING.search(line)][-MOST_LINES:]


def kernel_lines(kmsg: Path = KMSG, ask: Ask | None = None) -> tuple[list[str], str]:
    """Return such lines, and where they come from or why there are none.

    Args:
        kmsg: the kernel's log.
        ask: runs journalctl; really where None.
    """
    try:
        return telling_lines(_read(kmsg)), f"read from {kmsg}"
    except OSError as error:
        reason = f"{kmsg} cannot be read ({error.strerror})"
    try:
        said = (ask or _run)(JOURNALCTL)
    except (OSError, subprocess.SubprocessError) as error:
        return [], f"{reason}; {JOURNALCTL[0]} cannot be asked ({type(error).__name__})"
    return telling_lines(said.splitlines()), f"{reason}; read from {JOURNALCTL[0]}"


def _read(path: Path) -> list[str]:
    """Read a log of one record a read (the kernel's), which says EAGAIN at its end; a plain file ends as files do."""
    lines, descriptor = [], os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(MAX_RECORDS):
            try:
                record = os.read(descriptor, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:  # overwritten before it was read: go on with the oldest that is left
                continue
            if not record:
                break
            for line in record.decode("utf-8", "replace").splitlines():
                head, _, text = line.partition(";")
                if not line.startswith(" "):
                    stamp = head.split(",")
                    seconds = int(stamp[2]) / 1e6 if len(stamp) > 2 and stamp[2].isdecimal() else 0.0
                    lines.append(f"[{seconds:12.6f}] {text or head}")
    finally:
        os.close(descriptor)
    return lines


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=True, stdin=subprocess.DEVNULL)
    return done.stdout.decode("utf-8", "replace")
