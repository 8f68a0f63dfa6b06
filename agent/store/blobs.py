"""Content-addressed files, whole and in part: ``blobs/sha256/<hex>`` and ``blobs/part/<hex>``.

A name under ``blobs/sha256`` appears only when its content is complete and durable; ``blobs/part`` holds what is on its
way in. A reserve of the disk stays free for journals and the spool: nothing is written here that would eat into it.
Leaves fetching to ``download``, which fills a ``BlobPart``, and bundles to ``slots``.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from agent.core.plan import bytes_to_fetch
from agent.room import Room
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


def hash_of(fs: FileSystem, path: str, pause: Callable[[], None] = lambda: None) -> str:
    """Return the sha256 of a file's content in hex.

    Args:
        fs: the disk.
        path: of the file.
        pause: called after each piece; lets others at the disk, or raises to break off.
    """
    digest = hashlib.sha256()
    for chunk in fs.chunks(path):
        digest.update(chunk)
        pause()
    return digest.hexdigest()


class BlobPart:
    """One blob on its way in. What has arrived survives a restart; it is hashed again before it is built upon.

    Attributes:
        sha256: digest the whole must have.
        length: bytes the whole must have.
    """

    def __init__(self, fs: FileSystem, sha256: str, length: int, reserve_bytes: int = 0) -> None:
        self._fs, self._reserve_bytes = fs, reserve_bytes
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
            TryAgain: ``DISK_FULL`` (also where only the reserve is left: others write to this disk too) or
                ``STORE_IO``; what arrived before stays.
        """
        if self._reserve_bytes:
            _check_room(self._fs, len(data), self._reserve_bytes)
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
        self._lock = threading.RLock()
        self._coming: Counter[BundleFile] = Counter()
        self._bringing: dict[str, threading.Lock] = {}

    def blob(self, sha256: str, length: int) -> BlobPart:
        """Return the way in for a blob."""
        return BlobPart(self._fs, sha256, length, self._reserve_bytes)

    @contextmanager
    def coming(self, files: Collection[BundleFile]) -> Iterator[None]:
        """Keep room for files while they are on their way in, and keep them from being collected.

        What is on disk already, whole or in part, needs no room; what other bundles of this device are bringing at
        the same time does.

        Args:
            files: all that one bundle brings.

        Raises:
            TryAgain: ``DISK_FULL``, with the bytes that are missing.
        """
        with self._lock:
            wanted = {entry.sha256: entry for entry in (*self._coming, *files)}.values()
            copies = 0 if self._fs.has_hard_links() else sum({f.sha256: f.length for f in files}.values())
            self.check_space(bytes_to_fetch(tuple(wanted), lambda f: self.held_bytes(f.sha256)) + copies)
            self._coming.update(files)
        try:
            yield
        finally:
            with self._lock:
                self._coming -= Counter(files)

    @contextmanager
    def bringing(self, sha256: str) -> Iterator[None]:
        """Let one bundle at a time bring a blob: two that share one would write to the same part."""
        with self._lock:
            lock = self._bringing.setdefault(sha256, threading.Lock())
        with lock:
            yield

    def has_blob(self, sha256: str, length: int) -> bool:
        """Whether the blob is whole and in its place (its digest was checked when it came)."""
        return self._fs.size(blob_path(sha256)) == length

    def held_bytes(self, sha256: str) -> int:
        """Return how many bytes of a blob are on disk, whole or in part."""
        whole = self._fs.size(blob_path(sha256))
        return whole if whole is not None else (self._fs.size(f"{PART}/{sha256}") or 0)

    def copies(self, sha256: str, length: int) -> Iterator[str]:
        """Yield where else on this disk the content of a blob should be; nowhere, here."""
        return iter(())

    def adopt(self, sha256: str, length: int) -> bool:
        """Bring a blob from a copy on this disk, if there is a sound one: no network is asked for what is here.

        Returns:
            Whether the blob is whole and in its place now.

        Raises:
            TryAgain: ``DISK_FULL`` or ``STORE_IO``.
        """
        part = self.blob(sha256, length)
        if part.is_complete():
            return True
        for path in self.copies(sha256, length):
            if hash_of(self._fs, path) != sha256:
                continue
            part.reset()
            for chunk in self._fs.chunks(path):
                part.append(chunk)
            part.commit()
            return True
        return False

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

    def room(self) -> Room:
        """Return what is free on the disk, and the reserve; nothing known where the disk does not answer."""
        try:
            return Room(self._fs.free_bytes(), self._reserve_bytes)
        except TryAgain:
            return Room()

    def check_space(self, bytes_needed: int) -> None:
        """Check that ``bytes_needed`` fit beside the reserve.

        Raises:
            TryAgain: ``DISK_FULL``, with the bytes that are missing.
        """
        _check_room(self._fs, bytes_needed, self._reserve_bytes)

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


def _check_room(fs: FileSystem, bytes_needed: int, reserve_bytes: int) -> None:
    if not bytes_needed:
        return
    free = fs.free_bytes()
    lacking = bytes_needed + reserve_bytes - free
    if lacking > 0:
        error = disk_full(
            f"{lacking} bytes are missing: {bytes_needed} are needed, {free} are free and {reserve_bytes} stay reserved"
        )
        error.details["missing_bytes"] = lacking
        raise error


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
