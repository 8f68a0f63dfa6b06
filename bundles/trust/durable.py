"""Files that survive a power cut: written beside, flushed to the disk, renamed, and the folder flushed too.

TUF's own client replaces files without a flush, which is why nothing durable here is left to it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from bundles.errors import TryAgain


class Write(Protocol):
    """Replaces a file: ``write_durably`` on a device, ``write_quickly`` where nothing need survive."""

    def __call__(self, path: Path, data: bytes, *, mode: int = ...) -> None:
        """Replace ``path`` by ``data``; a reader sees the old bytes or the new ones.

        Raises:
            OSError: the disk is full or the folder is not writable; the old content is untouched.
        """


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data`` so that a reader after any crash sees the old bytes or the new ones.

    Args:
        path: the file; its folder must exist.
        data: the whole content.
        mode: permission bits; never wider at any moment.

    Raises:
        OSError: the disk is full or the folder is not writable; the old content is untouched.
    """
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write_quickly(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data`` without flushing: for folders that do not outlive the process (simulated fleets)."""
    scratch = path.with_name(path.name + ".new")
    scratch.write_bytes(data)
    scratch.chmod(mode)
    scratch.replace(path)


def flush_folder(folder: Path) -> None:
    """Flush the entries of ``folder`` to the disk, so that a rename in it is durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_if_there(path: Path) -> bytes | None:
    """Return the bytes of ``path``, or None where it is missing or no plain file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


class FolderLock:
    """Keeps a folder to one owner, across processes and within one; the system releases it when the owner dies."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            TryAgain: ``TRUST_LOCKED``: somebody else has it.
        """
        import fcntl  # POSIX only, and needed on devices only

        self._descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise TryAgain(
                f"Another process uses the trust folder {folder}.",
                code="TRUST_LOCKED",
                remedy="Stop the other agent on this folder; one process at a time may use it.",
            ) from error

    def release(self) -> None:
        """Give the lock back; doing so twice changes nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
