"""Offline kits: what a device without a network may install, signed by people who carry it there.

A kit's document stands in for timestamp, snapshot and director at once. It names every metadata file and blob by
digest (so nothing can be mixed), expires within 180 days by the device's own clock (so nothing can be frozen for
longer) and carries a version that only rises (so nothing can be replayed). A timestamp and a snapshot, good for days,
are therefore not in it and never judged. Everything people sign is: the roots are followed from the one the device
was made with, targets, team and revocation roles are verified under them, must not have expired, and meet the same
durable floors as online. So whoever steals the kit keys can do what a stolen director key can, and no more: choose
among listed, unrevoked bundles at or above the floor.

The kit role is delegated by top-level targets on a path no bundle can have; a repository without it has no kits.
``client`` holds an opened kit against the floors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from securesystemslib.signer import Signature as TufSignature
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from bundles.digest import canonical_json, sha256_hex
from bundles.errors import BundleRefused, MessageRefused, TrustRefused
from bundles.manifest import parse_manifest
from bundles.trust.device.cache import Holder, hold
from bundles.trust.device.kitfile import (
    DOCUMENT_TYPE,
    MAX_LIFE_MS,
    VERSION,
    KitArchive,
    KitDocument,
    described,
    not_a_kit,
    read_archive,
    write_archive,
)
from bundles.trust.fetch import LIMITS
from bundles.trust.publishing.state import delegated_names
from bundles.trust.refusals import check_signatures, expired, mixed
from bundles.trust.revocation import REVOCATION
from bundles.trust.roles import (
    KIT,
    check_distinct_keys,
    file_name,
    key_fingerprint,
    parse_root,
    parse_targets,
    role_of,
    split_file,
    utc,
)
from bundles.wire.codec import decode_signed
from bundles.wire.messages import DesiredModel, Signature, SignedDocument

DEFAULT_LIFE_MS = 90 * 86_400_000


@dataclass(frozen=True)
class Kit:
    """A kit whose signatures, digests and shape are good; floors and clock are for ``client`` to judge.

    Attributes:
        archive: where the blobs are.
        document: what was signed.
        sha256: digest of the signed bytes.
        keys: digest of the keys of the kit role.
        root: the newest root in it.
        targets: the top-level targets role.
        roles: the delegated roles it carries, by name.
    """

    archive: KitArchive
    document: KitDocument
    sha256: str
    keys: str
    root: Root
    targets: Targets
    roles: Mapping[str, Holder]

    @property
    def judged(self) -> dict[str, tuple[Signed, str]]:
        """Every role in it, with the digest of the keys it was verified with, as ``checks`` takes them."""
        top: dict[str, tuple[Signed, str]] = {
            "root": (self.root, ""),
            "targets": (self.targets, key_fingerprint(self.root, "targets")),
        }
        return top | {role: (holder.signed, holder.keys) for role, holder in self.roles.items()}

    @property
    def revocation(self) -> Holder | None:
        """The revocation role; None where the repository has none."""
        return self.roles.get(REVOCATION)

    def wanted(self, model: str) -> DesiredModel:
        """Return what the kit would have installed for ``model`` (``team/model``).

        Raises:
            TrustRefused: ``TRUST_NOT_LISTED``.
        """
        if model not in self.document.desired:
            raise TrustRefused(
                f"The kit holds nothing for {model}.",
                code="TRUST_NOT_LISTED",
                remedy="Make a kit with a bundle of this model.",
            )
        return self.document.desired[model]

    def look_up(self, path: str) -> tuple[TargetFile | None, str]:
        """Return what is listed under ``path``, and the role that lists it.

        Raises:
            TrustRefused: ``TRUST_MIX``: the kit lacks a role that may list it.
        """
        for role in roles_for(self.targets, path):
            if role not in self.roles:
                raise mixed(role)
            if path in self.roles[role].signed.targets:
                return self.roles[role].signed.targets[path], role
        return None, "targets"

    def blob(self, sha256: str) -> Iterator[bytes]:
        """Read a blob in pieces; see ``KitArchive.blob``."""
        return self.archive.blob(sha256)


def open_kit(path: Path, bootstrap_root: bytes) -> Kit:
    """Verify the signatures and digests of a kit, starting at ``bootstrap_root``; blobs are verified when read.

    Raises:
        TrustRefused: ``TRUST_ROOT_SIG``, ``TRUST_THRESHOLD``, ``TRUST_UNSIGNED_*``, ``TRUST_MIX``, ``TRUST_DIGEST``
            or ``TRUST_LENGTH``.
        MessageRefused: ``MESSAGE_VERSION``: properly signed, in a version this program does not read.
        OSError: there is no such file.
    """
    archive = read_archive(path)
    root = follow_roots(bootstrap_root, archive.metadata)
    targets = _verified(root, "targets", archive.metadata)
    check_distinct_keys(root)
    check_distinct_keys(targets.signed.delegations)
    there = {split_file(name)[0] for name in archive.metadata}
    roles = [role for role in delegated_names(targets.signed) if role in there or role == REVOCATION]
    held = {role: hold(targets.signed, role, _verified(targets.signed, role, archive.metadata)) for role in roles}
    signed = check_kit_signatures(archive.document, targets.signed)
    document = _read_document(archive, signed)
    check_contents(document, archive)
    keys = key_fingerprint(targets.signed, KIT)
    return Kit(archive, document, sha256_hex(signed), keys, root, targets.signed, held)


def check_kit(path: Path, bootstrap_root: bytes, now_ms: int) -> Kit:
    """Check a kit as a new device would, every blob included.

    Args:
        path: the kit.
        bootstrap_root: what that device trusts from the start.
        now_ms: its clock, UTC epoch ms.

    Raises:
        TrustRefused: as ``open_kit``, ``TRUST_EXPIRED_*`` or ``TRUST_NOT_LISTED``.
        MessageRefused: as ``open_kit``.
        OSError: as ``open_kit``.
    """
    kit = open_kit(path, bootstrap_root)
    check_kit_expiry(kit.document, now_ms)
    for role, (signed, _) in kit.judged.items():
        if signed.is_expired(utc(now_ms)):
            raise expired(role)
    for wanted in kit.document.desired.values():
        if kit.look_up(wanted.target)[0] is None:
            raise TrustRefused(
                f"No role in the kit lists {wanted.target}.",
                code="TRUST_NOT_LISTED",
                remedy="Publish the bundle first, then make the kit.",
            )
    for digest in kit.document.blobs:
        for _ in kit.blob(digest):
            pass
    return kit


def make_kit(
    path: Path,
    *,
    metadata: Mapping[str, bytes],
    desired: Mapping[str, DesiredModel],
    blobs: Mapping[str, Path],
    version: int,
    signers: Sequence[Signer],
    now_ms: int,
    life_ms: int = DEFAULT_LIFE_MS,
) -> Kit:
    """Make a kit and check it as a new device would.

    Args:
        path: where to.
        metadata: as ``current_metadata`` gives it.
        desired: what to install, by ``team/model``.
        blobs: sha256 -> file: the manifests and all they name.
        version: above that of every kit before.
        signers: holders of the kit role, as many as must sign.
        now_ms: time of making.
        life_ms: how long it is good for.

    Raises:
        TrustRefused: it would be refused: as ``check_kit``.
        BundleRefused: ``BUNDLE_FILE_MISSING``: a blob that a bundle needs was not given.
        OSError: the disk is full, or a blob cannot be read.
    """
    for wanted in desired.values():
        needed = [wanted.sha256]
        if wanted.sha256 in blobs:
            needed += [entry.sha256 for entry in parse_manifest(blobs[wanted.sha256].read_bytes()).files]
        missing = next((digest for digest in needed if digest not in blobs), None)
        if missing is not None:
            raise BundleRefused(
                f"The kit lacks the blob {missing[:12]} of {wanted.target}.",
                code="BUNDLE_FILE_MISSING",
                remedy="Fetch the whole bundle, with every variant, before making the kit.",
            )
    document = KitDocument(
        version,
        now_ms,
        now_ms + life_ms,
        {name: described(data) for name, data in metadata.items()},
        dict(desired),
        {digest: source.stat().st_size for digest, source in blobs.items()},
    )
    signed = canonical_json(document)
    signatures = [signer.sign(signed) for signer in signers]
    envelope = SignedDocument(msgspec.Raw(signed), [Signature(made.keyid, made.signature) for made in signatures])
    write_archive(path, msgspec.json.encode(envelope), metadata, blobs)
    first = min((name for name in metadata if split_file(name)[0] == "root"), key=split_file)
    return check_kit(path, metadata[first], now_ms)


def current_metadata(folder: Path, paths: Iterable[str]) -> dict[str, bytes]:
    """Return what a kit carries of a repository: every root, the current targets and revocation roles, and the teams'.

    Args:
        folder: the repository's metadata.
        paths: target paths of the bundles the kit will hold.

    Raises:
        OSError: a file is missing.
        tuf.api.exceptions.RepositoryError: a file is damaged.
    """
    timestamp = Metadata[Timestamp].from_file(str(folder / "timestamp.json")).signed
    snapshot_file = folder / file_name("snapshot", timestamp.snapshot_meta.version)
    listed = Metadata[Snapshot].from_file(str(snapshot_file)).signed.meta
    targets_file = folder / file_name("targets", listed["targets.json"].version)
    targets = Metadata[Targets].from_file(str(targets_file)).signed
    needed = {role for path in paths for role in roles_for(targets, path)} | {REVOCATION}
    roles = [role for role in delegated_names(targets) if role in needed]
    files = [folder / file_name(role, listed[f"{role}.json"].version) for role in roles]
    roots = [path for path in folder.glob("*.root.json") if split_file(path.name)[0] == "root"]
    return {path.name: path.read_bytes() for path in (*roots, targets_file, *files)}


def roles_for(targets: Targets, path: str) -> list[str]:
    """Return the roles that ``targets`` asks for ``path``, the most trusted first."""
    found: list[str] = []
    if targets.delegations is not None:
        for role, terminating in targets.delegations.get_roles_for_target(path):
            found.append(role)
            if terminating:
                break
    return found


def follow_roots(bootstrap_root: bytes, metadata: Mapping[str, bytes]) -> Root:
    """Follow the chain of roots from ``bootstrap_root``: each signed by the one before and by itself, none skipped.

    Raises:
        TrustRefused: ``TRUST_ROOT_SIG``, ``TRUST_THRESHOLD``, ``TRUST_MIX`` or ``TRUST_UNSIGNED_ROOT``.
    """
    root = parse_root("root.json", bootstrap_root).signed
    for _ in range(LIMITS.max_root_rotations):
        name = file_name("root", root.version + 1)
        if name not in metadata:
            break
        newer = parse_root(name, metadata[name])
        role_of(newer.signed, name)
        check_signatures(root, "root", newer)
        check_signatures(newer.signed, "root", newer)
        root = newer.signed
    return root


def check_kit_signatures(data: bytes, targets: Targets) -> bytes:
    """Check that the holders of the kit role have signed a kit's document; return the bytes they signed.

    Raises:
        TrustRefused: ``TRUST_UNSIGNED_KIT`` or ``TRUST_THRESHOLD``.
    """
    try:
        document = decode_signed(data)
        signed = bytes(document.signed)
        signatures = {entry.keyid: TufSignature(entry.keyid, entry.sig) for entry in document.signatures}
        result = targets.get_verification_result(KIT, signed, signatures)
    except (MessageRefused, ValueError) as error:
        raise not_a_kit(Path("kit.json"), str(error)) from error
    if not result.signed:
        raise not_a_kit(Path("kit.json"), "nobody trusted for kits has signed it")
    if not result:
        raise TrustRefused(
            f"The kit has {len(result.signed)} of the {result.threshold} signatures it needs.",
            code="TRUST_THRESHOLD",
            remedy="Another holder of a kit key has to sign.",
        )
    return signed


def check_contents(document: KitDocument, archive: KitArchive) -> None:
    """Check that a kit holds exactly the files its document names (blobs by length: they are hashed when read).

    Raises:
        TrustRefused: ``TRUST_MIX`` or ``TRUST_DIGEST``.
    """
    if set(document.metadata) != set(archive.metadata) or document.blobs != dict(archive.blobs):
        raise mixed(KIT)
    for name, data in archive.metadata.items():
        if document.metadata[name] != described(data):
            raise TrustRefused(
                f"The kit's file {name} has other content than was signed.",
                code="TRUST_DIGEST",
                remedy="Copy the kit to its carrier again; if it stays so, make it again.",
            )


def check_kit_expiry(document: KitDocument, clock_ms: int) -> None:
    """Check that a kit has not expired, and was not made to last longer than any kit may.

    Raises:
        TrustRefused: ``TRUST_EXPIRED_KIT``.
    """
    if document.expires <= clock_ms or document.expires - document.issued > MAX_LIFE_MS:
        raise TrustRefused(
            "The kit has expired, or was made to last longer than 180 days.",
            code="TRUST_EXPIRED_KIT",
            remedy="Have the holders of the kit keys make a new one.",
            details={"expires": document.expires, "issued": document.issued},
        )


def check_kit_newer(kit: Kit, known: int, known_sha256: str) -> None:
    """Check that a kit is newer than the last one opened, or that very one: a device may start in its middle.

    Raises:
        TrustRefused: ``TRUST_ROLLBACK_KIT``.
    """
    version = kit.document.version
    if version < known or (version == known and known and kit.sha256 != known_sha256):
        raise TrustRefused(
            f"The kit has version {version}; this device has already opened {known}.",
            code="TRUST_ROLLBACK_KIT",
            remedy="Use the newest kit, or make one with a higher version.",
            details={"version": version, "opened": known},
        )


def _verified(delegator: Root | Targets, role: str, metadata: Mapping[str, bytes]) -> Metadata[Targets]:
    names = [name for name in metadata if split_file(name)[0] == role]
    if len(names) != 1:
        raise mixed(role)
    found = parse_targets(names[0], metadata[names[0]])
    role_of(found.signed, names[0])
    check_signatures(delegator, role, found)
    return found


def _read_document(archive: KitArchive, signed: bytes) -> KitDocument:
    try:
        fields = msgspec.json.decode(signed, type=dict[str, object])
        if fields.get("_type") != DOCUMENT_TYPE:
            raise ValueError("it is a document of another kind")
        if fields.get("v") != VERSION:
            raise MessageRefused(
                f"The kit has format version {fields.get('v')!r}.",
                code="MESSAGE_VERSION",
                remedy="Update the agent, or make the kit for the agents in the field.",
            )
        return msgspec.json.decode(signed, type=KitDocument)
    except (msgspec.DecodeError, ValueError) as error:
        raise not_a_kit(archive.path, str(error)) from error
