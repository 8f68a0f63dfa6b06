"""The form of an offline kit: a zip that a person carries to devices without a network. Believes nothing it reads.

::

    kit.json            {"signed": KitDocument, "signatures": [...]}
    metadata/<file>     every root, and the current targets, team and revocation roles
    blobs/<sha256>      manifests and the files they name

All entries are stored, never compressed, and none may claim more than the file holds, so a small kit cannot unpack to
a large one. What the signatures are worth is for ``kit`` to say.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec

from bundles.digest import CHUNK_BYTES, sha256_hex
from bundles.errors import TrustRefused
from bundles.trust.durable import flush_folder
from bundles.trust.fetch import length_limit
from bundles.wire.codec import MAX_PAYLOAD_BYTES
from bundles.wire.messages import DesiredModel

DOCUMENT_TYPE = "wavegate-kit"
VERSION = 1
DOCUMENT, METADATA, BLOBS = "kit.json", "metadata/", "blobs/"
MAX_LIFE_MS = 180 * 86_400_000
MAX_METADATA_FILES = 400
"""256 roots, and more roles than anybody has."""
MAX_METADATA_BYTES = 32 * 1024 * 1024
MAX_BLOBS = 2_048
"""Keeps the document within what ``codec.decode_signed`` reads."""
MAX_DIRECTORY_BYTES = 1024 * 1024
"""Of the zip's own list of entries, which is read into memory."""
_NAME = re.compile(r"metadata/[1-9][0-9]{0,8}\.[a-z0-9][a-z0-9._-]{0,80}\.json\Z|blobs/[0-9a-f]{64}\Z|kit\.json\Z")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_END, _LOCATOR, _END64 = (struct.Struct(form) for form in ("<4s4H2LH", "<4sLQL", "<4sQ2H2L4Q"))


def _version() -> int:
    return VERSION


def _type() -> str:
    return DOCUMENT_TYPE


class KitFile(msgspec.Struct, frozen=True):
    """A metadata file of a kit."""

    sha256: str
    length: int


class KitDocument(msgspec.Struct, frozen=True, rename={"type_": "_type"}):
    """What the holders of the kit role sign.

    Attributes:
        version: rises with every kit; a device takes none older than the last.
        issued: UTC epoch ms.
        expires: UTC epoch ms, at most ``MAX_LIFE_MS`` later.
        metadata: the exact metadata files, by name.
        desired: what to install, by ``team/model``.
        blobs: the exact blobs: sha256 -> length.
    """

    version: int
    issued: int
    expires: int
    metadata: dict[str, KitFile]
    desired: dict[str, DesiredModel]
    blobs: dict[str, int]
    v: int = msgspec.field(default_factory=_version)
    type_: str = msgspec.field(default_factory=_type)


@dataclass(frozen=True)
class KitArchive:
    """A kit whose shape was checked, and nothing else.

    Attributes:
        path: where it lies.
        document: the bytes of ``kit.json``.
        metadata: file name -> bytes.
        blobs: sha256 claimed -> length.
    """

    path: Path
    document: bytes
    metadata: Mapping[str, bytes]
    blobs: Mapping[str, int]

    def blob(self, digest: str) -> Iterator[bytes]:
        """Read a blob in pieces. Only when the last one has come without a refusal is any of them to be believed.

        Raises:
            TrustRefused: ``TRUST_DIGEST``, ``TRUST_UNSIGNED_KIT``.
        """
        found = sha256()
        with _reading(self.path), zipfile.ZipFile(self.path) as archive, archive.open(BLOBS + digest) as stream:
            while piece := stream.read(CHUNK_BYTES):
                found.update(piece)
                yield piece
        check_blob_digest(digest, found.hexdigest())


def read_archive(path: Path) -> KitArchive:
    """Read a kit's document and metadata, and list its blobs.

    Raises:
        TrustRefused: ``TRUST_UNSIGNED_KIT`` (no kit) or ``TRUST_LENGTH`` (it claims too much).
        OSError: there is no such file.
    """
    with _reading(path):
        check_directory(path)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            check_entries(entries, path.stat().st_size)
            sizes = {entry.filename: entry.file_size for entry in entries}
            metadata = {name.removeprefix(METADATA): archive.read(name) for name in sizes if name.startswith(METADATA)}
            blobs = {name.removeprefix(BLOBS): size for name, size in sizes.items() if name.startswith(BLOBS)}
            return KitArchive(path, archive.read(DOCUMENT), metadata, blobs)


