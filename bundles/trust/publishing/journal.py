"""Publishing a new root in one step, though it takes several files.

Without a new root, ``timestamp.json`` is the switch: whatever else was written before it is not looked at. A root has
no such switch, devices ask for its next version by name, and a root that names other online keys fits the new
timestamp only. So everything is first written into one journal; a crash after that is completed on the next opening.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from bundles.trust.durable import flush_folder, read_if_there, write_durably
from bundles.trust.roles import split_file

JOURNAL = "publishing.journal"
"""Its name ends unlike metadata, so it is never served."""


def write_with_journal(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` (names -> content) into ``folder``: after a crash either none of them counts or all do.

    Raises:
        OSError: the disk is full. Where the journal was written already, the next ``complete_journal`` goes on.
    """
    write_durably(folder / JOURNAL, msgspec.json.encode(dict(files)))
    _finish(folder, files)


def complete_journal(folder: Path) -> bool:
    """Complete what broke off, if anything did; return whether it had to.

    Raises:
        OSError: the folder cannot be written.
    """
    data = read_if_there(folder / JOURNAL)
    if data is None:
        return False
    _finish(folder, msgspec.json.decode(data, type=dict[str, bytes]))
    return True


def _finish(folder: Path, files: Mapping[str, bytes]) -> None:
    # Roots and the timestamp last and together: the shorter between them, the fewer devices have to ask again.
    for name in sorted(files, key=_order):
        write_durably(folder / name, files[name])
    (folder / JOURNAL).unlink()
    flush_folder(folder)


def _order(name: str) -> tuple[int, int, str]:
    role, version = split_file(name)
    return {"root": 1, "timestamp": 2}.get(role, 0), version, name
