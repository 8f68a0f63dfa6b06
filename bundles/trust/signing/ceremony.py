"""Holding the key ceremony with keys in files: one call makes all keys and the first metadata.

::

    keys/           offline: root-N, targets-N, revocation-N, team-NAME; belongs on the holders' own media
    root.json       what devices trust from the start
    server/metadata the first metadata, for the server
    server/keys     snapshot, timestamp, director: the only keys a server holds

Holders who keep their keys to themselves, or in hardware, hold no such ceremony: they draft with ``founding`` from
public keys and sign one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from bundles.errors import AskPerson
from bundles.trust.drafting.founding import check_no_repository, checked_team_path
from bundles.trust.drafting.offline import Quorum, new_repository
from bundles.trust.durable import write_durably
from bundles.trust.profiles import PROFILES, Profile
from bundles.trust.roles import DIRECTOR, Lifetimes, encode_server_cas, file_name
from bundles.trust.signing.signers import Scheme, new_key

__all__ = ["PROFILES", "Ceremony", "Profile", "hold_ceremony"]

ONLINE = ("snapshot", "timestamp", DIRECTOR)


@dataclass(frozen=True)
class Ceremony:
    """What ``hold_ceremony`` wrote.

    Attributes:
        folder: where.
        offline_keys: private key files to take off this machine, the backup's too.
        server: folder to give to the server.
        root: file to give to devices.
    """

    folder: Path
    offline_keys: list[Path]
    server: Path
    root: Path


def hold_ceremony(
    folder: Path,
    profile: Profile,
    teams: Sequence[str],
    *,
    passphrase: bytes | None,
    now_ms: int,
    scheme: Scheme = "ed25519",
    server: Path | None = None,
    lifetimes: Lifetimes | None = None,
    server_cas: Sequence[bytes] = (),
    demo: bool = False,
    backup: Path | None = None,
) -> Ceremony:
    """Make all keys and the first metadata in ``folder``.

    Args:
        folder: made if missing; must not hold a ceremony yet.
        profile: how many keys.
        teams: names of the teams that list bundles.
        passphrase: encrypts the offline keys; None leaves them plain (a demo's).
        now_ms: time of the ceremony.
        scheme: of all keys.
        server: folder of the server (its data folder); default ``folder/server``.
        lifetimes: how long each role is good for.
        server_cas: DER of the server's CA certificates, at least two; devices then trust these and no others.
        demo: mark the keys as a demo's, so that no real device accepts them.
        backup: another place (a USB stick) for the last root key; made if missing.

    Raises:
        AskPerson: ``KEY_EXISTS`` or ``TRUST_CEREMONY``; no existing file is overwritten.
        TrustRefused: ``TRUST_UNSIGNED_TARGETS``: ``server_cas`` are not what they should be.
    """
    for team in teams:
        checked_team_path(team)
    offline, online = folder / "keys", (server or folder / "server")
    metadata, online_keys = online / "metadata", online / "keys"
    check_no_repository(metadata)
    if backup is not None and backup.resolve() == offline.resolve():
        raise AskPerson(
            "The backup would lie beside the key it is for.",
            code="TRUST_CEREMONY",
            remedy="Name another place, such as a USB stick that you then take away.",
        )
    if server_cas:
        encode_server_cas(server_cas)
    for place in (offline, metadata, online_keys, *([backup] if backup is not None else [])):
        place.mkdir(parents=True, exist_ok=True)
    offline.chmod(0o700)
    online_keys.chmod(0o700)
    kept: list[Path] = []

    def make(name: str, place: Path = offline) -> CryptoSigner:
        kept.append(place / f"{name}.pem")
        return new_key(kept[-1], scheme=scheme, passphrase=passphrase)

    root = [
        make(f"root-{n}", backup if backup is not None and n == profile.root_keys else offline)
        for n in range(1, profile.root_keys + 1)
    ]
    targets = [make(f"targets-{n}") for n in range(1, profile.targets_keys + 1)] or root
    revocation = [make(f"revocation-{n}") for n in range(1, profile.revocation_keys + 1)] or root[1:2]
    team_keys = {
        team: [make(f"team-{team}{f'-{n}' if profile.team_keys > 1 else ''}") for n in range(1, profile.team_keys + 1)]
        for team in teams
    }
    served = {role: new_key(online_keys / f"{role}.pem", scheme=scheme) for role in ONLINE}
    files = new_repository(
        root=Quorum(root, profile.root_threshold),
        targets=Quorum(targets, profile.targets_threshold),
        teams={team: Quorum(signers, profile.team_threshold) for team, signers in team_keys.items()},
        snapshot=served["snapshot"],
        timestamp=served["timestamp"],
        director=served[DIRECTOR].public_key,
        now_ms=now_ms,
        lifetimes=lifetimes,
        revocation=Quorum(revocation, 1),
        profile=profile.name,
        demo=demo,
        server_cas=server_cas,
    )
    for name, data in files.items():
        write_durably(metadata / name, data)
    write_durably(folder / "root.json", files[file_name("root", 1)])
    return Ceremony(folder, sorted(kept), online, folder / "root.json")
