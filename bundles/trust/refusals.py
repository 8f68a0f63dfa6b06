"""TUF's exceptions in this project's words: each becomes one stable code, one sentence and a remedy.

The role is told from the file asked for last and the cause from the metadata itself, never from an exception's text
(some of TUF's have their numbers swapped).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp, VerificationResult

from bundles.errors import TrustRefused, TryAgain, WavegateError
from bundles.trust.roles import code_role, split_file

Verified = Mapping[str, Signed]
"""Role -> top-level metadata accepted by TUF's client so far."""


def expired(role: str) -> TrustRefused:
    """Return the refusal of metadata past its expiry."""
    return TrustRefused(
        f"The {role} metadata has expired.",
        code=f"TRUST_EXPIRED_{code_role(role)}",
        remedy="The repository must sign it again; what runs now goes on running.",
        details={"role": role},
    )


def rolled_back(role: str, floor: int | None = None, version: int | None = None) -> TrustRefused:
    """Return the refusal of metadata older than what this device has already accepted."""
    return TrustRefused(
        f"The repository offers an older {role} than this device has already accepted.",
        code=f"TRUST_ROLLBACK_{code_role(role)}",
        remedy="A restored or hostile repository serves old metadata; publish a newer version of this role.",
        details={"role": role, "floor": floor, "version": version},
    )


def mixed(role: str) -> TrustRefused:
    """Return the refusal of metadata files that do not belong together."""
    return TrustRefused(
        f"The {role} metadata served is not the one that the repository's state names.",
        code="TRUST_MIX",
        remedy="Fetch again; if it stays so, the repository is damaged or hostile.",
        details={"role": role},
    )


def explain(error: Exception, asked: str, data: bytes, verified: Verified, now: datetime) -> WavegateError:
    """Turn an exception of TUF's client into ours.

    Args:
        error: what TUF's client raised.
        asked: the file asked for last, such as ``4.snapshot.json``.
        data: what was received of it.
        verified: metadata the client had accepted before, by role.
        now: the time expiry was judged against.

    Returns:
        ``TryAgain`` for trouble of the network, ``TrustRefused`` for everything else.
    """
    role, _ = split_file(asked)
    if isinstance(error, tuf_errors.DownloadLengthMismatchError):
        return TrustRefused(
            f"The {role} metadata is longer than allowed.",
            code="TRUST_LENGTH",
            remedy="The repository, or somebody between, sends endless data; check the server's address.",
            details={"role": role},
        )
    if isinstance(error, tuf_errors.SlowRetrievalError):
        return TrustRefused(
            f"The {role} metadata came too slowly.",
            code="TRUST_SLOW",
            remedy="Check the network; the same may succeed later.",
            details={"role": role},
        )
    if isinstance(error, tuf_errors.DownloadError):
        cause = error.__cause__
        if isinstance(cause, TryAgain) and cause.code not in (TryAgain.default_code, "METADATA_NOT_SERVED"):
            return cause  # the door knows better why: a sign-in page, a certificate out of its time
        return TryAgain(
            f"The {role} metadata could not be fetched: {error}.",
            code="METADATA_UNREACHABLE",
            remedy="Check the network and the server's address; it is tried again.",
            details={"role": role},
        )
    if isinstance(error, tuf_errors.ExpiredMetadataError):
        root = verified.get("root")
        return expired("root" if root is not None and root.is_expired(now) else role)
    if isinstance(error, tuf_errors.UnsignedMetadataError):
        return _unsigned(role, data, verified)
    if isinstance(error, tuf_errors.BadVersionNumberError):
        return _bad_version(role, data, verified)
    if isinstance(error, tuf_errors.LengthOrHashMismatchError):
        return mixed(role)
    if _parse(data) is not None:
        return mixed(role)  # readable, but missing from the snapshot or of another type than its name
    return _not_signed(role)


def _unsigned(role: str, data: bytes, verified: Verified) -> TrustRefused:
    if role == "root":
        return _root_not_signed()
    delegator = verified.get("root" if role in ("timestamp", "snapshot", "targets") else "targets")
    metadata = _parse(data)
    if metadata is not None and isinstance(delegator, Root | Targets):
        try:
            result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        except ValueError:
            return _not_signed(role)
        return _short(role, result)
    return _not_signed(role)


def check_signatures(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> None:
    """Check that as many keys as ``delegator`` asks for have signed ``metadata`` as ``role``.

    Raises:
        TrustRefused: ``TRUST_ROOT_SIG``, ``TRUST_THRESHOLD`` or ``TRUST_UNSIGNED_<role>``.
    """
    result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    if not result:
        raise _root_not_signed() if role == "root" else _short(role, result)


def _root_not_signed() -> TrustRefused:
    return TrustRefused(
        "A new root is not signed by enough keys of the root before it and of itself.",
        code="TRUST_ROOT_SIG",
        remedy="Sign the new root with the thresholds of both.",
        details={"role": "root"},
    )


def _short(role: str, result: VerificationResult) -> TrustRefused:
    if not result.signed:
        return _not_signed(role)
    return TrustRefused(
        f"The {role} metadata has {len(result.signed)} of the {result.threshold} signatures it needs.",
        code="TRUST_THRESHOLD",
        remedy="Another holder of a key of this role has to sign.",
        details={"role": role, "signed": len(result.signed), "threshold": result.threshold},
    )


def _not_signed(role: str) -> TrustRefused:
    return TrustRefused(
        f"The {role} metadata is not signed by a key trusted for it.",
        code=f"TRUST_UNSIGNED_{code_role(role)}" if role != "root" else "TRUST_ROOT_SIG",
        remedy="Check the server's address; if it is right, its metadata is damaged or forged.",
        details={"role": role},
    )


def _bad_version(role: str, data: bytes, verified: Verified) -> TrustRefused:
    offered = _parse(data)
    if offered is None:
        return mixed(role)
    if role == "timestamp" and isinstance(offered.signed, Timestamp):
        known = verified.get("timestamp")
        if known is not None and offered.signed.version >= known.version:
            return rolled_back("snapshot")
        return rolled_back("timestamp")
    if role == "snapshot" and isinstance(offered.signed, Snapshot):
        stamp, known = verified.get("timestamp"), verified.get("snapshot")
        if isinstance(stamp, Timestamp) and (offered.signed.version != stamp.snapshot_meta.version):
            return mixed(role)
        if isinstance(known, Snapshot):
            for name, before in known.meta.items():
                now = offered.signed.meta.get(name)
                if now is not None and now.version < before.version:
                    return rolled_back(name.removesuffix(".json"), before.version, now.version)
        return rolled_back("snapshot")
    return rolled_back("root") if role == "root" else mixed(role)


def _parse(data: bytes) -> Metadata[Any] | None:
    try:
        return Metadata.from_bytes(data)
    except Exception:  # TUF's parser raises several families on hostile input
        return None
