"""Blobs, slots, pointer and journal of one device, each step durable before it returns.

Layout, relative to the agent's folder::

    blobs/sha256/<hex>        whole, durable content
    blobs/part/<hex>          content on its way in
    slots/<n>/                one unpacked bundle: bundle.json, and the files this device needs, linked to their blobs
    current.<team>+<model>    which slot answers: {"v": 1, "slot": n, "sha256": bundle digest}
    journal/<team>+<model>    the updater's state
    factory/<hex>             what the device was made with (see ``factory``)

Rules: names appear by rename, after their content was made durable, and the folder after them; a slot under its number
is complete; nothing that a pointer names is ever collected. Says nothing about *when*: that is the updater's.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import suppress

import msgspec

from agent.core.state import Release
from agent.store.blobs import PART, WHOLE, blob_path
from agent.store.factory import Factories
from agent.store.files import FileSystem, missing
from agent.store.slots import MANIFEST, Slot
from bundles.digest import canonical_json
from bundles.errors import BundleRefused, TryAgain

RESERVE_BYTES = 64 * 1024 * 1024
"""Kept free for journals, the spool and the rest of the device."""
POINTER_VERSION = 1
_TEMPORARY = ".tmp"


class _Pointer(msgspec.Struct):
    slot: int
    sha256: str
    v: int = POINTER_VERSION


class Store(Factories):
    """One device's store. Safe to use from several threads as long as one model has one thread at a time."""

    def __init__(self, fs: FileSystem, reserve_bytes: int = RESERVE_BYTES) -> None:
        super().__init__(fs, reserve_bytes)

    def open(self) -> None:
        """Make the folders and clear away what a crash left half made.

        Raises:
            TryAgain: ``DISK_FULL`` or ``STORE_IO``.
        """
        for folder in ("blobs", WHOLE, PART, "slots", "journal"):
            if not self._fs.is_dir(folder):
                self._fs.mkdir(folder)
                self._fs.fsync_dir(_parent(folder))
        for folder in (".", "journal"):
            for name in self._fs.list(folder):
                if name.endswith(_TEMPORARY) and (folder == "journal" or name.startswith("current.")):
                    self._fs.unlink(f"{folder}/{name}")
        for name in self._fs.list("slots"):
            if not name.isdecimal() or self._slot_at(int(name)) is None:
                self._remove_tree(f"slots/{name}")
        self._open_factory()

    # --- journal ---

    def models(self) -> list[str]:
        """Return the models (``team/model``) of this device: by a journal, a pointer or a factory bundle."""
        journals = [name for name in self._fs.list("journal") if not name.endswith(_TEMPORARY)]
        names = [name.replace("+", "/") for name in (*journals, *self._pointed()) if name.count("+") == 1]
        return sorted({*names, *self.factory_models()})

    def load_journal(self, model: str) -> bytes | None:
        """Return the journal's bytes, None where the model has none."""
        path = f"journal/{_file_name(model)}"
        return None if self._fs.size(path) is None else self._fs.read(path)

    def save_journal(self, model: str, data: bytes) -> None:
        """Replace the model's journal; durable on return, the old one intact on error.

        Raises:
            TryAgain: ``DISK_FULL`` or ``STORE_IO``.
        """
        self._replace(f"journal/{_file_name(model)}", data)

    # --- pointer ---

    def active(self, model: str) -> str | None:
        """Return the digest of the bundle that the pointer names, None where there is none that can be read."""
        pointer = self._pointer(_file_name(model))
        return pointer.sha256 if pointer else None

    def active_release(self, model: str) -> Release | None:
        """Return the active release as its own manifest tells it, for an agent whose journal is lost.

        Its variant is unknown: the caller chooses it again.
        """
        sha256 = self.active(model)
        try:
            manifest = self.manifest(sha256) if sha256 else None
        except (TryAgain, BundleRefused):
            return None
        if manifest is None or sha256 is None:
            return None
        slot = self.slot(sha256)
        length = self._fs.size(f"{slot.folder}/{MANIFEST}" if slot else blob_path(sha256))
        return Release(manifest.target_path, sha256, length or 0, manifest.release_counter, manifest.version)

    def activate(self, model: str, sha256: str) -> Slot:
        """Point the model at the slot of a bundle: the one step that decides what answers after a power cut.

        Raises:
            TryAgain: ``STORE_MISSING`` (no such slot), ``DISK_FULL`` or ``STORE_IO``; the pointer is the old one then.
        """
        slot = self.slot(sha256)
        if slot is None:
            raise missing(f"The slot of {sha256}")
        wanted = _Pointer(slot.number, sha256)
        if self._pointer(_file_name(model)) != wanted:
            self._replace(f"current.{_file_name(model)}", canonical_json(wanted))
        return slot

    def deactivate(self, model: str) -> None:
        """Take the pointer away: nothing of this model answers."""
        self._fs.unlink(f"current.{_file_name(model)}")
        self._fs.fsync_dir(".")

    def _pointed(self) -> list[str]:
        head = "current."
        names = self._fs.list(".")
        return [n.removeprefix(head) for n in names if n.startswith(head) and not n.endswith(_TEMPORARY)]

    def _pointer(self, name: str) -> _Pointer | None:
        path = f"current.{name}"
        if self._fs.size(path) is None:
            return None
        try:
            pointer = msgspec.json.decode(self._fs.read(path), type=_Pointer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return pointer if pointer.v == POINTER_VERSION else None

    # --- garbage ---

    def still(self) -> threading.RLock:
        """Return the store's lock: while it is held nothing is staged, collected or begun to be brought."""
        return self._lock

    def only_in(self, sha256: str, others: Collection[str]) -> int:
        """Return how many more bytes would be free without a bundle, what it shares with ``others`` not counted."""
        needed: set[str] = set()
        for other in others:
            with suppress(TryAgain, BundleRefused):
                needed.update(entry.sha256 for entry in self.manifest(other).files)
        try:
            files = {entry.sha256 for entry in self.manifest(sha256).files}
        except (TryAgain, BundleRefused):
            return 0
        copies = 1 if self._fs.has_hard_links() else 2  # a blob, and the slot's own
        return copies * sum(self.held_bytes(blob) for blob in files - needed)

    def collect_garbage(self, keep: Collection[str]) -> None:
        """Remove slots and blobs of bundles that are neither in ``keep`` nor named by a pointer.

        Args:
            keep: bundle digests: the union of ``UpdaterState.retained`` over *all* models of the device.
        """
        with self._lock:  # nothing is staged, and no download begins, between the look and the removal
            self._collect(keep)

    def _collect(self, keep: Collection[str]) -> None:
        # Listed before what is needed is known: whatever another model's download adds from here on is not looked at.
        held = [f"{folder}/{name}" for folder in (WHOLE, PART) for name in self._fs.list(folder)]
        kept = set(keep) | {p.sha256 for p in map(self._pointer, self._pointed()) if p}
        needed = kept | {entry.sha256 for entry in self._coming}
        for sha256 in kept:
            try:
                needed.update(f.sha256 for f in self.manifest(sha256).files)
            except (TryAgain, BundleRefused):
                continue  # on its way in: nothing but the manifest is known yet
        for slot in self._slots():
            if slot.sha256 not in kept:
                self._remove_slot(slot)
        for path in held:
            if path.rpartition("/")[2] not in needed:
                self._fs.unlink(path)

    def _replace(self, path: str, data: bytes) -> None:
        temporary = path + _TEMPORARY
        self._fs.write(temporary, data)
        self._fs.fsync(temporary)
        self._fs.rename(temporary, path)
        self._fs.fsync_dir(_parent(path))


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "."


def _file_name(model: str) -> str:
    team, _, name = model.partition("/")
    if not team or not name or "/" in name or "+" in model or team.startswith(".") or name.startswith("."):
        raise ValueError(f"{model!r} is no team/model")
    return f"{team}+{name}"
