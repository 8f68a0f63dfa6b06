"""The keys of an online role: the one in use, and the next one waiting for a root that names it.

Whoever signs asks by root, so a switch is nothing that could be forgotten or done twice: the moment a root that names
the next key is the newest, that key signs, also after a crash in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from securesystemslib.signer import Signer
from tuf.api.metadata import Root

from bundles.errors import AskPerson


class KeyRing:
    """Signers of one online role, in any order."""

    def __init__(self, role: str, signers: Signer | Sequence[Signer]) -> None:
        """Hold ``signers`` (one, or several of which root names one at a time) for ``role``.

        A sequence is looked at anew each time: its owner may add the next key while this ring is in use.
        """
        self._role = role
        self._signers: Sequence[Signer] = [signers] if isinstance(signers, Signer) else signers

    def signer(self, root: Root) -> Signer:
        """Return the signer that ``root`` names.

        Raises:
            AskPerson: ``TRUST_REPOSITORY``: none of these keys may sign, or more than one would have to.
        """
        named = root.roles[self._role]
        found = next((signer for signer in self._signers if signer.public_key.keyid in named.keyids), None)
        if found is None or named.threshold != 1:
            raise AskPerson(
                f"This server's {self._role} key is not the one that root names.",
                code="TRUST_REPOSITORY",
                remedy=f"Put the {self._role} key of this repository into the server's keys folder.",
            )
        return found
