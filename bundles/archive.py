"""``.wgb``: one bundle as a file between people: build -> sign -> publish -> kit. Devices never see one.

A plain zip, stored (no compression), holding ``bundle.json`` first, the files it names by path, and, once signed,
``metadata/<n>.<role>.json``: the new trust metadata to publish with it. The writer is deterministic: the same content
gives the same bytes. The reader believes nothing: it takes plain stored files with the manifest's paths and lengths
and no others, and hashes whatever it hands out. What the signatures are worth is for ``trust`` to say.
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
from pathlib import Path
from typing import BinaryIO, NoReturn

from bundles.digest import CHUNK_BYTES, sha256_hex, sha256_stream
from bundles.errors import BundleRefused, TryAgain
from bundles.manifest import MAX_FILES, MAX_MANIFEST_BYTES, BundleFile, Manifest, check_path, parse_manifest

MANIFEST = "bundle.json"
METADATA = "metadata/"
MAX_METADATA_FILES = 64
MAX_METADATA_BYTES = 5_000_000
"""What TUF's client accepts of a targets role."""
_METADATA_NAME = re.compile(r"metadata/[1-9][0-9]{0,8}\.[a-z0-9][a-z0-9._-]{0,80}\.json\Z")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_REBUILD = "Build the bundle again, or fetch it again from where it came."


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold.

    Attributes:
        files: entries, manifest and metadata included.
        bytes: of all files together.
    """

    files: int = MAX_FILES + MAX_METADATA_FILES + 1
    bytes: int = 8 * 1024**3


@dataclass(frozen=True)
class Archive:
    """A ``.wgb`` whose shape was checked: its entries are exactly those of its manifest, with their lengths.

    Attributes:
        path: where it lies.
        manifest: parsed ``bundle.json``.
        manifest_bytes: its exact bytes.
        metadata: trust metadata carried along: file name (such as ``4.team-vision.json``) -> bytes, unverified.
    """

    path: Path
    manifest: Manifest
    manifest_bytes: bytes
    metadata: Mapping[str, bytes]

    @property
    def sha256(self) -> str:
        """The bundle digest."""
        return sha256_hex(self.manifest_bytes)

    @contextmanager
    def open_file(self, entry: BundleFile) -> Iterator[BinaryIO]:
        """Open a file of the bundle for reading. Its bytes are not checked here: see ``verify`` and ``read``."""
        with zipfile.ZipFile(self.path) as archive, archive.open(entry.path) as stream:
            yield stream  # type: ignore[misc]  # IO[bytes] with what BinaryIO promises

    def read(self, entry: BundleFile) -> bytes:
        """Return a file of the bundle, verified.

        Raises:
            BundleRefused: ``BUNDLE_DIGEST``.
        """
        with _reading(self.path), self.open_file(entry) as stream:
            data = stream.read()
        _check_digest(entry, sha256_hex(data), len(data))
        return data

    def verify(self) -> None:
        """Hash every file.

        Raises:
            BundleRefused: ``BUNDLE_DIGEST`` or ``BUNDLE_ARCHIVE``.
        """
        for entry in self.manifest.files:
            with _reading(self.path), self.open_file(entry) as stream:
                found = sha256_stream(stream)
            _check_digest(entry, *found)

    def unpack(self, folder: Path) -> None:
        """Write ``bundle.json`` and every file, verified, below the new folder ``folder``.

        Raises:
            BundleRefused: ``BUNDLE_DIGEST`` or ``BUNDLE_ARCHIVE``; what was written so far is left for the caller.
            TryAgain: ``DISK_TROUBLE``.
            FileExistsError: ``folder`` exists.
        """
        folder.mkdir(parents=True)
        try:
            (folder / MANIFEST).write_bytes(self.manifest_bytes)
            for entry in self.manifest.files:
                target = folder / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                with _reading(self.path), self.open_file(entry) as source, target.open("xb") as sink:
                    while chunk := source.read(CHUNK_BYTES):
                        sink.write(chunk)
                with target.open("rb") as written:
                    _check_digest(entry, *sha256_stream(written))
        except OSError as error:
            raise TryAgain(
                f"The bundle cannot be unpacked into {folder}: {error.strerror or error}.",
                code="DISK_TROUBLE",
                remedy="Free some space or choose another folder.",
            ) from error


def pack(
    path: Path,
    manifest_bytes: bytes,
    files: Mapping[str, Path | bytes],
    metadata: Mapping[str, bytes] | None = None,
) -> Archive:
    """Write a ``.wgb``. Atomic: ``path`` holds the old file or the whole new one.

    Args:
        path: where to.
        manifest_bytes: ``bundle.json``.
        files: path in the bundle -> the file, or its content; exactly the manifest's.
        metadata: trust metadata to carry along, by file name.

    Raises:
        BundleRefused: the content is not what the manifest says.
        OSError: the disk is full, or a file cannot be read.
    """
    manifest = parse_manifest(manifest_bytes)
    if set(files) != {entry.path for entry in manifest.files}:
        _refuse("BUNDLE_FILE_MISSING", "The files given are not those that the manifest names.", _REBUILD)
    scratch = path.with_name(path.name + ".new")
    try:
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED, strict_timestamps=True) as archive:
            archive.writestr(_entry(MANIFEST), manifest_bytes)
            for entry in manifest.files:
                source = files[entry.path]
                if isinstance(source, bytes):
                    archive.writestr(_entry(entry.path), source)
                else:
                    with source.open("rb") as stream, archive.open(_entry(entry.path, entry.length), "w") as sink:
                        while chunk := stream.read(CHUNK_BYTES):
                            sink.write(chunk)
            for name in sorted(metadata or {}):
                archive.writestr(_entry(METADATA + name), (metadata or {})[name])
        _flush(scratch)
        opened = open_archive(scratch)
        opened.verify()
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return Archive(path, opened.manifest, opened.manifest_bytes, opened.metadata)


def add_metadata(archive: Archive, path: Path, metadata: Mapping[str, bytes]) -> Archive:
    """Write ``archive`` again to ``path`` (which may be the same file), carrying ``metadata`` instead of what it had.

    Raises:
        BundleRefused: a file in the archive is damaged.
        OSError: the disk is full.
    """
    scratch = path.with_name(path.name + ".signing")
    try:
        with (
            _reading(archive.path),
            zipfile.ZipFile(archive.path) as source,
            zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as sink,
        ):
            for name in (MANIFEST, *(entry.path for entry in archive.manifest.files)):
                size = source.getinfo(name).file_size
                with source.open(name) as stream, sink.open(_entry(name, size), "w") as written:
                    while chunk := stream.read(CHUNK_BYTES):
                        written.write(chunk)
            for name in sorted(metadata):
                sink.writestr(_entry(METADATA + name), metadata[name])
        _flush(scratch)
        open_archive(scratch).verify()
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return open_archive(path)


def open_archive(path: Path, limits: Limits | None = None) -> Archive:
    """Open a ``.wgb`` and check everything but the digests of its files.

    Raises:
        BundleRefused: ``BUNDLE_ARCHIVE`` (no zip, compressed, encrypted, damaged), ``BUNDLE_PATH`` (escaping,
            absolute, a link, twice), ``BUNDLE_TOO_LARGE``, ``BUNDLE_FILE_MISSING``, ``BUNDLE_FILE_UNLISTED``,
            ``BUNDLE_DIGEST`` (another length than the manifest says), or what ``parse_manifest`` raises.
        OSError: there is no such file.
    """
    limits = limits or Limits()
    total = path.stat().st_size
    with _reading(path), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > limits.files:
            _refuse("BUNDLE_TOO_LARGE", f"The archive has {len(entries)} files; {limits.files} is the limit.")
        _check_entries(entries, limits, total)
        sizes = {entry.filename: entry.file_size for entry in entries}
        if sizes.get(MANIFEST, MAX_MANIFEST_BYTES + 1) > MAX_MANIFEST_BYTES:
            _refuse("BUNDLE_FILE_MISSING", f"The archive holds no {MANIFEST} of an allowed size.")
        manifest_bytes = archive.read(MANIFEST)
        metadata = {name.removeprefix(METADATA): archive.read(name) for name in sizes if name.startswith(METADATA)}
    manifest = parse_manifest(manifest_bytes)
    _check_against(manifest, {name: size for name, size in sizes.items() if not name.startswith(METADATA)})
    return Archive(path, manifest, manifest_bytes, metadata)


def _check_entries(entries: list[zipfile.ZipInfo], limits: Limits, total: int) -> None:
    seen: set[str] = set()
    # Entries that overlap, or claim more than there is, make small archives unpack to large ones.
    if sum(entry.file_size for entry in entries) > min(limits.bytes, total):
        _refuse("BUNDLE_TOO_LARGE", "The archive claims to hold more than it does, or more than is allowed.")
    for entry in entries:
        name = entry.filename
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            _refuse("BUNDLE_ARCHIVE", f"{name!r} is compressed; a bundle's files are stored as they are.")
        if entry.flag_bits & 0x1:
            _refuse("BUNDLE_ARCHIVE", f"{name!r} is encrypted.")
        # zipfile cuts names at NUL and turns other separators round; the name as written must be the name as read.
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.orig_filename != name or not name or entry.is_dir() or kind not in (0, stat.S_IFREG):
            _refuse("BUNDLE_PATH", f"{entry.orig_filename!r} is no plain file.")
        check_path(name)
        if name.casefold() in seen:
            _refuse("BUNDLE_PATH", f"The path {name!r} appears twice.")
        seen.add(name.casefold())
        if name.casefold().startswith(METADATA) and (
            not _METADATA_NAME.match(name) or entry.file_size > MAX_METADATA_BYTES
        ):
            _refuse("BUNDLE_PATH", f"{name!r} is no trust metadata.")


def _check_against(manifest: Manifest, sizes: Mapping[str, int]) -> None:
    named = {entry.path: entry for entry in manifest.files}
    for path, entry in named.items():
        if path.casefold().startswith(METADATA):
            _refuse("BUNDLE_PATH", f"{path!r} lies where trust metadata goes.")
        if path not in sizes:
            _refuse("BUNDLE_FILE_MISSING", f"The archive lacks {path!r}.")
        if sizes[path] != entry.length:
            _check_digest(entry, "", sizes[path])
    for path in sizes:
        if path not in named and path != MANIFEST:
            _refuse("BUNDLE_FILE_UNLISTED", f"The archive holds {path!r}, which the manifest does not name.")


def _check_digest(entry: BundleFile, sha256: str, length: int) -> None:
    if (sha256, length) != (entry.sha256, entry.length):
        raise BundleRefused(
            f"The content of {entry.path!r} is not what the manifest says.",
            code="BUNDLE_DIGEST",
            remedy=_REBUILD,
            details={"path": entry.path, "expected": entry.sha256, "length": length},
        )


def _entry(name: str, size: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_STORED
    info.create_system = 3  # unix, on every platform
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.file_size = size  # lets zipfile choose the 64-bit form beforehand
    return info


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever ``zipfile`` raises over damaged bytes into one refusal; trouble of the disk stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:  # a seek to before the start of the file: an offset was damaged
            raise
        raise _damaged(path, error) from error
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error, OverflowError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> BundleRefused:
    return BundleRefused(f"{path.name} is not a whole bundle archive: {error}.", code="BUNDLE_ARCHIVE", remedy=_REBUILD)


def _refuse(code: str, sentence: str, remedy: str = _REBUILD) -> NoReturn:
    raise BundleRefused(sentence, code=code, remedy=remedy)
