"""What a device must never forget: the lowest versions, counters, generation and time it may still accept.

TUF's cache is replaceable (deleted or damaged, it is fetched again); these floors are not, so they live outside it,
in two checksummed copies. Both gone or damaged while the cache is there means trouble, and is refused, not repaired.

A version floor belongs to the keys it was learned under: after the offline roles rotate a key, what the old key said
(a version raised beyond reach, a time far ahead) no longer binds. That is TUF's recovery from a fast-forward attack.
Release-counter floors are never lowered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from tuf.api.metadata import Targets

from bundles.digest import canonical_json, sha256_hex
from bundles.errors import TrustRefused
from bundles.trust.device.cache import Holder
from bundles.trust.durable import Write, read_if_there, write_durably
from bundles.trust.revocation import Denied, Revoked, read_revoked, remember, strength_of
from bundles.trust.roles import read_floors, read_server_cas

COPIES = ("floors.json", "floors.backup.json")


class RoleFloor(msgspec.Struct, frozen=True):
    """The newest verified version of a role, and the digest of the keys it was verified with."""

    version: int
    keys: str


class Floors(msgspec.Struct, frozen=True, omit_defaults=True):
    """The durable trust state of one device. Immutable; every change is a new value, written before it counts.

    Attributes:
        roles: version floor of each role seen.
        releases: by ``team/model``: no release counter below this is ever authorised (raised after a commit only).
        signed: by ``team/model``: the floors the targets role signs, as last seen.
        gen: newest generation accepted.
        gen_sha256: digest of what that generation says.
        gen_keys: the director keys it was accepted under.
        clock_ms: time the newest timestamp proves to have passed, UTC epoch ms.
        clock_keys: the keys that proof was made with.
        life_s: seconds a timestamp lives, as the root in use says; 0 = not known yet.
        denied: digests the revocation role has ever forbidden under its present keys.
        denied_keys: those keys.
        forbidden: digests the targets role forbids, as last seen.
        server_cas: DER of the CA certificates the targets role pins for the server, as last seen.
        kit: newest offline kit opened.
        kit_sha256: digest of its document.
        kit_keys: the keys it was signed with.
        written: rises with every write; tells the copies apart.
    """

    roles: dict[str, RoleFloor] = {}
    releases: dict[str, int] = {}
    signed: dict[str, int] = {}
    gen: int = 0
    gen_sha256: str = ""
    gen_keys: str = ""
    clock_ms: int = 0
    clock_keys: str = ""
    life_s: int = 0
    denied: dict[str, Denied] = {}
    denied_keys: str = ""
    forbidden: dict[str, Revoked] = {}
    server_cas: list[bytes] = []
    kit: int = 0
    kit_sha256: str = ""
    kit_keys: str = ""
    written: int = 0
    v: int = 1

    def version_floor(self, role: str, keys: str) -> int:
        """Return the lowest version of ``role`` acceptable under ``keys``; 0 where nothing binds."""
        floor = self.roles.get(role)
        return floor.version if floor is not None and floor.keys == keys else 0

    def release_floor(self, model: str) -> int:
        """Return the lowest release counter ``model`` (``team/model``) may still be given."""
        return max(self.releases.get(model, 0), self.signed.get(model, 0))


class _Copy(msgspec.Struct, frozen=True):
    floors: msgspec.Raw
    sha256: str


def save_floors(folder: Path, floors: Floors, write: Write = write_durably) -> Floors:
    """Write ``floors`` to both copies and return them as written.

    Raises:
        OSError: the disk is full; at least one copy of the state before is intact.
    """
    written = msgspec.structs.replace(floors, written=floors.written + 1)
    body = canonical_json(written)
    data = msgspec.json.encode(_Copy(msgspec.Raw(body), sha256_hex(body)))
    for name in COPIES:
        write(folder / name, data, mode=0o600)
    return written


def load_floors(folder: Path, *, cache_exists: bool) -> Floors:
    """Read the newest intact copy; a new device starts with none.

    Args:
        folder: where ``save_floors`` writes.
        cache_exists: whether this device already holds trust metadata, that is, had floors.

    Raises:
        TrustRefused: ``TRUST_CACHE_CORRUPT`` where there should be a copy and none is intact.
    """
    found = [data for name in COPIES if (data := read_if_there(folder / name)) is not None]
    intact = [floors for data in found if (floors := _decode(data)) is not None]
    if intact:
        return max(intact, key=lambda floors: floors.written)
    if found or cache_exists:
        raise TrustRefused(
            f"The device's trust floors in {folder} are lost or damaged.",
            code="TRUST_CACHE_CORRUPT",
            remedy="Check the disk; restore floors.json from a backup, or enrol the device again as a new one.",
        )
    return Floors()


def said_by_targets(targets: Targets) -> dict[str, Any]:
    """Return the fields of ``Floors`` that are whatever the newest targets role says.

    Raises:
        TrustRefused: ``TRUST_FLOOR``, ``TRUST_REVOKED`` or ``TRUST_UNSIGNED_TARGETS`` where one cannot be read.
    """
    return {
        "signed": read_floors(targets),
        "forbidden": read_revoked(targets),
        "server_cas": read_server_cas(targets),
    }


def forbidden_by(floors: Floors, holder: Holder | None) -> dict[str, Any]:
    """Return the fields of ``Floors`` that the verified revocation role changes.

    Args:
        floors: as they stand.
        holder: the role; None = nobody holds it (any more), so nothing it forbade binds.

    Raises:
        TrustRefused: ``TRUST_REVOKED`` where the list cannot be read.
    """
    if holder is None:
        return {"denied": {}, "denied_keys": ""}
    known = floors.denied if floors.denied_keys == holder.keys else {}
    strength = strength_of(holder.signatures, holder.of)
    return {"denied": remember(known, read_revoked(holder.signed), strength), "denied_keys": holder.keys}


def _decode(data: bytes) -> Floors | None:
    try:
        copy = msgspec.json.decode(data, type=_Copy)
        body = bytes(copy.floors)
        return msgspec.json.decode(body, type=Floors) if sha256_hex(body) == copy.sha256 else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
