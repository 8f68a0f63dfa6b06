"""The keys a server signs with (snapshot, timestamp, director), and the next ones, waiting for people to name them.

Which key signs is never a switch of its own: it is the one that the newest root (or, for the director, the newest
targets role) names. A next key lies beside the one in use as ``<role>.next.pem``; once it is named it takes the other's
place by one rename, and until then, after any crash, both are held and the named one signs. Root, targets, team and
revocation keys never come here.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Targets

from bundles.errors import AskPerson
from bundles.trust.durable import flush_folder, write_durably
from bundles.trust.roles import DIRECTOR
from bundles.trust.signing.signers import encode_public, load_signer, new_key

ROTATED_TOGETHER = {"online": ("snapshot", "timestamp"), DIRECTOR: (DIRECTOR,)}
"""What people call a rotation -> the roles whose keys it exchanges."""
ROLES = ("snapshot", "timestamp", DIRECTOR)


class OnlineKeys:
    """The keys in one folder. Safe to use from several threads; one process per folder."""

    def __init__(self, folder: Path) -> None:
        """Load the keys in ``folder``.

        Raises:
            AskPerson: ``KEY_MISSING`` or ``KEY_UNSUPPORTED``.
        """
        self._folder, self._lock = folder, threading.Lock()
        self._rings: dict[str, list[Signer]] = {role: self._load(role) for role in ROLES}

    def ring(self, role: str) -> Sequence[Signer]:
        """Return the signers of ``role``; the list stays live: a key prepared later appears in it."""
        return self._rings[role]

    def director(self, targets: Targets) -> Signer:
        """Return the signer that ``targets`` names as director.

        Raises:
            AskPerson: ``TRUST_REPOSITORY``: this server holds no such key.
        """
        named = director_keyids(targets)
        for signer in self._rings[DIRECTOR]:
            if signer.public_key.keyid in named:
                return signer
        raise AskPerson(
            "This server's director key is not the one that targets names.",
            code="TRUST_REPOSITORY",
            remedy="Prepare the key here first: `wavegate trust rotate director` asks this server for it.",
        )

    def prepare(self, role: str) -> Key:
        """Make the next key of ``role`` (asked again before it is in use: the same) and return its public half.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            waiting = self._next(role)
            if not waiting.exists():
                fresh = self._folder / f"{role}.fresh.pem"  # one left over by a crash was told to nobody
                fresh.unlink(missing_ok=True)
                made = new_key(fresh)
                fresh.with_suffix(".pub").unlink()
                fresh.rename(waiting)
                flush_folder(self._folder)
                self._rings[role].insert(0, made)
            return load_signer(waiting).public_key

    def is_named(self, role: str, keyids: Collection[str]) -> bool:
        """Whether metadata that names ``keyids`` has exchanged the key in use of ``role`` for the next one."""
        ring = self._rings[role]
        return len(ring) == 2 and ring[0].public_key.keyid in keyids and ring[1].public_key.keyid not in keyids

    def settle(self, role: str, keyids: Collection[str]) -> bool:
        """Let the next key of ``role`` take the place of the one in use where ``keyids`` name it; the old one is gone.

        Returns:
            Whether it did. Doing it again changes nothing.

        Raises:
            OSError: the folder cannot be written; both keys are still held.
        """
        with self._lock:
            if not self.is_named(role, keyids):
                return False
            ring = self._rings[role]
            self._next(role).replace(self._folder / f"{role}.pem")
            flush_folder(self._folder)
            ring.pop()  # from the end: who walks this list now finds the named one first
            write_durably(self._folder / f"{role}.pub", encode_public(ring[0].public_key))
            return True

    def _load(self, role: str) -> list[Signer]:
        in_use = load_signer(self._folder / f"{role}.pem")
        waiting = self._next(role)
        return [load_signer(waiting), in_use] if waiting.exists() else [in_use]

    def _next(self, role: str) -> Path:
        return self._folder / f"{role}.next.pem"


def director_keyids(targets: Targets) -> list[str]:
    """Return the ids of the keys that ``targets`` lets sign as director; none where it has no director."""
    roles = targets.delegations.roles if targets.delegations is not None else None
    return list(roles[DIRECTOR].keyids) if roles and DIRECTOR in roles else []
