"""Files for ``make_delta``, read a stretch at a time: a model of 500 MB takes no more memory than one of 5."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from bundles.digest import CHUNK_BYTES


class Buffer(Protocol):
    """Bytes of which stretches can be had; ``bytes`` is one."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, stretch: slice, /) -> bytes:
        """Return a stretch, cut off at the end, as ``bytes`` does; steps are not asked for."""
        ...


class FileBytes:
    """The content of an open file.

    Not a memory map: the pages of a map count as this process's memory for as long as the kernel has room for them, and
    a file that shrinks under a map kills its reader.

    Args:
        descriptor: open for reading.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._length = os.fstat(descriptor).st_size

    def __len__(self) -> int:
        """Return how many bytes there are."""
        return self._length

    def __getitem__(self, stretch: slice, /) -> bytes:
        """Return a stretch.

        Raises:
            OSError: it cannot be read, or the file has shrunk.
        """
        start, stop, _ = stretch.indices(self._length)
        pieces, at = [], start
        while at < stop:
            piece = os.pread(self._descriptor, stop - at, at)
            if not piece:
                raise OSError("the file has become shorter while it was read")
            pieces.append(piece)
            at += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[FileBytes]:
    """Open a file for ``make_delta``.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as stream:
        yield FileBytes(stream.fileno())


def digest_of(data: Buffer) -> str:
    """Return the sha256 of all of ``data`` in hex, read a stretch at a time."""
    digest = hashlib.sha256()
    for start in range(0, len(data), CHUNK_BYTES):
        digest.update(data[start : start + CHUNK_BYTES])
    return digest.hexdigest()
