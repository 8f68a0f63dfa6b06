"""The light director: signs what one device should run, and checks such a signature.

The desired document is ``{"signed": ..., "signatures": [...]}``; signatures are over the exact bytes of ``signed``.
The director's key is delegated by the offline targets role on a path no bundle can have, so this key chooses among
listed bundles and can list none. Whether the choice is allowed *here* is for ``client`` to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from securesystemslib.signer import Signature as TufSignature
from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Targets

from bundles.digest import canonical_json, sha256_hex
from bundles.errors import MessageRefused, TrustRefused
from bundles.trust.roles import DIRECTOR
from bundles.wire.codec import decode_desired, decode_signed
from bundles.wire.messages import Desired, Signature, SignedDocument

DOCUMENT_TYPE = "wavegate-desired"
_MAY_DIFFER = ("issued", "expires", "trust_version")


def sign_desired(desired: Desired, signer: Signer) -> bytes:
    """Return the signed desired document: the retained message and the body of ``GET /v1/device/desired``.

    ``_type`` and ``v`` are always written out, so that no other document of the same key can be read as this one.
    """
    signed = canonical_json(desired)
    signature = signer.sign(signed)
    document = SignedDocument(msgspec.Raw(signed), [Signature(signature.keyid, signature.signature)])
    return msgspec.json.encode(document)


def verify_desired(data: bytes, targets: Targets) -> tuple[Desired, str]:
    """Verify the director's signature and read the document; nothing is judged beyond that.

    Args:
        data: the bytes received.
        targets: verified top-level targets metadata.

    Returns:
        The document, and a digest of all of it but ``issued``, ``expires`` and the hint ``trust_version``: the same
        generation must always have the same digest.

    Raises:
        TrustRefused: ``TRUST_UNSIGNED_DIRECTOR``.
        MessageRefused: signed, but in a version this program cannot read.
    """
    try:
        document = decode_signed(data)
        signed = bytes(document.signed)
        check_director_signature(targets, signed, document.signatures)
        fields = msgspec.json.decode(signed, type=dict[str, object])
        check_canonical(signed, fields)
        check_document_type(fields)
    except (MessageRefused, RepositoryError, ValueError, msgspec.DecodeError) as error:
        raise TrustRefused(
            f"The desired document is not signed by the director: {error}.",
            code="TRUST_UNSIGNED_DIRECTOR",
            remedy="Check the server's director key against the targets role, and who can write to this topic.",
        ) from error
    content = {name: value for name, value in fields.items() if name not in _MAY_DIFFER}
    return decode_desired(signed), sha256_hex(canonical_json(content))


def check_director_signature(targets: Targets, signed: bytes, entries: Sequence[Signature]) -> None:
    """Check that the key delegated to the director has signed ``signed``.

    Raises:
        ValueError: one key signs twice, or there is no director.
        tuf.api.exceptions.RepositoryError: it has not.
    """
    signatures = {entry.keyid: TufSignature(entry.keyid, entry.sig) for entry in entries}
    if len(signatures) != len(entries):
        raise ValueError("a key signs twice")
    targets.verify_delegate(DIRECTOR, signed, signatures)


def check_document_type(fields: Mapping[str, object]) -> None:
    """Check that a document states that it is an assignment, so that no other one of the same key is read as one.

    Raises:
        ValueError: it does not.
    """
    if fields.get("_type") != DOCUMENT_TYPE:
        raise ValueError("its type is not stated")


def check_canonical(signed: bytes, fields: Mapping[str, object]) -> None:
    """Check that the signed bytes are the one way to write what they say: a key that stands twice has two readers.

    Raises:
        ValueError: they are not.
    """
    if canonical_json(fields) != signed:
        raise ValueError("it is not in canonical form")