def write_archive(path: Path, document: bytes, metadata: Mapping[str, bytes], blobs: Mapping[str, Path]) -> None:
    """Write a kit, deterministically; ``path`` holds what it did or the whole new kit.

    Raises:
        OSError: the disk is full, or a blob cannot be read.
    """
    scratch = path.with_name(path.name + ".new")
    try:
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_entry(DOCUMENT), document)
            for name in sorted(metadata):
                archive.writestr(_entry(METADATA + name), metadata[name])
            for digest in sorted(blobs):
                source = blobs[digest]
                with (
                    source.open("rb") as stream,
                    archive.open(_entry(BLOBS + digest, source.stat().st_size), "w") as to,
                ):
                    while piece := stream.read(CHUNK_BYTES):
                        to.write(piece)
        with scratch.open("rb") as written:
            os.fsync(written.fileno())
        scratch.replace(path)
        flush_folder(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def check_directory(path: Path) -> None:
    """Check the size of the zip's list of entries before ``zipfile`` reads it all into memory.

    Raises:
        TrustRefused: ``TRUST_LENGTH`` or ``TRUST_UNSIGNED_KIT``.
    """
    tail = _END64.size + _LOCATOR.size + _END.size
    with path.open("rb") as stream:
        stream.seek(-min(tail, path.stat().st_size), os.SEEK_END)
        data = stream.read(tail).rjust(tail, b"\0")
    # Without a comment the end record is the last thing in the file, and that is the one zipfile takes.
    signature, *_, directory, _, comment = _END.unpack(data[-_END.size :])
    if signature != b"PK\5\6" or comment:
        raise not_a_kit(path, "it does not end as one")
    if data[_END64.size :].startswith(b"PK\6\7"):
        directory = _END64.unpack(data[: _END64.size])[-2]
    if directory > MAX_DIRECTORY_BYTES:
        raise _too_large(path)


def check_entries(entries: list[zipfile.ZipInfo], total: int) -> None:
    """Check that the entries are plain stored files of a kit's names, within the limits and without overlap.

    Args:
        entries: as the zip lists them.
        total: bytes of the whole file.

    Raises:
        TrustRefused: ``TRUST_LENGTH`` or ``TRUST_UNSIGNED_KIT``.
    """
    names = [entry.filename for entry in entries]
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        plain = entry.orig_filename == entry.filename and not entry.flag_bits & 0x1 and kind in (0, stat.S_IFREG)
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
        if not (plain and stored and _NAME.match(entry.filename)):
            raise not_a_kit(Path(entry.filename), "kits hold no such entry")
    if len(set(names)) != len(names) or DOCUMENT not in names:
        raise not_a_kit(Path(DOCUMENT), "it must be there once")
    metadata = [entry for entry in entries if entry.filename.startswith(METADATA)]
    if (
        sum(entry.file_size for entry in entries) > total  # overlapping entries
        or len(metadata) > MAX_METADATA_FILES
        or sum(entry.file_size for entry in metadata) > MAX_METADATA_BYTES
        or any(entry.file_size > length_limit(entry.filename.removeprefix(METADATA)) for entry in metadata)
        or len(entries) - len(metadata) - 1 > MAX_BLOBS
        or next(entry.file_size for entry in entries if entry.filename == DOCUMENT) > MAX_PAYLOAD_BYTES
    ):
        raise _too_large(Path(DOCUMENT))


def check_blob_digest(digest: str, found: str) -> None:
    """Check that a blob is the one its name says.

    Raises:
        TrustRefused: ``TRUST_DIGEST``.
    """
    if found != digest:
        raise TrustRefused(
            f"The kit's blob {digest[:12]} has other content than was signed.",
            code="TRUST_DIGEST",
            remedy="Copy the kit to its carrier again; if it stays so, make it again.",
            details={"sha256": digest},
        )


def described(data: bytes) -> KitFile:
    """Return how a kit's document names a metadata file."""
    return KitFile(sha256_hex(data), len(data))


def not_a_kit(path: Path, why: str) -> TrustRefused:
    """Return the refusal of something that cannot be read as a kit."""
    return TrustRefused(
        f"{path.name!r} is no kit or part of one: {why}.",
        code="TRUST_UNSIGNED_KIT",
        remedy="Copy the kit again from where it was made.",
    )


def _too_large(path: Path) -> TrustRefused:
    return TrustRefused(
        f"{path.name!r} claims more than a kit may hold.",
        code="TRUST_LENGTH",
        remedy="Copy the kit again from where it was made; put fewer bundles into one.",
    )


def _entry(name: str, size: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3  # unix, on every platform
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.file_size = size  # lets zipfile choose the 64-bit form beforehand
    return info


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever ``zipfile`` raises over damaged bytes into one refusal; a missing file stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:  # a seek to before the start of the file: an offset was damaged
            raise
        raise not_a_kit(path, str(error)) from error
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, RuntimeError, struct.error, OverflowError) as error:
        raise not_a_kit(path, str(error)) from error
