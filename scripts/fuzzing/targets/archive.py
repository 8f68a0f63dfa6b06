"""``.wgb``: nothing leaves the folder it is unpacked into, and nothing but the manifest's files comes out."""

from __future__ import annotations

import os
import random
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from bundles.archive import MANIFEST, Archive, add_metadata, open_archive, pack
from fuzzing.target import Target, released, require, unless_refused
from fuzzing.targets.manifest import check_files
from fuzzing.zips import mutate_zip


def samples() -> dict[str, bytes]:
    """Return the released archives, unsigned and signed."""
    return released("*.wgb")


def try_one(data: bytes) -> None:
    """Open, verify, unpack, and pack again."""
    with tempfile.TemporaryDirectory(prefix="wg-fuzz-") as name:
        folder = Path(name)
        source, out = folder / "b.wgb", folder / "out" / "bundle"
        source.write_bytes(data)
        archive = unless_refused(lambda: open_archive(source))
        if archive is None:
            return
        require(sum(entry.length for entry in archive.manifest.files) <= len(data), "more content than there are bytes")
        check_files([MANIFEST, *(entry.path for entry in archive.manifest.files)])
        is_whole = _succeeds(archive.verify)
        is_unpacked = _succeeds(lambda: archive.unpack(out))
        require(is_whole == is_unpacked, "verifying and unpacking disagree")
        require(set(os.listdir(folder)) <= {"b.wgb", "out"}, "a file outside the folder")  # noqa: PTH208
        require(set(os.listdir(out.parent)) == {"bundle"}, "a file beside the folder")  # noqa: PTH208
        if is_unpacked:
            _check_unpacked(archive, out)
            _check_again(archive, folder)


def _succeeds(step: Callable[[], None]) -> bool:
    def done() -> bool:
        step()
        return True

    return unless_refused(done) is True


def _check_unpacked(archive: Archive, out: Path) -> None:
    found = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if not path.is_dir()}
    require(set(found) == {MANIFEST, *(entry.path for entry in archive.manifest.files)}, "other files than named")
    for entry in archive.manifest.files:
        path = found[entry.path]
        require(stat.S_ISREG(path.lstat().st_mode), f"{entry.path} is no plain file")
        require(archive.read(entry) == path.read_bytes(), f"{entry.path} is read and unpacked differently")


def _check_again(archive: Archive, folder: Path) -> None:
    files: dict[str, Path | bytes] = {entry.path: archive.read(entry) for entry in archive.manifest.files}
    again = pack(folder / "again.wgb", archive.manifest_bytes, files, archive.metadata)
    require((again.manifest_bytes, again.metadata) == (archive.manifest_bytes, archive.metadata), "it changes")
    signed = add_metadata(archive, folder / "signed.wgb", archive.metadata)
    require(signed.path.read_bytes() == again.path.read_bytes(), "the same content gives other bytes")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage the zip's bytes, or write it again with one entry forged."""
    return mutate_zip(data, rng, first=MANIFEST)


TARGET = Target("archive", ("bundles.archive",), samples, try_one, mutate)
