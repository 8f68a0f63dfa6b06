"""Where a key's passphrase comes from: a file, ``WAVEGATE_KEY_PASSPHRASE``, or a prompt if there is a terminal."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from bundles.errors import AskPerson
from bundles.trust.signers import Passphrase

VARIABLE = "WAVEGATE_KEY_PASSPHRASE"


def existing(file: Path | None) -> Passphrase:
    """Return who answers for the passphrase of a key that exists; it is asked for encrypted keys only."""

    def ask(key: Path) -> bytes | None:
        if (given := _given(file)) is not None:
            return given
        return getpass.getpass(f"Passphrase of {key}: ").encode() if sys.stdin.isatty() else None

    return ask


def fresh(file: Path | None, *, plain: bool) -> bytes | None:
    """Return the passphrase new keys are to be protected with; None where ``plain`` says so.

    Raises:
        AskPerson: ``KEY_PASSPHRASE``: none is known, the two entries differ, or it is too short.
    """
    if plain:
        return None
    given = _given(file)
    if given is None and sys.stdin.isatty():
        given = getpass.getpass("Passphrase for the new keys: ").encode()
        if getpass.getpass("Once more: ").encode() != given:
            raise AskPerson("The two entries differ.", code="KEY_PASSPHRASE", remedy="Try again.")
    if given is None or len(given) < 8:
        raise AskPerson(
            "New keys need a passphrase of at least 8 characters.",
            code="KEY_PASSPHRASE",
            remedy=f"Set {VARIABLE}, use --passphrase-file, or --plain for keys that protect nothing.",
        )
    return given


def _given(file: Path | None) -> bytes | None:
    if file is not None:
        try:
            return file.read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise AskPerson(
                f"The passphrase file {file} cannot be read: {error.strerror}.",
                code="KEY_PASSPHRASE",
                remedy="Check the path.",
            ) from error
    text = os.environ.get(VARIABLE)
    return text.encode() if text else None
