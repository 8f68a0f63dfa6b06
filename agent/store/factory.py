"""The factory bundle of each model: what a device was made with, and answers where nothing else is sound.

It lies unpacked in ``factory/<bundle digest>``, as copies of its own: no link ties it to a blob, so what damages a slot
leaves it whole, and no collection of garbage looks there. A folder under its digest is complete and durable; it is
built as ``factory/<digest>.part`` and renamed. Only placing another factory bundle of the same model removes it.
Whether a bundle may become one is for the caller to have asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from agent.core.state import Release
from agent.store.blobs import corrupt
from agent.store.slots import MANIFEST, Slot, Slots
from bundles.digest import is_sha256, sha256_hex
from bundles.errors import BundleRefused, TryAgain
from bundles.manifest import MAX_MANIFEST_BYTES, BundleFile, Manifest, parse_manifest

FACTORY = "factory"
FACTORY_SLOT = 0
"""The number of a slot that is a factory bundle's folder; numbered slots begin at 1."""
_BUILDING = ".part"


class Factories(Slots):
    """The factory bundles of one device, beside its slots."""

    def factory(self, model: str) -> Release | None:
        """Return the factory release of ``model``, None where there is none that can be read.

        Its files are hashed when it is served, not here. Its variant is unknown: the caller chooses it again.
        """
        found = [(slot, manifest) for slot, manifest in self._factories() if manifest.model_key == model]
        if not found:
            return None
        # Two only where power failed while one replaced the other.
        slot, manifest = max(found, key=lambda one: (one[1].release_counter, one[0].sha256))
        length = self._fs.size(f"{slot.folder}/{MANIFEST}") or 0
        return Release(manifest.target_path, slot.sha256, length, manifest.release_counter, manifest.version)

    def check_factory(self, sha256: str, files: Collection[BundleFile]) -> None:
        """Hash ``files`` of a factory bundle again, in its own folder.

        Raises:
            TryAgain: ``STORE_MISSING`` or ``STORE_CORRUPT``.
        """
        self._check_files(f"{FACTORY}/{sha256}", files, {entry.path for entry in files}, lambda: None)

    def factory_models(self) -> list[str]:
        """Return the models (``team/model``) that have a factory release."""
        return sorted({manifest.model_key for _, manifest in self._factories()})

    def is_factory(self, sha256: str) -> bool:
        """Whether a bundle is a factory bundle of this device."""
        return any(slot.sha256 == sha256 for slot in self._factory_slots())

    def place_factory(
        self, manifest_bytes: bytes, files: Collection[BundleFile], pieces: Callable[[BundleFile], Iterable[bytes]]
    ) -> Release:
        """Place a bundle as the factory release of its model; durable on return. Twice ends the same way.

        Args:
            manifest_bytes: ``bundle.json``, which the caller has found allowed here.
            files: those of its files that this device may need.
            pieces: yields a file's content.

        Raises:
            BundleRefused: the manifest breaks the format.
            TryAgain: ``DISK_FULL``, ``STORE_IO``, or ``STORE_CORRUPT``: the content is not what the manifest says, or
                the disk did not keep it. What was the factory release before still is.
        """
        manifest, sha256 = parse_manifest(manifest_bytes), sha256_hex(manifest_bytes)
        folder = f"{FACTORY}/{sha256}"
        if not self._fs.is_dir(FACTORY):
            self._fs.mkdir(FACTORY)
            self._fs.fsync_dir(".")
        with self._lock:
            if not self._is_whole(sha256, files):
                self.check_space(len(manifest_bytes) + sum(entry.length for entry in files))
                self._build_factory(folder + _BUILDING, manifest_bytes, files, pieces)
                self.check_factory(sha256 + _BUILDING, files)
                self._remove_tree(folder)  # placed before and damaged since
                self._fs.rename(folder + _BUILDING, folder)
                self._fs.fsync_dir(FACTORY)
            for slot, other in self._factories():
                if other.model_key == manifest.model_key and slot.sha256 != sha256:
                    self._remove_slot(slot)
            self._fs.fsync_dir(FACTORY)
        placed = self.factory(manifest.model_key)
        if placed is None:
            raise corrupt(folder)
        return placed

    def _build_factory(
        self,
        folder: str,
        manifest_bytes: bytes,
        files: Collection[BundleFile],
        pieces: Callable[[BundleFile], Iterable[bytes]],
    ) -> None:
        self._remove_tree(folder)
        folders = self._make_folders(folder, files)
        for entry in files:
            path = f"{folder}/{entry.path}"
            self._fs.write(path, b"")
            for piece in pieces(entry):
                self._fs.append(path, piece)
            self._fs.fsync(path)
        self._fs.write(f"{folder}/{MANIFEST}", manifest_bytes)
        self._fs.fsync(f"{folder}/{MANIFEST}")
        for inner in reversed(folders):
            self._fs.fsync_dir(inner)

    def _is_whole(self, sha256: str, files: Collection[BundleFile]) -> bool:
        if not self._holds_manifest(f"{FACTORY}/{sha256}", sha256):
            return False
        try:
            self.check_factory(sha256, files)
        except TryAgain:
            return False
        return True

    def _open_factory(self) -> None:
        for name in self._fs.list(FACTORY):
            if not is_sha256(name):
                self._remove_tree(f"{FACTORY}/{name}")  # half made when power failed

    def _places(self) -> list[Slot]:
        """Return the numbered slots, then the factory's folders."""
        return [*self._slots(), *self._factory_slots()]

    def _factory_slots(self) -> list[Slot]:
        return [
            Slot(FACTORY_SLOT, name, f"{FACTORY}/{name}")
            for name in self._fs.list(FACTORY)
            if is_sha256(name) and self._holds_manifest(f"{FACTORY}/{name}", name)
        ]

    def _holds_manifest(self, folder: str, sha256: str) -> bool:
        size = self._fs.size(f"{folder}/{MANIFEST}")
        if size is None or size > MAX_MANIFEST_BYTES:
            return False
        return sha256_hex(self._fs.read(f"{folder}/{MANIFEST}")) == sha256

    def _factories(self) -> list[tuple[Slot, Manifest]]:
        found = []
        with self._lock:
            for slot in self._factory_slots():
                try:
                    found.append((slot, parse_manifest(self._fs.read(f"{slot.folder}/{MANIFEST}"))))
                except BundleRefused:
                    continue  # of a later format: an agent that was put back to an earlier one cannot serve it
        return found
