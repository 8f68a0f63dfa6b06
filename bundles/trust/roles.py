"""Names, paths, lifetimes and extra fields of the trust roles: what both sides of the metadata agree on.

Leaves signing and publishing to ``ceremony``, ``release`` and ``repository``, and checking to ``client``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from cryptography import x509
from tuf.api.metadata import Delegations, Key, Metadata, Root, Signed, Targets

from bundles.digest import canonical_json, sha256_hex
from bundles.errors import TrustRefused
from bundles.manifest import Manifest

DIRECTOR = "director"
DIRECTOR_PATH = ".director/never"
"""The path the director is delegated on. No bundle can have it, so the director can list none."""
FLOORS_FIELD = "x-floors"
"""In top-level targets: ``{"team/model": lowest release counter}``."""
TIMESTAMP_LIFE_FIELD = "x-timestamp-life-s"
"""In root: seconds a timestamp lives. The device derives its signed clock from it: expiry minus this."""
KIT = "kit"
KIT_PATH = ".kit/never"
"""The path that signers of offline kits are delegated on; like the director's, no bundle can have it."""
UNWRITTEN = frozenset({DIRECTOR, KIT})
"""Delegated roles without metadata of their own: their keys sign documents."""
PROFILE_FIELD = "x-profile"
"""In root: ``solo``, ``team`` or ``regulated``, as the ceremony or the last upgrade said."""
DEMO_FIELD = "x-demo"
"""In root: ``true`` where the keys are a demo's and protect nothing."""
SERVER_CAS_FIELD = "x-server-cas"
"""In top-level targets: base64 DER of the server's CA certificates, the one in use first, then the spares."""
MIN_SERVER_CAS = 2
TEAM_PREFIX = "team-"
DAY_S = 86_400
DEFAULT_TIMESTAMP_LIFE_S = 14 * DAY_S


@dataclass(frozen=True)
class Lifetimes:
    """Seconds from signing to expiry, a role each (the table of the trust design)."""

    root_s: int = 365 * DAY_S
    targets_s: int = 365 * DAY_S
    team_s: int = 730 * DAY_S
    snapshot_s: int = 30 * DAY_S
    timestamp_s: int = DEFAULT_TIMESTAMP_LIFE_S
    revocation_s: int = 3650 * DAY_S


class TargetCustom(msgspec.Struct, frozen=True):
    """The ``custom`` part of a bundle's TUF target; it must equal the manifest.

    Attributes:
        release_counter: the manifest's.
        hardware: every hardware name a variant fits, sorted; empty = some variant fits any.
        channel: the manifest's.
        model: ``team/model``.
    """

    release_counter: int
    hardware: list[str]
    channel: str
    model: str


def team_role(team: str) -> str:
    """Return the name of the TUF role that lists ``team``'s bundles."""
    return TEAM_PREFIX + team


def team_path(team: str) -> str:
    """Return the path pattern delegated to ``team``: ``team/model/version/bundle.json``."""
    return f"{team}/*/*/*"


def file_name(role: str, version: int) -> str:
    """Return the file of ``role``'s ``version`` in a repository with consistent snapshots."""
    return "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"


def split_file(name: str) -> tuple[str, int]:
    """Split a metadata file's name into (role, version); version 0 where the name states none.

    A role's own name may hold dots (``3.team-a.root.json`` is no root), so only the leading number is taken off.
    """
    stem = name.removesuffix(".json")
    version, dot, role = stem.partition(".")
    return (role, int(version)) if dot and version.isascii() and version.isdigit() else (stem, 0)


def code_role(role: str) -> str:
    """Return ``role`` as it appears in ``TRUST_*`` codes; every team's role is ``TEAM``."""
    return "TEAM" if role.startswith(TEAM_PREFIX) else role.upper()


