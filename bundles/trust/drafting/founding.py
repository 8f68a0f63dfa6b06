"""The first metadata of a repository: drafted from public keys, signed by their holders, then founded by the server.

Drafting needs no private key, so the holders of root, targets and teams may sit in different places, with keys in
files, hardware or a cloud (``signing``). Only snapshot and timestamp are signed here, by the server's own keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from bundles.errors import AskPerson, BundleRefused
from bundles.manifest import split_target
from bundles.trust.drafting.drafts import Drafts, Keys, as_drafts, ask_person, delegate, delegated, set_root_keys
from bundles.trust.durable import write_durably
from bundles.trust.profiles import Profile
from bundles.trust.publishing.walk import check_as_devices
from bundles.trust.refusals import mixed
from bundles.trust.revocation import REVOCATION, REVOCATION_PATH, REVOKED_FIELD
from bundles.trust.roles import (
    DEMO_FIELD,
    DIRECTOR,
    DIRECTOR_PATH,
    FLOORS_FIELD,
    KIT,
    KIT_PATH,
    PROFILE_FIELD,
    SERVER_CAS_FIELD,
    TIMESTAMP_LIFE_FIELD,
    UNWRITTEN,
    Lifetimes,
    encode_server_cas,
    file_name,
    parse_root,
    parse_targets,
    split_file,
    team_path,
    team_role,
    timestamp_life_s,
    utc,
)


def first_metadata(
    *,
    root: Keys,
    targets: Keys,
    teams: Mapping[str, Keys],
    snapshot: Key,
    timestamp: Key,
    director: Key,
    now_ms: int,
    revocation: Keys | None = None,
    kit: Keys | None = None,
    profile: str | None = None,
    demo: bool = False,
    server_cas: Sequence[bytes] = (),
    floors: Mapping[str, int] | None = None,
    lifetimes: Lifetimes | None = None,
) -> Drafts:
    """Draft version 1 of root, targets, revocation and every team's role.

    Args:
        root: holders of the root role.
        targets: holders of the targets role.
        teams: holders of each team's role, by team.
        snapshot: the server's snapshot key.
        timestamp: the server's timestamp key.
        director: the key that will sign desired documents.
        now_ms: time of the ceremony.
        revocation: holders of the revocation role (its threshold must be 1); None = nothing can be revoked yet.
        kit: signers of offline kits.
        profile: ``solo``, ``team`` or ``regulated``, as a statement to readers.
        demo: mark the keys as a demo's: no real device accepts them.
        server_cas: DER of the server's CA certificates, at least two, the one in use first.
        floors: signed lowest release counters by ``team/model``.
        lifetimes: how long each role is good for.

    Raises:
        AskPerson: ``TRUST_CEREMONY``.
        TrustRefused: ``TRUST_THRESHOLD``: one key under two ids; ``TRUST_UNSIGNED_TARGETS``: as ``encode_server_cas``.
    """
    life = lifetimes or Lifetimes()
    top = Root(
        expires=utc(now_ms + life.root_s * 1000),
        consistent_snapshot=True,
        unrecognized_fields={TIMESTAMP_LIFE_FIELD: life.timestamp_s},
    )
    if profile is not None:
        top.unrecognized_fields[PROFILE_FIELD] = profile
    if demo:
        top.unrecognized_fields[DEMO_FIELD] = True
    for role, keys in (
        ("root", root),
        ("targets", targets),
        ("snapshot", Keys([snapshot])),
        ("timestamp", Keys([timestamp])),
    ):
        set_root_keys(top, role, keys)
    listing = Targets(expires=utc(now_ms + life.targets_s * 1000))
    listing.unrecognized_fields[FLOORS_FIELD] = dict(floors or {})
    if server_cas:
        listing.unrecognized_fields[SERVER_CAS_FIELD] = encode_server_cas(server_cas)
    delegate(listing, DIRECTOR, DIRECTOR_PATH, Keys([director]))
    roles: list[tuple[str, Root | Targets]] = []
    if revocation is not None:
        delegate(listing, REVOCATION, REVOCATION_PATH, checked_revocation(revocation))
        roles.append((REVOCATION, first_revocation(now_ms, life)))
    if kit is not None:
        delegate(listing, KIT, KIT_PATH, kit)
    for team, keys in teams.items():
        delegate(listing, team_role(team), checked_team_path(team), keys)
        roles.append((team_role(team), first_team(now_ms, life)))
    return as_drafts(("root", top), ("targets", listing), *roles)


def found_repository(
    folder: Path,
    files: Mapping[str, bytes],
    snapshot: Signer,
    timestamp: Signer,
    now_ms: int,
    lifetimes: Lifetimes | None = None,
) -> None:
    """Sign the first snapshot and timestamp over fully signed first metadata, check it as a new device, and write it.

    Args:
        folder: made if missing; must hold no repository.
        files: ``first_metadata`` with all signatures: name -> bytes.
        snapshot: the server's snapshot key.
        timestamp: the server's timestamp key.
        now_ms: time of founding.
        lifetimes: life of the snapshot; a timestamp's is in the root.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: there is a repository already.
        TrustRefused: what a new device would refuse it with, such as ``TRUST_THRESHOLD``.
        OSError: the disk is full; the folder holds no whole repository then.
    """
    check_no_repository(folder)
    complete = sign_first_state(files, snapshot, timestamp, now_ms, lifetimes)
    targets = parse_targets(file_name("targets", 1), files[file_name("targets", 1)]).signed
    paths = [(role.paths or [""])[0] for name, role in delegated(targets).items() if name not in UNWRITTEN]
    check_as_devices({}, complete, [], [path.replace("*", "none") for path in paths], utc(now_ms))
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(complete, key=lambda name: name == "timestamp.json"):
        write_durably(folder / name, complete[name])


def sign_first_state(
    files: Mapping[str, bytes], snapshot: Signer, timestamp: Signer, now_ms: int, lifetimes: Lifetimes | None = None
) -> dict[str, bytes]:
    """Return ``files`` (the first metadata) with a first snapshot and timestamp over them; nothing is checked.

    Raises:
        TrustRefused: ``TRUST_MIX``: root or targets are missing.
    """
    life = lifetimes or Lifetimes()
    for role in ("root", "targets"):
        if file_name(role, 1) not in files:
            raise mixed(role)
    root = parse_root(file_name("root", 1), files[file_name("root", 1)]).signed
    meta = {f"{role}.json": MetaFile(version) for role, version in map(split_file, files) if role != "root"}
    state = Metadata(Snapshot(expires=utc(now_ms + life.snapshot_s * 1000), meta=meta))
    stamp = Metadata(Timestamp(expires=utc(now_ms + timestamp_life_s(root) * 1000), snapshot_meta=MetaFile(1)))
    state.sign(snapshot)
    stamp.sign(timestamp)
    return {**files, file_name("snapshot", 1): state.to_bytes(), file_name("timestamp", 1): stamp.to_bytes()}


def check_no_repository(folder: Path) -> None:
    """Check that ``folder`` holds nothing.

    Raises:
        AskPerson: ``TRUST_CEREMONY``.
    """
    if folder.exists() and any(folder.iterdir()):
        ask_person(
            f"There is a trust repository in {folder} already.",
            "Choose an empty folder; a repository is created once and then changed by signing.",
        )


def check_profile_keys(profile: Profile, *, root: Keys, targets: Keys, revocation: Keys) -> None:
    """Check that roles have as many keys, of which as many sign, as ``profile`` asks for at least.

    Raises:
        AskPerson: ``TRUST_CEREMONY``.
    """
    for what, keys, number, threshold in (
        ("root", root, profile.root_keys, profile.root_threshold),
        ("targets", targets, profile.targets_keys, profile.targets_threshold),
        ("revocation", revocation, profile.revocation_keys, 1),
    ):
        if len(keys.by_id) < number or keys.threshold < threshold:
            ask_person(
                f"Profile {profile.name} asks for {number} {what} keys of which {threshold} sign.",
                f"Make the keys that are missing and name all {number}.",
            )


def check_team_keys(profile: Profile, team: str, keys: Keys) -> None:
    """Check that the role of ``team`` has the threshold that ``profile`` asks for at least.

    Raises:
        AskPerson: ``TRUST_CEREMONY``.
    """
    if keys.threshold < profile.team_threshold:
        ask_person(
            f"Profile {profile.name} asks for {profile.team_threshold} signatures of team {team}.",
            f"Name {profile.team_keys} keys of team {team}.",
        )


def first_team(now_ms: int, life: Lifetimes) -> Targets:
    """Return the first, empty role of a team."""
    return Targets(expires=utc(now_ms + life.team_s * 1000))


def first_revocation(now_ms: int, life: Lifetimes) -> Targets:
    """Return the first revocation list, which forbids nothing."""
    expires = utc(now_ms + life.revocation_s * 1000)
    return Targets(expires=expires, unrecognized_fields={REVOKED_FIELD: {}})


def checked_revocation(keys: Keys) -> Keys:
    """Return the keys of a revocation role.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: its threshold is not 1.
    """
    if keys.threshold != 1:
        ask_person(
            "The revocation role has threshold 1: how many have signed decides how far a revocation reaches.",
            "Name all keys of the role and leave the threshold at 1.",
        )
    return keys


def checked_team_path(team: str) -> str:
    """Return the path pattern of ``team``.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: no team can have that name.
    """
    try:
        split_target(f"{team}/model/version/bundle.json")
    except BundleRefused as error:
        raise AskPerson(
            f"{team!r} cannot be the name of a team.",
            code="TRUST_CEREMONY",
            remedy="Use lower-case letters, digits, '.', '_' and '-', starting with a letter or digit.",
        ) from error
    return team_path(team)
