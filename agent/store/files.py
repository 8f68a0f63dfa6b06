"""The few operations the store needs of a disk, and the real disk behind them.

Paths are relative POSIX text (``blobs/sha256/ab12``), so that nothing above can leave the agent's folder by accident.
The protocol tells writing from making durable: content is safe after ``fsync``, names (a rename, a link, an unlink,
a new folder) after ``fsync_dir`` of the folder they are in. Tests put a disk that loses power in its place.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from bundles.digest import CHUNK_BYTES
from bundles.errors import TryAgain

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_LINKS = frozenset({errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK, errno.EACCES})


def disk_full(detail: str) -> TryAgain:
    """Return the error for a disk without room."""
    return TryAgain(
        f"The disk has no room: {detail}.",
        code="DISK_FULL",
        remedy="Free some space on the device; the update goes on by itself and the old model keeps answering.",
    )


class FileSystem(Protocol):
    """A disk. Failures are ``TryAgain`` with ``DISK_FULL``, ``STORE_MISSING`` (no such file) or ``STORE_IO``."""

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        ...

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield a file's content in pieces."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Create a file, or replace its content in place; not durable yet."""
        ...

    def append(self, path: str, data: bytes) -> None:
        """Add to a file's end, creating it where needed; not durable yet."""
        ...

    def fsync(self, path: str) -> None:
        """Make a file's content durable."""
        ...

    def fsync_dir(self, path: str) -> None:
        """Make the names in a folder durable."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Move a file over another, or a folder to a free name, in one step."""
        ...

    def link(self, source: str, target: str) -> None:
        """Give a file a second name; where the disk has no hard links, copy it and make the copy durable."""
        ...

    def has_hard_links(self) -> bool:
        """Whether ``link`` costs no room; where it does, it copies."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file's name; silent where there is none."""
        ...

    def mkdir(self, path: str) -> None:
        """Make a folder in an existing one; silent where it exists."""
        ...

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        ...

    def list(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; empty where there is no such folder."""
        ...

    def is_dir(self, path: str) -> bool:
        """Whether the path names a folder."""
        ...

    def size(self, path: str) -> int | None:
        """Return a file's length in bytes, None where there is no such file."""
        ...

    def free_bytes(self) -> int:
        """Return how many bytes may still be written."""
        ...

    def absolute(self, path: str) -> Path:
        """Return the path for those outside the store, such as a runtime that opens a model file."""
        ...


class LocalFileSystem:
    """The device's real disk, below one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._has_hard_links: bool | None = None

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        with _one_family(path):
            return self.absolute(path).read_bytes()

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield a file's content in pieces of ``CHUNK_BYTES``."""
        with _one_family(path), self.absolute(path).open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk

    def write(self, path: str, data: bytes) -> None:
        """Create or truncate, then write; mode 0600."""
        self._put(path, data, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def append(self, path: str, data: bytes) -> None:
        """Write at the end; mode 0600."""
        self._put(path, data, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def _put(self, path: str, data: bytes, flags: int) -> None:
        with _one_family(path):
            descriptor = os.open(self.absolute(path), flags | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as stream:
                view = memoryview(data)
                while view:
                    view = view[stream.write(view) :]

    def fsync(self, path: str) -> None:
        """fsync the file."""
        self._sync(path, os.O_RDONLY)

    def fsync_dir(self, path: str) -> None:
        """fsync the folder."""
        self._sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def _sync(self, path: str, flags: int) -> None:
        with _one_family(path):
            descriptor = os.open(self.absolute(path), flags | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rename(self, source: str, target: str) -> None:
        """rename(2)."""
        with _one_family(source):
            self.absolute(source).replace(self.absolute(target))

    def link(self, source: str, target: str) -> None:
        """link(2), or a durable copy on a disk without hard links."""
        with _one_family(source):
            try:
                self.absolute(target).hardlink_to(self.absolute(source))
                return
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            shutil.copyfile(self.absolute(source), self.absolute(target))
        self.fsync(target)

    def has_hard_links(self) -> bool:
        """Try it, once; a disk that cannot be tried at present is taken to have them."""
        if self._has_hard_links is None:
            first, second = self.absolute(".link-1.tmp"), self.absolute(".link-2.tmp")
            try:
                first.touch(mode=0o600)
                second.hardlink_to(first)
                self._has_hard_links = True
            except FileExistsError:
                return True
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    return True
                self._has_hard_links = False
            finally:
                with suppress(OSError):
                    second.unlink(missing_ok=True)
                    first.unlink(missing_ok=True)
        return self._has_hard_links

    def unlink(self, path: str) -> None:
        """unlink(2)."""
        with _one_family(path):
            self.absolute(path).unlink(missing_ok=True)

    def mkdir(self, path: str) -> None:
        """mkdir(2), mode 0700."""
        with _one_family(path):
            self.absolute(path).mkdir(mode=0o700, exist_ok=True)

    def rmdir(self, path: str) -> None:
        """rmdir(2)."""
        with _one_family(path):
            self.absolute(path).rmdir()

    def list(self, path: str) -> list[str]:
        """Return the names in a folder, sorted."""
        with _one_family(path):
            folder = self.absolute(path)
            return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def is_dir(self, path: str) -> bool:
        """Whether the path names a folder."""
        with _one_family(path):
            return self.absolute(path).is_dir()

    def size(self, path: str) -> int | None:
        """Return a file's length in bytes, or None."""
        with _one_family(path):
            try:
                found = self.absolute(path).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return found.st_size if stat.S_ISREG(found.st_mode) else None

    def free_bytes(self) -> int:
        """Return what an unprivileged process may still write."""
        with _one_family("."):
            return shutil.disk_usage(self._root).free

    def absolute(self, path: str) -> Path:
        """Return the path below the agent's folder."""
        return self._root / path


@contextmanager
def _one_family(path: str) -> Iterator[None]:
    """Whatever the disk raises, callers see one family."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise disk_full(f"{path} could not be written") from error
        raise TryAgain(
            f"The disk failed at {path}: {error.strerror or error}.",
            code="STORE_IO",
            remedy="Look at the device's disk and at who owns the agent's folder.",
        ) from error


def missing(path: str) -> TryAgain:
    """Return the error for something that should be on the disk and is not."""
    return TryAgain(
        f"{path} is not on this device.", code="STORE_MISSING", remedy="It is fetched again by the next try."
    )
