"""What a key has signed, kept beside the key, so that its holder never vouches for two versions of the truth.

A server that was taken over can show its people an old repository and have them sign a version a second time with
other content; an event that passes through many hands can be swapped for another of the same version. Nothing in the
event tells the holder. This journal does: it lives with the key (``signed.json`` in the key's folder), not with the
server. It holds versions and digests only, nothing secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from tuf.api.metadata import Metadata, Root, Targets

from bundles.digest import sha256_hex
from bundles.errors import AskPerson
from bundles.trust.durable import read_if_there, write_durably
from bundles.trust.roles import parse_root, parse_targets, split_file

JOURNAL = "signed.json"
MAX_DIGESTS = 16
"""Drafts of one version that are remembered: the newest."""


class Signed(msgspec.Struct, frozen=True):
    """The newest version of a role that a key signed.

    Attributes:
        version: of the role.
        digests: of what was signed under that version (sha256 of the signed part), oldest first.
    """

    version: int
    digests: list[str]


Book = dict[str, dict[str, Signed]]
"""Key id -> role -> the newest that this key signed of it."""


class _Journal(msgspec.Struct, frozen=True):
    keys: Book
    v: int = 1


def read_book(path: Path) -> Book:
    """Read the journal in ``path``; empty where there is none yet.

    Raises:
        AskPerson: ``KEY_JOURNAL``: it cannot be read; nothing is signed without it.
    """
    try:
        data = read_if_there(path)
        return msgspec.json.decode(data, type=_Journal).keys if data is not None else {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AskPerson(
            f"What this key signed before cannot be read in {path}: {error}.",
            code="KEY_JOURNAL",
            remedy="Restore that file from a copy. Moving it away makes the key forget what it signed.",
        ) from error


def write_book(path: Path, book: Book) -> None:
    """Write the journal durably, before any signature it tells of leaves.

    Raises:
        AskPerson: ``KEY_JOURNAL``: the place cannot be written.
    """
    try:
        write_durably(path, msgspec.json.format(msgspec.json.encode(_Journal(book)), indent=2) + b"\n", mode=0o600)
    except OSError as error:
        raise AskPerson(
            f"What this key signs cannot be written down in {path}: {error.strerror or error}.",
            code="KEY_JOURNAL",
            remedy="Make that folder writable, or name another file with --journal and keep it with the key.",
        ) from error


def enter(book: Book, asked: Mapping[str, list[str]], files: Mapping[str, bytes], *, instead: bool) -> Book:
    """Return ``book`` with what is about to be signed.

    Args:
        book: what was signed before.
        asked: file name -> ids of the keys that are about to sign it.
        files: the event: name -> bytes.
        instead: sign another content under the newest version signed before: what that was must have been thrown away.

    Raises:
        AskPerson: ``KEY_SIGNED_BEFORE``: a key signed a newer version, or this one with other content.
        TrustRefused: a file is not readable or not of its name.
    """
    after = {keyid: dict(roles) for keyid, roles in book.items()}
    for name, keyids in asked.items():
        role, version = split_file(name)
        digest = sha256_hex(_parse(name, files[name]).signed_bytes)
        for keyid in keyids:
            before = after.setdefault(keyid, {}).get(role)
            if before is None or before.version < version:
                after[keyid][role] = Signed(version, [digest])
            elif before.version > version:
                _refuse(keyid, role, version, before.version)
            elif digest not in before.digests:
                if not instead:
                    _refuse(keyid, role, version, before.version)
                after[keyid][role] = Signed(version, [*before.digests, digest][-MAX_DIGESTS:])
    return after


def _refuse(keyid: str, role: str, version: int, before: int) -> None:
    if version < before:
        sentence = f"The key {keyid[:12]} signed version {before} of {role} before; this is version {version}."
        remedy = (
            "Somebody may be showing you an old repository: ask the others by another way. Only where a server was "
            "restored from a backup, move the journal (signed.json) away and sign."
        )
    else:
        sentence = f"The key {keyid[:12]} signed version {version} of {role} before, with other content."
        remedy = "If that one was thrown away and nobody can publish it, sign with `wavegate trust sign --instead`."
    raise AskPerson(
        sentence,
        code="KEY_SIGNED_BEFORE",
        remedy=remedy,
        details={"key": keyid, "role": role, "version": version, "before": before},
    )


def _parse(name: str, data: bytes) -> Metadata[Root] | Metadata[Targets]:
    return parse_root(name, data) if split_file(name)[0] == "root" else parse_targets(name, data)
