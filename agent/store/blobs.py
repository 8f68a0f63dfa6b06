"""Content-addressed files, whole and in part: ``blobs/sha256/<hex>`` and ``blobs/part/<hex>``.

A name under ``blobs/sha256`` appears only when its content is complete and durable; ``blobs/part`` holds what is on its
way in. Leaves fetching to ``download``, which fills a ``BlobPart``, and bundles to ``slots``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from agent.store.files import FileSystem, disk_full, missing
from bundles.digest import is_sha256, sha256_hex
from bundles.errors import TryAgain
from bundles.manifest import BundleFile

WHOLE = "blobs/sha256"
PART = "blobs/part"


def blob_path(sha256: str) -> str:
    """Return where a blob lies, relative to the store.

    Raises:
        ValueError: ``sha256`` is no digest, so it must not become a path.
    """
    return f"{WHOLE}/{_checked(sha256)}"


def hash_of(fs: FileSystem, path: str) -> str:
    """Return the sha256 of a file's content in hex."""
    digest = hashlib.sha256()
    for chunk in fs.chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


class BlobPart:
    """One blob on its way in. What has arrived survives a restart; it is hashed again before it is built upon.

    Attributes:
        sha256: digest the whole must have.
        length: bytes the whole must have.
    """

    def __init__(self, fs: FileSystem, sha256: str, length: int) -> None:
        self._fs = fs
        self._path = f"{PART}/{_checked(sha256)}"
        self.sha256 = sha256
        self.length = length

    def is_complete(self) -> bool:
        """Whether the blob is whole and in its place."""
        return self._fs.size(blob_path(self.sha256)) == self.length

    def size(self) -> int:
        """Return how many bytes have arrived."""
        return self._fs.size(self._path) or 0

    def chunks(self) -> Iterator[bytes]:
        """Yield what has arrived."""
        return self._fs.chunks(self._path) if self.size() else iter(())

    def append(self, data: bytes) -> None:
        """Add what came next.

        Raises:
            TryAgain: ``DISK_FULL`` or ``STORE_IO``; what arrived before stays.
        """
        self._fs.append(self._path, data)

    def reset(self) -> None:
        """Forget what has arrived."""
        self._fs.unlink(self._path)

    def commit(self) -> None:
        """Put the blob in its place, durably. The caller has checked its digest.

        Raises:
            TryAgain: ``DISK_FULL`` or ``STORE_IO``; the part stays.
        """
        if self.length == 0:
            self._fs.append(self._path, b"")
        self._fs.fsync(self._path)
        self._fs.rename(self._path, blob_path(self.sha256))
        self._fs.fsync_dir(WHOLE)


class Blobs:
    """Everything content-addressed on one device."""

    def __init__(self, fs: FileSystem, reserve_bytes: int) -> None:
        self._fs = fs
        self._reserve_bytes = reserve_bytes

    def blob(self, sha256: str, length: int) -> BlobPart:
        """Return the way in for a blob."""
        return BlobPart(self._fs, sha256, length)

    def has_blob(self, sha256: str, length: int) -> bool:
        """Whether the blob is whole and in its place (its digest was checked when it came)."""
        return self._fs.size(blob_path(sha256)) == length

    def held_bytes(self, sha256: str) -> int:
        """Return how many bytes of a blob are on disk, whole or in part."""
        whole = self._fs.size(blob_path(sha256))
        return whole if whole is not None else (self._fs.size(f"{PART}/{sha256}") or 0)

    def read_blob(self, sha256: str, limit: int) -> bytes:
        """Return a blob's content after checking its digest.

        Raises:
            TryAgain: ``STORE_MISSING``, or ``STORE_CORRUPT`` (damaged or longer than ``limit``; it is removed).
        """
        path = blob_path(sha256)
        size = self._fs.size(path)
        if size is None:
            raise missing(path)
        data = self._fs.read(path) if size <= limit else b""
        if size > limit or sha256_hex(data) != sha256:
            self._fs.unlink(path)
            raise corrupt(path)
        return data

    def open_blob(self, sha256: str) -> BinaryIO:
        """Open a blob for reading; its digest is not checked here.

        Raises:
            TryAgain: ``STORE_MISSING``.
        """
        path = blob_path(sha256)
        try:
            return self._fs.absolute(path).open("rb")
        except FileNotFoundError as error:
            raise missing(path) from error

    def check_space(self, bytes_needed: int) -> None:
        """Check that ``bytes_needed`` fit beside the reserve.

        Raises:
            TryAgain: ``DISK_FULL``.
        """
        free = self._fs.free_bytes()
        if bytes_needed and free - bytes_needed < self._reserve_bytes:
            raise disk_full(f"{bytes_needed} bytes are needed, {free} are free and {self._reserve_bytes} stay reserved")

    def verify(self, sha256: str, files: Iterable[BundleFile]) -> None:
        """Hash a bundle's blobs again from disk, manifest first; what is damaged is removed, to be fetched anew.

        Args:
            sha256: bundle digest.
            files: the files this device needs.

        Raises:
            TryAgain: ``STORE_MISSING`` or ``STORE_CORRUPT``, after all blobs were looked at.
        """
        bad = [blob for blob in dict.fromkeys([sha256, *(f.sha256 for f in files)]) if not self._is_sound(blob)]
        for blob in bad:
            if self._fs.size(blob_path(blob)) is None:
                raise missing(blob_path(blob))
            self._fs.unlink(blob_path(blob))
        if bad:
            raise corrupt(blob_path(bad[0]))

    def _is_sound(self, sha256: str) -> bool:
        path = blob_path(sha256)
        return self._fs.size(path) is not None and hash_of(self._fs, path) == sha256


def corrupt(path: str) -> TryAgain:
    """Return the error for content that does not match its digest."""
    return TryAgain(
        f"{path} does not match its digest.",
        code="STORE_CORRUPT",
        remedy="It is fetched again by the next try; if this happens often, the device's disk is failing.",
    )


def _checked(sha256: str) -> str:
    if not is_sha256(sha256):
        raise ValueError(f"{sha256!r} is no sha256")
    return sha256
