"""The server's data folder: what lies where in it, and that one server at a time has it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bundles.errors import AskPerson
from control_plane.broker.configuration import BrokerFiles


@dataclass(frozen=True)
class Folder:
    """Where the server keeps what is its own."""

    path: Path

    @property
    def keys(self) -> Path:
        """Online keys and the two authorities, 0700."""
        return self.path / "keys"

    @property
    def metadata(self) -> Path:
        """Published trust metadata."""
        return self.path / "metadata"

    @property
    def broker(self) -> BrokerFiles:
        """The private broker's files."""
        return BrokerFiles((self.path / "broker").absolute())


@contextlib.contextmanager
def own(folder: Folder) -> Iterator[None]:
    """Hold the data folder: one server at a time.

    Raises:
        AskPerson: ``FOLDER_IN_USE``, or ``FOLDER`` where it cannot be made.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.path / "server.lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise AskPerson(
            f"Another server is running on {folder.path}.",
            code="FOLDER_IN_USE",
            remedy="Stop it first, or choose another folder with --dir.",
        ) from error
    except OSError as error:
        raise AskPerson(
            f"The folder {folder.path} cannot be used: {error.strerror}.", code="FOLDER", remedy="Choose another --dir."
        ) from error
    try:
        yield
    finally:
        lock.release()
