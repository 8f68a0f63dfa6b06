"""What a metadata folder says, in plain values: who may sign what, who has, and until when. Reads, verifies nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from bundles.errors import AskPerson
from bundles.trust.profiles import profile_name
from bundles.trust.revocation import REVOCATION, Revoked, read_revoked, weak_list
from bundles.trust.roles import UNWRITTEN, epoch_ms, file_name, is_demo, read_floors, split_file


class RoleStatus(msgspec.Struct, frozen=True):
    """One role.

    Attributes:
        role: its name.
        version: newest in the folder; 0 for the director and the kit, which have no metadata.
        expires_ms: UTC epoch ms; 0 where there is no metadata.
        threshold: signatures needed.
        keys: ids of the keys trusted for it.
        signed_by: ids of those whose signature the newest file carries and which verify.
        listed: bundles it lists.
    """

    role: str
    version: int
    expires_ms: int
    threshold: int
    keys: list[str]
    signed_by: list[str]
    listed: int


class RepositoryStatus(msgspec.Struct, frozen=True):
    """A whole folder.

    Attributes:
        roles: top-level roles first.
        floors: signed lowest release counters by ``team/model``.
        remarks: sentences a person should read.
        profile: ``solo``, ``team`` or ``regulated``.
        revoked: bundle digests forbidden, by the revocation role or by targets.
    """

    roles: list[RoleStatus]
    floors: dict[str, int]
    remarks: list[str]
    profile: str
    revoked: dict[str, Revoked]


def describe(folder: Path, now_ms: int) -> RepositoryStatus:
    """Describe the repository in ``folder`` (or in its ``metadata`` or ``server/metadata``).

    Raises:
        AskPerson: ``TRUST_REPOSITORY``: there is none.
    """
    try:
        home = next(
            place
            for place in (folder, folder / "metadata", folder / "server" / "metadata")
            if (place / "timestamp.json").exists()
        )
        root = Metadata[Root].from_file(str(_newest(home, "root")))
        targets = Metadata[Targets].from_file(str(_newest(home, "targets")))
        roles = [_status(home, role, root.signed) for role in ("root", "targets", "snapshot", "timestamp")]
        delegated = targets.signed.delegations.roles if targets.signed.delegations is not None else None
        roles += [_status(home, role, targets.signed) for role in delegated or {}]
        revoked, listed = read_revoked(targets.signed), dict[str, Revoked]()
        if REVOCATION in (delegated or {}):
            listed = read_revoked(Metadata[Targets].from_file(str(_newest(home, REVOCATION))).signed)
            revoked |= listed
    except (StopIteration, OSError, RepositoryError) as error:
        raise AskPerson(
            f"There is no whole trust repository in {folder}.",
            code="TRUST_REPOSITORY",
            remedy="Give the folder that `wavegate trust init` made, or a server's data folder.",
        ) from error
    profile = profile_name(root.signed)
    remarks = _remarks(roles, now_ms)
    holders = next((role for role in roles if role.role == REVOCATION), None)
    if holders is not None and listed and (weak := weak_list(len(holders.signed_by), len(holders.keys))):
        remarks.append(weak)
    if is_demo(root.signed):
        remarks.append("These are a demo's keys: real devices refuse them.")
    return RepositoryStatus(roles, read_floors(targets.signed), remarks, profile, revoked)


def _status(home: Path, role: str, delegator: Root | Targets) -> RoleStatus:
    trusted = delegator.get_delegated_role(role)
    if role in UNWRITTEN:
        return RoleStatus(role, 0, 0, trusted.threshold, list(trusted.keyids), [], 0)
    path = home / "timestamp.json" if role == "timestamp" else _newest(home, role)
    metadata = Metadata[Targets].from_file(str(path))
    result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    listed = len(metadata.signed.targets) if isinstance(metadata.signed, Targets) else 0
    signed = metadata.signed
    return RoleStatus(
        role,
        signed.version,
        epoch_ms(signed.expires),
        trusted.threshold,
        list(trusted.keyids),
        [*result.signed],
        listed,
    )


def _newest(home: Path, role: str) -> Path:
    found = (split_file(path.name) for path in home.glob("*.json"))
    versions = [version for name, version in found if name == role]
    if not versions:
        raise FileNotFoundError(role)
    return home / file_name(role, max(versions))


def _remarks(roles: list[RoleStatus], now_ms: int) -> list[str]:
    remarks = [f"{role.role} has expired." for role in roles if 0 < role.expires_ms <= now_ms]
    if any(role.role in ("root", "targets") and role.threshold == 1 for role in roles):
        remarks.append("One person: not reviewed. One key alone can sign root or targets.")
    return remarks
