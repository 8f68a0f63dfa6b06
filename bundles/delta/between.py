"""The deltas between the files of two archives: measured for people, or written out. The server makes its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundles.archive import Archive
from bundles.delta.base import base_for
from bundles.delta.files import FileBytes, opened
from bundles.delta.form import MIN_FILE_BYTES, OFFERED_RATIO
from bundles.delta.make import make_delta
from bundles.digest import CHUNK_BYTES
from bundles.manifest import BundleFile


@dataclass(frozen=True)
class FileDelta:
    """The delta of one file that changed.

    Attributes:
        path: in the new bundle.
        old_path: of its base in the old one.
        new_bytes: length of the new file.
        delta_bytes: length of the delta.
        is_offered: whether a server would offer it to devices.
        file: where it was written, None where it was only measured.
    """

    path: str
    old_path: str
    new_bytes: int
    delta_bytes: int
    is_offered: bool
    file: Path | None = None

    @property
    def ratio(self) -> float:
        """The delta's share of the new file."""
        return self.delta_bytes / self.new_bytes if self.new_bytes else 1.0


def deltas_between(old: Archive, new: Archive, out: Path | None = None) -> list[FileDelta]:
    """Make the delta of each file of ``new`` that has a base in ``old``; takes about a second for 8 MB of model.

    Args:
        old: what a device has.
        new: what it is to have.
        out: folder to write ``<old sha256>-<new sha256>.wgd`` into; None = only measure.

    Raises:
        BundleRefused: an archive is damaged.
        OSError: ``out`` cannot be written to.
    """
    found = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="delta-", dir=out) as scratch:
        for entry in new.manifest.files:
            base = base_for(entry, new.manifest, old.manifest)
            if base is not None:
                found.append(_delta(old, base, new, entry, Path(scratch), out))
    return found


def _delta(
    old: Archive, base: BundleFile, new: Archive, entry: BundleFile, scratch: Path, out: Path | None
) -> FileDelta:
    made_file = scratch / "delta"
    with ExitStack() as stack:
        before = stack.enter_context(_unpacked(old, base, scratch / "old"))
        after = stack.enter_context(_unpacked(new, entry, scratch / "new"))
        with made_file.open("wb") as sink:
            # People want to see a delta that is not worth it as well: the bound is that of the form, not of the offer.
            made = make_delta(before, after, sink, max_bytes=2 * entry.length + 4096)
    length = made.length if made else 2 * entry.length
    is_offered = entry.length >= MIN_FILE_BYTES and length <= OFFERED_RATIO * entry.length
    file = out / f"{base.sha256}-{entry.sha256}.wgd" if out is not None and made is not None else None
    if file is not None:
        made_file.replace(file)
    return FileDelta(entry.path, base.path, entry.length, length, is_offered, file)


@contextmanager
def _unpacked(archive: Archive, entry: BundleFile, path: Path) -> Iterator[FileBytes]:
    with archive.open_file(entry) as source, path.open("wb") as sink:
        shutil.copyfileobj(source, sink, CHUNK_BYTES)
    with opened(path) as data:
        yield data
