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
from bundles.trust.roles import DIRECTOR, Lifetimes, encode_server_cas, file_name, team_role
from bundles.trust.signing.signers import Scheme, check_no_key, new_key

__all__ = ["PROFILES", "Ceremony", "Profile", "check_ceremony", "hold_ceremony"]

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
    check_ceremony(folder, profile, teams, server=server, backup=backup)
    offline, online = folder / "keys", (server or folder / "server")
    metadata, online_keys = online / "metadata", online / "keys"
    if server_cas:
        encode_server_cas(server_cas)
    for place in (offline, metadata, online_keys, *([backup] if backup is not None else [])):
        place.mkdir(parents=True, exist_ok=True)
    offline.chmod(0o700)
    online_keys.chmod(0o700)
    kept: list[Path] = []

    def make(paths: list[Path]) -> list[CryptoSigner]:
        kept.extend(paths)
        return [new_key(path, scheme=scheme, passphrase=passphrase) for path in paths]

    places = _places(folder, profile, teams, backup)
    root = make(places["root"])
    targets = make(places["targets"]) or root
    revocation = make(places["revocation"]) or root[1:2]
    team_keys = {team: make(places[team_role(team)]) for team in teams}
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


def check_ceremony(
    folder: Path, profile: Profile, teams: Sequence[str], *, server: Path | None = None, backup: Path | None = None
) -> None:
    """Check every place that ``hold_ceremony`` would write to (arguments as there), before anything is made.

    Raises:
        AskPerson: ``KEY_EXISTS``: a key is where one would go; ``TRUST_CEREMONY``: a team cannot have its name, there
            is a repository already, or the backup would be none.
    """
    for team in teams:
        checked_team_path(team)
    online = server or folder / "server"
    check_no_repository(online / "metadata")
    if backup is not None and backup.resolve() == (folder / "keys").resolve():
        raise AskPerson(
            "The backup would lie beside the key it is for.",
            code="TRUST_CEREMONY",
            remedy="Name another place, such as a USB stick that you then take away.",
        )
    wanted = [path for paths in _places(folder, profile, teams, backup).values() for path in paths]
    for path in [*wanted, *(online / "keys" / f"{role}.pem" for role in ONLINE)]:
        check_no_key(path)


def _places(folder: Path, profile: Profile, teams: Sequence[str], backup: Path | None) -> dict[str, list[Path]]:
    """Return the private key files of a ceremony, by role."""

    def numbered(name: str, keys: int) -> list[Path]:
        return [folder / "keys" / f"{name}-{number}.pem" for number in range(1, keys + 1)]

    places = {
        "root": numbered("root", profile.root_keys),
        "targets": numbered("targets", profile.targets_keys),
        "revocation": numbered("revocation", profile.revocation_keys),
    }
    if backup is not None:
        places["root"][-1] = backup / places["root"][-1].name
    for team in teams:
        role = team_role(team)
        one = [folder / "keys" / f"{role}.pem"]
        places[role] = numbered(role, profile.team_keys) if profile.team_keys > 1 else one
    return places
