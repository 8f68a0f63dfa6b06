"""The update lock: an application holds it while no other model may begin to answer: ``flock`` on ``DIR/update.lock``.

Any number of applications hold it at once; the kernel lets go for one that dies. It holds back the next activation and
leaves one that has begun alone. Light, because applications import it (through ``agent.Client``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

NAME = "update.lock"


def open_lock(path: Path) -> int:
    """Open the lock's file, made where it is missing; the group may use it, as it may the agent's socket.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        os.fchmod(descriptor, 0o640)  # whatever the umask
        return descriptor


def take(path: Path) -> int:
    """Return a descriptor that holds the lock, until it and every copy of it is closed.

    Raises:
        OSError: the lock's file cannot be opened.
    """
    descriptor = open_lock(path)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for a look of the agent at most
    return descriptor


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock.

    Raises:
        OSError: the lock's file cannot be opened.
    """
    descriptor = take(path)
    try:
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Return whether anybody holds the lock; a file that cannot be opened is held by nobody."""
    try:
        descriptor = open_lock(path)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