def utc(at_ms: int) -> datetime:
    """Return ``at_ms`` (UTC epoch milliseconds) as an aware time in whole seconds, as TUF writes it."""
    return datetime.fromtimestamp(at_ms // 1000, tz=UTC)


def epoch_ms(at: datetime) -> int:
    """Return an aware time as UTC epoch milliseconds."""
    return int(at.timestamp()) * 1000


def custom_of(manifest: Manifest) -> TargetCustom:
    """Return what the TUF target of ``manifest`` must say of it."""
    restricted = all(variant.hardware for variant in manifest.variants)
    names = {name for variant in manifest.variants for name in variant.hardware} if restricted else set()
    return TargetCustom(manifest.release_counter, sorted(names), manifest.channel, manifest.model_key)


def read_custom(path: str, custom: Any) -> TargetCustom:
    """Read the ``custom`` part of the target at ``path``.

    Raises:
        TrustRefused: ``TRUST_NOT_LISTED`` where it is missing or not well formed: such a target is no bundle.
    """
    try:
        return msgspec.convert(custom, TargetCustom)
    except msgspec.ValidationError as error:
        raise TrustRefused(
            f"The listing of {path!r} lacks what a bundle's listing has: {error}.",
            code="TRUST_NOT_LISTED",
            remedy="Sign the bundle with the wavegate tools.",
        ) from error


def read_floors(targets: Targets) -> dict[str, int]:
    """Return the signed lowest release counters, by ``team/model``.

    Raises:
        TrustRefused: ``TRUST_FLOOR`` where the field is there and cannot be read: a floor is never ignored.
    """
    try:
        return msgspec.convert(targets.unrecognized_fields.get(FLOORS_FIELD, {}), dict[str, int])
    except msgspec.ValidationError as error:
        raise TrustRefused(
            f"The floors in the targets role cannot be read: {error}.",
            code="TRUST_FLOOR",
            remedy="Sign the targets role again with floors of the form {team/model: counter}.",
        ) from error


def timestamp_life_s(root: Root) -> int:
    """Return how many seconds a timestamp lives, as root says."""
    life = root.unrecognized_fields.get(TIMESTAMP_LIFE_FIELD)
    return life if isinstance(life, int) and life > 0 else DEFAULT_TIMESTAMP_LIFE_S


def is_demo(root: Root) -> bool:
    """Return whether ``root`` says that its keys are a demo's. Anything in that field but false counts."""
    return bool(root.unrecognized_fields.get(DEMO_FIELD, False))


def encode_server_cas(certificates: Sequence[bytes]) -> list[str]:
    """Return the signed form of the server's CA certificates (DER).

    Raises:
        TrustRefused: ``TRUST_UNSIGNED_TARGETS``: fewer than two, one of them twice, or one that is no certificate.
    """
    encoded = [base64.b64encode(der).decode() for der in certificates]
    _decode_server_cas(encoded)
    return encoded


def read_server_cas(targets: Targets) -> list[bytes]:
    """Return the CA certificates (DER) that devices trust to sign the server's; empty where none are signed.

    Raises:
        TrustRefused: ``TRUST_UNSIGNED_TARGETS`` where the field is there and not as it should be.
    """
    found = targets.unrecognized_fields.get(SERVER_CAS_FIELD)
    return [] if found is None else _decode_server_cas(found)


def _decode_server_cas(found: Any) -> list[bytes]:
    try:
        certificates = [base64.b64decode(entry, validate=True) for entry in msgspec.convert(found, list[str])]
        for der in certificates:
            x509.load_der_x509_certificate(der)
        if len(set(certificates)) < max(MIN_SERVER_CAS, len(certificates)):
            raise ValueError("fewer than two different ones")
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise TrustRefused(
            f"The server's CA certificates in the targets role cannot be used: {error}.",
            code="TRUST_UNSIGNED_TARGETS",
            remedy="Sign at least two different CA certificates: the one in use, then a spare kept offline.",
        ) from error
    return certificates


def key_fingerprint(delegator: Root | Targets, role: str) -> str:
    """Return a digest of the keys ``delegator`` trusts for ``role``; it changes when a key is rotated.

    Raises:
        ValueError: ``role`` is not delegated.
    """
    keyids = delegator.get_delegated_role(role).keyids
    return sha256_hex(canonical_json({keyid: delegator.get_key(keyid).to_dict() for keyid in keyids}))


def check_distinct_keys(holder: Root | Delegations | None) -> None:
    """Check that no key stands under two key ids, which would let one holder count twice towards a threshold.

    Nor may a role name a key that is not there: such a key counts in the roll and can never sign.

    Raises:
        TrustRefused: ``TRUST_THRESHOLD``.
    """
    keys: Mapping[str, Key] = holder.keys if holder is not None else {}
    roles = (holder.roles if holder is not None else None) or {}
    # TUF's parser lets a number stand in a list of key ids; no key is ever named by one.
    missing = {str(keyid) for role in roles.values() for keyid in role.keyids if keyid not in keys}
    if missing:
        raise TrustRefused(
            f"A role names the key {min(missing)[:12]}, which is not there.",
            code="TRUST_THRESHOLD",
            remedy="Add the public key or take it out of the role, and sign again.",
        )
    publics = [canonical_json(key.keyval) for key in keys.values()]
    if len(set(publics)) != len(publics):
        raise TrustRefused(
            "One key is named under two key ids.",
            code="TRUST_THRESHOLD",
            remedy="Remove one of the two entries and sign again.",
        )


def role_of(signed: Signed, name: str) -> str:
    """Return the role that a file named ``N.role.json`` claims to be.

    Raises:
        TrustRefused: ``TRUST_MIX`` where the name's version is not the one inside.
    """
    role, version = split_file(name)
    if version != signed.version:
        raise TrustRefused(
            f"The file {name!r} holds version {signed.version}.",
            code="TRUST_MIX",
            remedy="Do not rename metadata files; sign or fetch them again.",
        )
    return role


def parse_targets(name: str, data: bytes) -> Metadata[Targets]:
    """Parse targets metadata that was *not yet verified*.

    Raises:
        TrustRefused: ``TRUST_UNSIGNED_<role>``.
    """
    return parse_role(name, data, Targets)


def parse_root(name: str, data: bytes) -> Metadata[Root]:
    """Parse root metadata that was *not yet verified*.

    Raises:
        TrustRefused: ``TRUST_UNSIGNED_<role>``.
    """
    return parse_role(name, data, Root)


def parse_role(name: str, data: bytes, kind: type[Any]) -> Metadata[Any]:
    """Parse metadata of one ``kind`` that was *not yet verified*.

    Raises:
        TrustRefused: ``TRUST_UNSIGNED_<role>``.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        # What has no canonical form (a float) can carry no signature either, and must not be found out later.
        found = isinstance(metadata.signed, kind) and bool(metadata.signed_bytes)
    except Exception as error:  # TUF's parser raises several families on hostile input
        raise _unreadable(name) from error
    if not found:
        raise _unreadable(name)
    return metadata


def _unreadable(name: str) -> TrustRefused:
    return TrustRefused(
        f"The file {name!r} is not readable as metadata of its role.",
        code=f"TRUST_UNSIGNED_{code_role(split_file(name)[0])}",
        remedy="Fetch it again; if it stays so, whoever serves it is broken or hostile.",
    )
