"""The journal's bytes: one ``UpdaterState``, versioned and checked. Leaves putting them on disk to ``store``.

Layout: the sha256 of the rest in hex, a line feed, then JSON ``{"v": 1, "state": {...}}``. A reader keeps silent about
fields it does not know; missing fields take their defaults, so a state written by last year's agent is read.
"""

from __future__ import annotations

import msgspec

from agent.core.state import UpdaterState
from bundles.digest import sha256_hex
from bundles.errors import Refused

JOURNAL_VERSION = 1


class JournalUnreadable(Refused):
    """The journal is damaged (``JOURNAL_CORRUPT``) or from a later agent (``JOURNAL_VERSION``)."""

    default_code = "JOURNAL_CORRUPT"


class _Entry(msgspec.Struct):
    state: UpdaterState
    v: int = JOURNAL_VERSION


class _Version(msgspec.Struct):
    v: int


def encode_state(state: UpdaterState) -> bytes:
    """Return the journal's bytes for ``state``."""
    body = msgspec.json.encode(_Entry(state))
    return sha256_hex(body).encode() + b"\n" + body


def decode_state(data: bytes) -> UpdaterState:
    """Read a journal.

    Raises:
        JournalUnreadable: ``JOURNAL_CORRUPT`` or ``JOURNAL_VERSION``. The caller starts from an empty state and the
            pointer on disk (``Booted.active``).
    """
    digest, _, body = data.partition(b"\n")
    if digest != sha256_hex(body).encode():
        raise JournalUnreadable(
            "The journal does not match its own digest.", remedy="The agent starts from the release on disk."
        )
    try:
        version = msgspec.json.decode(body, type=_Version).v
        if version != JOURNAL_VERSION:
            raise JournalUnreadable(
                f"The journal has version {version}; this agent reads {JOURNAL_VERSION}.",
                code="JOURNAL_VERSION",
                remedy="Install the agent that wrote it, or let this one start from the release on disk.",
            )
        return msgspec.json.decode(body, type=_Entry).state
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JournalUnreadable(
            f"The journal cannot be read: {error}.", remedy="The agent starts from the release on disk."
        ) from error
