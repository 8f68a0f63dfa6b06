"""Slots: places on disk for one unpacked bundle each, ``slots/<n>``, with files linked to their blobs.

A slot under its number is complete and durable; it is built as ``slots/<n>.part`` and renamed. What a slot holds is
told by the digest of its own ``bundle.json``, so a damaged manifest makes it no slot at all.
"""

from __future__ import annotations

from collections.abc import Iterable
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
        return next((slot for slot in self._slots() if slot.sha256 == sha256), None)

    def stage(self, sha256: str, files: Iterable[BundleFile]) -> Slot:
        """Unpack a verified bundle into a slot; durable on return. A slot that holds it already is taken as it is.

        Raises:
            TryAgain: ``DISK_FULL``, ``STORE_MISSING`` or ``STORE_IO``.
        """
        wanted = [BundleFile(MANIFEST, sha256, 0, "other"), *files]
        held = self.slot(sha256)
        if held and all(self._fs.size(f"{held.folder}/{f.path}") is not None for f in wanted):
            return held
        taken = {slot.number for slot in self._slots()}
        number = next(n for n in range(1, len(taken) + 2) if n not in taken)
        folder = f"slots/{number}"
        building = folder + _BUILDING
        self._remove_tree(building)
        self._fs.mkdir(building)
        folders = {building}
        for entry in wanted:
            for depth in range(1, entry.path.count("/") + 1):
                inner = f"{building}/{'/'.join(entry.path.split('/')[:depth])}"
                if inner not in folders:
                    self._fs.mkdir(inner)
                    folders.add(inner)
            self._fs.link(blob_path(entry.sha256), f"{building}/{entry.path}")
        for inner in sorted(folders, reverse=True):
            self._fs.fsync_dir(inner)
        self._fs.rename(building, folder)
        self._fs.fsync_dir("slots")
        if held:
            self._remove_slot(held)
        return Slot(number, sha256, folder)

    def check_slot(self, sha256: str) -> None:
        """Hash what a slot holds again (trust design, step 17).

        Raises:
            TryAgain: ``STORE_MISSING`` or ``STORE_CORRUPT``.
        """
        slot = self.slot(sha256)
        if slot is None:
            raise missing(f"The slot of {sha256}")
        for entry in self.manifest(sha256).files:
            path = f"{slot.folder}/{entry.path}"
            if self._fs.size(path) is not None and hash_of(self._fs, path) != entry.sha256:
                raise corrupt(path)

    def path(self, slot: Slot, file: str) -> str:
        """Return the absolute path of a bundle's file in its slot, for a runtime to open."""
        return str(self._fs.absolute(f"{slot.folder}/{file}"))

    def discard(self, sha256: str) -> None:
        """Remove a bundle's slot, and those of its blobs that do not match their digest."""
        try:
            files = self.manifest(sha256).files
        except (TryAgain, BundleRefused):
            files = []
        slot = self.slot(sha256)
        if slot:
            self._remove_slot(slot)
        for blob in (sha256, *(f.sha256 for f in files)):
            if not self._is_sound(blob):
                self._fs.unlink(blob_path(blob))

    def _slots(self) -> list[Slot]:
        numbers = (int(name) for name in self._fs.list("slots") if name.isdecimal())
        return [slot for slot in map(self._slot_at, numbers) if slot]

    def _slot_at(self, number: int) -> Slot | None:
        path = f"slots/{number}/{MANIFEST}"
        size = self._fs.size(path)
        if size is None or size > MAX_MANIFEST_BYTES:
            return None
        return Slot(number, sha256_hex(self._fs.read(path)), f"slots/{number}")

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
