"""The recovery sheet: an encrypted key on paper, with the words a person needs who finds it in ten years."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from securesystemslib.signer import Key

from bundles.errors import AskPerson
from bundles.trust.roles import utc


def recovery_sheet(pem: bytes, public: Key, *, name: str, roles: Sequence[str], made_ms: int) -> str:
    """Return the sheet as plain text, to be printed and kept apart from the first key.

    Args:
        pem: the private key file, encrypted with a passphrase.
        public: its public half.
        name: file name of the key, such as ``root-2.pem``.
        roles: what the key may sign.
        made_ms: time of the ceremony, UTC epoch ms.

    Raises:
        AskPerson: ``KEY_PASSPHRASE``: the key is not encrypted; on paper anybody could copy it.
    """
    if b"ENCRYPTED" not in pem:
        raise AskPerson(
            f"The key {name} is not encrypted.",
            code="KEY_PASSPHRASE",
            remedy="Hold the ceremony with a passphrase; a plain key on paper could be copied by anybody.",
        )
    fingerprint = " ".join(textwrap.wrap(public.keyid, 8))
    return "\n".join(
        [
            "WAVEGATE RECOVERY SHEET",
            "",
            f"Key {name}, made on {utc(made_ms):%Y-%m-%d}. It may sign: {', '.join(roles)}.",
            "Fingerprint (key id):",
            *textwrap.wrap(fingerprint, 36),
            "",
            "Keep this sheet apart from the other keys. Without the passphrase it is worth nothing to a finder;",
            "write the passphrase down elsewhere, or give it to somebody you trust.",
            "",
            "When the other root key is lost or stolen:",
            f"1. Type or scan the block below into a file named {name}; set its mode to 0600.",
            f"2. wavegate trust key import --signer {name} --out check.pub      (compare the fingerprint)",
            f"3. wavegate trust revoke key LOST --metadata SERVER --root root.json --signer {name} --out event",
            "   (LOST is the id of the lost key, as `wavegate trust status` shows it; SERVER is its address)",
            "4. wavegate trust publish event --server SERVER",
            "Prove now, before it is needed, that this works:",
            f"   wavegate trust drill --lost LOST --metadata SERVER --root root.json --signer {name}",
            "",
            pem.decode("ascii").rstrip(),
            "",
        ]
    )
