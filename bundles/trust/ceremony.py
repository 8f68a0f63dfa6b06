"""Holding the key ceremony with keys in files: one call makes all keys and the first metadata.

::

    keys/           offline: root-N, targets-N, team-NAME; belongs on the holders' own media
    root.json       what devices trust from the start
    server/metadata the first metadata, for the server
    server/keys     snapshot, timestamp, director: the only keys a server holds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import Signer

from bundles.errors import AskPerson
from bundles.trust.durable import write_durably
from bundles.trust.offline import Quorum, checked_team_path, new_repository
from bundles.trust.roles import DIRECTOR, Lifetimes, file_name
from bundles.trust.signers import Scheme, new_key

ONLINE = ("snapshot", "timestamp", DIRECTOR)


@dataclass(frozen=True)
class Profile:
    """How many people hold the offline keys.

    Attributes:
        name: ``solo`` or ``team``.
        root_keys: root keys made.
        root_threshold: of them must sign.
        targets_keys: keys of the targets role; 0 = the root holders sign it.
        targets_threshold: of them must sign.
    """

    name: str
    root_keys: int
    root_threshold: int
    targets_keys: int
    targets_threshold: int


PROFILES = {
    "solo": Profile("solo", root_keys=2, root_threshold=1, targets_keys=0, targets_threshold=1),
    "team": Profile("team", root_keys=3, root_threshold=2, targets_keys=2, targets_threshold=2),
}


@dataclass(frozen=True)
class Ceremony:
    """What ``hold_ceremony`` wrote.

    Attributes:
        folder: where.
        offline_keys: private key files to take off this machine.
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

    Raises:
        AskPerson: ``KEY_EXISTS`` or ``TRUST_CEREMONY``; no existing file is overwritten.
    """
    for team in teams:
        checked_team_path(team)
    offline, online = folder / "keys", (server or folder / "server")
    metadata, online_keys = online / "metadata", online / "keys"
    if metadata.exists() and any(metadata.iterdir()):
        raise AskPerson(
            f"There is a trust repository in {metadata} already.",
            code="TRUST_CEREMONY",
            remedy="Choose an empty folder; a repository is created once and then changed by signing.",
        )
    for place in (offline, metadata, online_keys):
        place.mkdir(parents=True, exist_ok=True)
    offline.chmod(0o700)
    online_keys.chmod(0o700)

    def offline_signers(name: str, count: int) -> list[Signer]:
        return [new_key(offline / f"{name}-{n}.pem", scheme=scheme, passphrase=passphrase) for n in range(1, count + 1)]

    root = offline_signers("root", profile.root_keys)
    targets = offline_signers("targets", profile.targets_keys) or root
    team_keys = {team: new_key(offline / f"team-{team}.pem", scheme=scheme, passphrase=passphrase) for team in teams}
    served = {role: new_key(online_keys / f"{role}.pem", scheme=scheme) for role in ONLINE}
    files = new_repository(
        root=Quorum(root, profile.root_threshold),
        targets=Quorum(targets, profile.targets_threshold),
        teams={team: Quorum([signer], 1) for team, signer in team_keys.items()},
        snapshot=served["snapshot"],
        timestamp=served["timestamp"],
        director=served[DIRECTOR].public_key,
        now_ms=now_ms,
        lifetimes=lifetimes,
    )
    for name, data in files.items():
        write_durably(metadata / name, data)
    write_durably(folder / "root.json", files[file_name("root", 1)])
    return Ceremony(folder, sorted(offline.glob("*.pem")), online, folder / "root.json")
