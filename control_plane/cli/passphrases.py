"""Where a key's passphrase or a token's PIN comes from: a file, a variable, or a prompt if there is a terminal.

Never from the command line itself, where every user of the machine could read it.
"""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from bundles.errors import AskPerson
from bundles.trust.signing.remote_signers import Pin
from bundles.trust.signing.signers import Passphrase

VARIABLE = "WAVEGATE_KEY_PASSPHRASE"
PIN_VARIABLE = "WAVEGATE_HSM_PIN"


def existing(file: Path | None) -> Passphrase:
    """Return who answers for the passphrase of a key that exists; it is asked for encrypted keys only."""

    def ask(key: Path) -> bytes | None:
        if (given := _given(file)) is not None:
            return given
        return getpass.getpass(f"Passphrase of {key}: ").encode() if sys.stdin.isatty() else None

    return ask


def pins(file: Path | None) -> Pin:
    """Return who answers for the PIN of a hardware key; it is asked for once a run, and only where it is needed."""
    known: dict[str, str] = {}

    def ask(uri: str) -> str | None:
        if (given := _given(file, PIN_VARIABLE)) is not None:
            return given.decode()
        if uri not in known and sys.stdin.isatty():
            known[uri] = getpass.getpass(f"PIN of {uri}: ")
        return known.get(uri)

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


def _given(file: Path | None, variable: str = VARIABLE) -> bytes | None:
    if file is not None:
        try:
            return file.read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise AskPerson(
                f"The file {file} cannot be read: {error.strerror}.",
                code="KEY_PASSPHRASE" if variable == VARIABLE else "KEY_PIN",
                remedy="Check the path.",
            ) from error
    text = os.environ.get(variable)
    return text.encode() if text else None
