"""What is on the device's disk: blobs, slots, the pointer to the active slot, the journal, factory bundles.

``Store`` is the room; ``FileSystem`` is the few operations it needs of a disk, ``LocalFileSystem`` the real one.
"""

from agent.store.blobs import BlobPart
from agent.store.files import FileSystem, LocalFileSystem
from agent.store.slots import Slot
from agent.store.store import Store

__all__ = ["BlobPart", "FileSystem", "LocalFileSystem", "Slot", "Store"]
