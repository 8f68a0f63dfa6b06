"""What a device may fetch, by whichever door: any blob, while it is enrolled; trust metadata, which is public."""

from __future__ import annotations

import re
from pathlib import Path

from sqlmodel import Session

from control_plane.db.tables import Device
from control_plane.errors import NotFound
from control_plane.services import enrolment

_METADATA_NAME = re.compile(r"(?:\d{1,9}\.[a-z0-9][a-z0-9._-]{0,80}|timestamp)\.json\Z")


def check_active(session: Session, device: str) -> Device:
    """Return the row of a device that may log in.

    Raises:
        NotAllowed: ``DEVICE_REVOKED``.
    """
    row = session.get(Device, device)
    if row is None or row.state not in enrolment.ACTIVE_STATES:
        raise enrolment.revoked(device)
    return row


def read_metadata(folder: Path, name: str) -> bytes:
    """Return a file of trust metadata.

    Args:
        folder: where it is published.
        name: such as ``timestamp.json`` or ``3.targets.json``.

    Raises:
        NotFound: ``METADATA_NOT_FOUND``.
    """
    path = folder / name
    if not _METADATA_NAME.match(name) or not path.is_file():
        raise NotFound(f"No metadata is called {name!r}.", code="METADATA_NOT_FOUND", remedy="Ask for another.")
    return path.read_bytes()
