"""Slots: places on disk for one unpacked bundle each, ``slots/<n>``, with files linked to their blobs.

A slot under its number is complete and durable; it is built as ``slots/<n>.part`` and renamed. What a slot holds is
told by the digest of its own ``bundle.json``, so a damaged manifest makes it the slot of nothing anybody names. That
file alone is a copy: one bad byte in the manifest must not cost the list of what else is here. Several models share
the numbers, and update at the same time: whatever takes, gives or lists them holds the store's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from agent.store.blobs import Blobs, blob_path, corrupt, hash_of
from agent.store.files import missing
from bundles.digest import sha256_hex
from bundles.errors import BundleRefused, TryAgain
from bundles.manifest import MAX_MANIFEST_BYTES, BundleFile, Manifest, parse_manifest

MANIFEST = "bundle.json"
_BUILDING = ".part"


@dataclass(frozen=True)
class Slot:
    """A place on disk for one unpacked bundle.

    Attributes:
        number: from 1.
        sha256: bundle digest.
        folder: relative to the store; ``Store.path`` makes it absolute.
    """

    number: int
    sha256: str
    folder: str


class Slots(Blobs):
    """The slots of one device, over its blobs."""

    def manifest(self, sha256: str) -> Manifest:
        """Return the manifest of a bundle, from its slot or its blob; the digest is checked.

        Raises:
            TryAgain: ``STORE_MISSING`` or ``STORE_CORRUPT``.
            BundleRefused: the manifest breaks the format.
        """
        slot = self.slot(sha256)
        if slot:
            return parse_manifest(self._fs.read(f"{slot.folder}/{MANIFEST}"))
        return parse_manifest(self.read_blob(sha256, MAX_MANIFEST_BYTES))

    def slot(self, sha256: str) -> Slot | None:
        """Return the slot that holds a bundle, None where there is none."""
        with self._lock:
            return next((slot for slot in self._places() if slot.sha256 == sha256), None)

    def stage(self, sha256: str, files: Iterable[BundleFile]) -> Slot:
        """Unpack a verified bundle into a slot; durable on return. A slot that holds it already is taken as it is.

        Raises:
            TryAgain: ``DISK_FULL`` (slots are copies on a disk without hard links), ``STORE_MISSING``,
                ``STORE_CORRUPT`` (the manifest; it is removed) or ``STORE_IO``.
        """
        with self._lock:
            return self._stage(sha256, list(files))

    def _stage(self, sha256: str, wanted: list[BundleFile]) -> Slot:
        held = next((slot for slot in self._slots() if slot.sha256 == sha256), None)
        if held and all(self._fs.size(f"{held.folder}/{f.path}") is not None for f in wanted):
            return held
        manifest = self.read_blob(sha256, MAX_MANIFEST_BYTES)
        if not self._fs.has_hard_links():
            self.check_space(sum(entry.length for entry in wanted))
        # A folder whose manifest was damaged since the start is no slot, and in the way all the same.
        taken = {int(name) for name in self._fs.list("slots") if name.isdecimal()}
        number = next(n for n in range(1, len(taken) + 2) if n not in taken)
        folder = f"slots/{number}"
        building = folder + _BUILDING
        self._remove_tree(building)
        folders = self._make_folders(building, wanted)
        for entry in wanted:
            self._fs.link(blob_path(entry.sha256), f"{building}/{entry.path}")
        self._fs.write(f"{building}/{MANIFEST}", manifest)
        self._fs.fsync(f"{building}/{MANIFEST}")
        for inner in sorted(folders, reverse=True):
            self._fs.fsync_dir(inner)
        self._fs.rename(building, folder)
        self._fs.fsync_dir("slots")
        if held:
            self._remove_slot(held)
        return Slot(number, sha256, folder)

    def check_slot(
        self, sha256: str, files: Collection[BundleFile] = (), pause: Callable[[], None] = lambda: None
    ) -> None:
        """Hash what a slot holds again (trust design, step 17).

        Args:
            sha256: bundle digest.
            files: those that must be there; without them, whatever of the bundle is there is hashed.
            pause: as in ``hash_of``.

        Raises:
            TryAgain: ``STORE_MISSING`` or ``STORE_CORRUPT``.
        """
        slot = self.slot(sha256)
        if slot is None:
            raise missing(f"The slot of {sha256}")
        self._check_files(slot.folder, self.manifest(sha256).files, {entry.path for entry in files}, pause)

    def path(self, slot: Slot, file: str) -> str:
        """Return the absolute path of a bundle's file in its slot, for a runtime to open."""
        return str(self._fs.absolute(f"{slot.folder}/{file}"))

    def discard(self, sha256: str) -> None:
        """Remove a bundle's slot, and those of its blobs that do not match their digest."""
        try:
            files = self.manifest(sha256).files
        except (TryAgain, BundleRefused):
            files = []
        with self._lock:
            for slot in self._slots():
                if slot.sha256 == sha256:
                    self._remove_slot(slot)
        for blob in (sha256, *(f.sha256 for f in files)):
            if not self._is_sound(blob):
                self._fs.unlink(blob_path(blob))

    def copies(self, sha256: str, length: int) -> Iterator[str]:
        """Yield where else on this disk the content of a blob should be: in slots, as manifest or named by it."""
        with self._lock:
            places = self._places()
        yield from (f"{slot.folder}/{MANIFEST}" for slot in places if slot.sha256 == sha256)
        for folder in (slot.folder for slot in places):
            try:
                entries = parse_manifest(self._fs.read(f"{folder}/{MANIFEST}")).files
            except (TryAgain, BundleRefused):
                continue
            for path in [entry.path for entry in entries if entry.sha256 == sha256]:
                if self._fs.size(f"{folder}/{path}") == length:
                    yield f"{folder}/{path}"

    def _places(self) -> list[Slot]:
        """Return every place that may hold an unpacked bundle, the numbered slots first."""
        return self._slots()

    def _slots(self) -> list[Slot]:
        numbers = (int(name) for name in self._fs.list("slots") if name.isdecimal())
        return [slot for slot in map(self._slot_at, numbers) if slot]

    def _slot_at(self, number: int) -> Slot | None:
        path = f"slots/{number}/{MANIFEST}"
        size = self._fs.size(path)
        if size is None or size > MAX_MANIFEST_BYTES:
            return None
        return Slot(number, sha256_hex(self._fs.read(path)), f"slots/{number}")

    def _check_files(
        self, folder: str, files: Iterable[BundleFile], needed: Collection[str], pause: Callable[[], None]
    ) -> None:
        for entry in files:
            path = f"{folder}/{entry.path}"
            size = self._fs.size(path)
            if size is None and entry.path in needed:
                raise missing(path)
            if size is not None and (size != entry.length or hash_of(self._fs, path, pause) != entry.sha256):
                raise corrupt(path)

    def _make_folders(self, top: str, files: Iterable[BundleFile]) -> list[str]:
        """Make ``top`` and every folder below it that a file needs; return them, outer ones first."""
        self._fs.mkdir(top)
        folders = [top]
        for entry in files:
            for depth in range(1, entry.path.count("/") + 1):
                inner = f"{top}/{'/'.join(entry.path.split('/')[:depth])}"
                if inner not in folders:
                    self._fs.mkdir(inner)
                    folders.append(inner)
        return folders

    def _remove_slot(self, slot: Slot) -> None:
        # Without its manifest a slot is no slot: a crash after this line leaves rubbish, never half a bundle.
        self._fs.unlink(f"{slot.folder}/{MANIFEST}")
        self._fs.fsync_dir(slot.folder)
        self._remove_tree(slot.folder)

    def _remove_tree(self, path: str) -> None:
        for name in self._fs.list(path):
            inner = f"{path}/{name}"
            if self._fs.is_dir(inner):
                self._remove_tree(inner)
            else:
                self._fs.unlink(inner)
        if self._fs.is_dir(path):
            self._fs.rmdir(path)
