"""Content-addressed blobs in an object store: a local directory by default, S3, GCS or Azure by URL.

A blob's name is the sha256 of its content, checked on the way in; what is stored never changes, so that reading needs
no lock and a repeated put is no event. Leaves who may read what to the API. ``Derived`` keeps, beside them, what was
made out of them and can be made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import obstore
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store, from_url

from bundles.digest import is_sha256, sha256_hex, sha256_stream
from bundles.errors import Refused
from control_plane.errors import NotFound

READ_CHUNK_BYTES = 256 * 1024


class Blobs:
    """Blobs under ``blobs/sha256/<hex>`` of one object store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def at(cls, where: str | Path) -> Blobs:
        """Open the store at a folder (made if missing) or at a URL such as ``s3://bucket/prefix``."""
        if isinstance(where, str) and "://" in where:
            return cls(from_url(where))
        folder = Path(where)
        folder.mkdir(parents=True, exist_ok=True)
        return cls(LocalStore(str(folder)))

    def derived(self, prefix: str, max_bytes: int) -> Derived:
        """Return the place beside the blobs for what is made out of them; see ``Derived``."""
        return Derived(self._store, prefix, max_bytes)

    def put(self, sha256: str, content: BinaryIO | bytes) -> int:
        """Store ``content`` under its digest; return its length in bytes. Storing it again changes nothing.

        Args:
            sha256: the digest the content must have.
            content: bytes, or a seekable binary stream read from its start.

        Raises:
            Refused: ``BLOB_DIGEST`` where the content has another digest.
        """
        if isinstance(content, bytes):
            actual, length = sha256_hex(content), len(content)
        else:
            content.seek(0)
            actual, length = sha256_stream(content)
            content.seek(0)
        if actual != sha256:
            raise Refused(
                f"The content has sha256 {actual}, not {sha256}.",
                code="BLOB_DIGEST",
                remedy="Send the file again; if it happens again, build the bundle anew.",
            )
        if not self.has(sha256):
            obstore.put(self._store, _name(sha256), content)
        return length

    def has(self, sha256: str) -> bool:
        """Whether the blob is stored."""
        try:
            self.length(sha256)
        except NotFound:
            return False
        return True

    def length(self, sha256: str) -> int:
        """Return the blob's length in bytes.

        Raises:
            NotFound: ``BLOB_NOT_FOUND``.
        """
        if not is_sha256(sha256):
            raise _missing(sha256)
        try:
            return int(obstore.head(self._store, _name(sha256))["size"])
        except FileNotFoundError as error:
            raise _missing(sha256) from error

    def signed_url(self, sha256: str, life_s: int) -> str | None:
        """Return a URL that gives the blob to whoever has it for ``life_s`` seconds; None where the store has no such.

        The blob need not exist. Nothing is asked over the network where the store's credentials are at hand.
        """
        if not isinstance(self._store, S3Store | GCSStore | AzureStore):
            return None
        return obstore.sign(self._store, "GET", _name(sha256), timedelta(seconds=life_s))

    def open(self, sha256: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield ``length`` bytes of the blob from ``offset`` on (to its end where None), in chunks.

        Raises:
            NotFound: ``BLOB_NOT_FOUND``.
        """
        end = self.length(sha256) if length is None else offset + length
        name = _name(sha256)
        while offset < end:
            size = min(READ_CHUNK_BYTES, end - offset)
            yield bytes(obstore.get_range(self._store, name, start=offset, length=size))
            offset += size

    def read_all(self, sha256: str) -> bytes:
        """Return the whole blob; for small ones such as manifests and baselines.

        Raises:
            NotFound: ``BLOB_NOT_FOUND``.
        """
        return b"".join(self.open(sha256))


class Derived:
    """What was made out of blobs and can be made again, by name under ``prefix``; the oldest goes when it is too much.

    Args:
        store: the object store.
        prefix: where in it, such as ``deltas``.
        max_bytes: of everything under the prefix; one entry more may lie there for a moment.
    """

    def __init__(self, store: ObjectStore, prefix: str, max_bytes: int) -> None:
        self._store, self._prefix, self._max_bytes = store, prefix, max_bytes

    def length(self, name: str) -> int | None:
        """Return an entry's length in bytes, None where there is none (any more)."""
        try:
            return int(obstore.head(self._store, self._path(name))["size"])
        except FileNotFoundError:
            return None

    def put(self, name: str, content: BinaryIO | bytes) -> None:
        """Store an entry, replacing one of its name, then make room."""
        obstore.put(self._store, self._path(name), content)
        entries = [entry for batch in obstore.list(self._store, prefix=self._prefix) for entry in batch]
        total = sum(entry["size"] for entry in entries)
        for entry in sorted(entries, key=lambda entry: entry["last_modified"]):
            if total <= self._max_bytes:
                return
            if entry["path"] != self._path(name):
                obstore.delete(self._store, entry["path"])
                total -= entry["size"]

    def open(self, name: str, offset: int, length: int) -> Iterator[bytes]:
        """Yield ``length`` bytes of an entry from ``offset`` on, in chunks.

        Raises:
            FileNotFoundError: it made room for others meanwhile.
        """
        end = offset + length
        while offset < end:
            size = min(READ_CHUNK_BYTES, end - offset)
            yield bytes(obstore.get_range(self._store, self._path(name), start=offset, length=size))
            offset += size

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}"


def _name(sha256: str) -> str:
    return f"sha256/{sha256}"


def _missing(sha256: str) -> NotFound:
    return NotFound(
        f"No blob has the sha256 {sha256}.", code="BLOB_NOT_FOUND", remedy="Publish the bundle that holds it."
    )
