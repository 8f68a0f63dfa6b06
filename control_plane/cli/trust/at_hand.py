"""The keys named on a command line: opened, and each with the journal of what it signed before.

No command adds a signature but through here, so no key signs two contents of one version unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from control_plane.cli.output import say

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

    from bundles.trust.publishing.state import State
    from bundles.trust.signing.signed_before import Book


@dataclass(frozen=True)
class KeyAtHand:
    """A key that can sign now.

    Attributes:
        signer: the key, opened.
        journal: file that remembers what it signed.
    """

    signer: Signer
    journal: Path

    @property
    def public_key(self) -> Key:
        """Its public half."""
        return self.signer.public_key


def open_keys(
    places: Sequence[str] | None,
    publics: Sequence[Path] | None,
    passphrase_file: Path | None,
    pin_file: Path | None,
    journal: Path | None = None,
) -> list[KeyAtHand]:
    """Open the keys named on the command line; passphrases and PINs come from files, variables or the terminal.

    Args:
        places: key files and URIs.
        publics: public halves of the URIs among ``places``, in their order.
        passphrase_file: as ``passphrases.existing``.
        pin_file: as ``passphrases.pins``.
        journal: what the keys signed before; default: ``signed.json`` in the folder of each key (or, for a key that
            is no file, of its public half; where none is given, in this person's configuration folder).

    Raises:
        AskPerson: a key cannot be opened.
        OSError: the configuration folder cannot be made.
    """
    from bundles.trust.signing.remote_signers import is_remote
    from bundles.trust.signing.signed_before import JOURNAL
    from bundles.trust.signing.signers import load_public, open_signer
    from control_plane.cli import profiles
    from control_plane.cli.passphrases import existing, pins

    known = iter(publics or ())
    opened = []
    for place in places or ():
        half = next(known, None) if is_remote(place) else None
        public = load_public(half) if half is not None else None
        signer = open_signer(place, public=public, passphrase=existing(passphrase_file), pin=pins(pin_file))
        if not is_remote(place):
            folder = Path(place.removeprefix("file2:").removeprefix("file:")).parent
        elif half is not None:
            folder = half.parent
        else:
            folder = profiles.path().parent
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened.append(KeyAtHand(signer, journal or folder / JOURNAL))
    return opened


def sign_noted(
    state: State | None, files: Mapping[str, bytes], keys: Sequence[KeyAtHand], *, instead: bool
) -> dict[str, bytes]:
    """Return ``files`` with the signatures of ``keys``, after noting durably what each of them signs.

    Args:
        state: the verified state; None for the first metadata of a repository.
        files: the event: name -> bytes.
        keys: each signs every file that it is asked for.
        instead: as ``signed_before.enter``.

    Raises:
        AskPerson: ``KEY_SIGNED_BEFORE`` or ``KEY_JOURNAL``; as ``signatures.add_signatures``.
        TrustRefused: a file is not readable or not of its name.
    """
    from bundles.trust.signing.signatures import add_signatures, who_signs

    holders = {key.public_key.keyid for key in keys}
    asked = {
        one.name: sorted(holders & {keyid for quorum in one.quorums for keyid in quorum.keyids})
        for one in who_signs(state, files)
    }
    books = _entered(keys, asked, files, instead=instead)
    signed = add_signatures(state, files, [key.signer for key in keys])
    _write(books)
    return signed


def note(keys: Sequence[KeyAtHand], files: Mapping[str, bytes], *, instead: bool) -> None:
    """Note durably that every one of ``keys`` has signed all of ``files``, before those are handed out.

    Raises:
        AskPerson: ``KEY_SIGNED_BEFORE`` or ``KEY_JOURNAL``.
    """
    asked = {name: [key.public_key.keyid for key in keys] for name in files}
    _write(_entered(keys, asked, files, instead=instead))


def _entered(
    keys: Sequence[KeyAtHand], asked: Mapping[str, list[str]], files: Mapping[str, bytes], *, instead: bool
) -> dict[Path, Book]:
    from bundles.trust.signing.signed_before import enter, read_book

    books: dict[Path, Book] = {}
    for path in {key.journal for key in keys}:
        mine = {key.public_key.keyid for key in keys if key.journal == path}
        here = {name: [keyid for keyid in keyids if keyid in mine] for name, keyids in asked.items()}
        before = read_book(path)
        books[path] = enter(before, here, files, instead=instead)
        _warn_of_second(before, books[path])
    return books


def _warn_of_second(before: Book, after: Book) -> None:
    """Say where a key signs a version a second time: a draft thrown away, or a server that shows an old state."""
    for keyid, roles in before.items():
        for role, known in roles.items():
            now = after[keyid][role]
            if now.version == known.version and now.digests != known.digests:
                say(
                    f"WARNING: {keyid[:12]} signed another version {now.version} of {role} before. If that was not"
                    " thrown away, an old state is being shown to you: do not publish this."
                )


def _write(books: Mapping[Path, Book]) -> None:
    from bundles.trust.signing.signed_before import write_book

    for path, book in books.items():
        write_book(path, book)
