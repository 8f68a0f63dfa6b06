"""A founding by holders in different places: ``wavegate trust init --root-key …`` drafts, ``trust found`` concludes.

No private key but the server's own is made or needed here. The event between the two travels to the holders, who
``sign`` it wherever their keys are; the server's keys come first, because the first root names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bundles.errors import AskPerson
from control_plane.cli.output import Format, Output, say, show
from control_plane.cli.trust.making import explain, now_ms, public_keys
from control_plane.cli.trust.online_keys import data_folder, stopped
from control_plane.cli.trust.options import EventArgument, Json, chosen

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from bundles.trust.drafting.drafts import Keys
    from bundles.trust.profiles import Profile

app = typer.Typer()
_FOUNDED = {"Root": "root", "Server": "server", "Metadata": "files"}


@dataclass(frozen=True)
class Founders:
    """Public keys of those who will hold the offline roles, as many as a profile asks for."""

    profile: Profile
    root: Keys
    targets: Keys
    revocation: Keys
    teams: dict[str, Keys]


def read_founders(
    profile: Profile,
    root: Sequence[Path] | None,
    targets: Sequence[Path] | None,
    revocation: Sequence[Path] | None,
    teams: Sequence[str] | None,
) -> Founders:
    """Load the public key files that a command line names.

    Args:
        profile: how many of each role.
        root: ``NAME.pub`` files.
        targets: likewise; in profile solo the root keys, where none is given.
        revocation: likewise; in profile solo the second root key, where none is given.
        teams: ``TEAM=NAME.pub``.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: the keys are not what the profile asks for; ``KEY_MISSING`` or
            ``KEY_UNSUPPORTED``.
    """
    from bundles.trust.drafting.drafts import ask_person
    from bundles.trust.drafting.founding import check_profile_keys, check_team_keys, checked_team_path

    holders = public_keys(root)
    named = (
        ("root", holders, profile.root_threshold),
        ("targets", public_keys(targets) or (holders if not profile.targets_keys else []), profile.targets_threshold),
        ("revocation", public_keys(revocation) or (holders[1:2] if not profile.revocation_keys else []), 1),
    )
    for what, keys, _ in named:
        if not keys:
            ask_person(f"No {what} key is named.", f"Name one with --{what}-key NAME.pub.")
    of_teams = {team: _keys(keys, profile.team_threshold) for team, keys in team_keys(teams).items()}
    if not of_teams:
        ask_person("No team is named that may list bundles.", "Name one with --team-key TEAM=NAME.pub.")
    offline = {what: _keys(keys, threshold) for what, keys, threshold in named}
    founders = Founders(profile, offline["root"], offline["targets"], offline["revocation"], of_teams)
    check_profile_keys(profile, root=founders.root, targets=founders.targets, revocation=founders.revocation)
    for team, team_quorum in of_teams.items():
        checked_team_path(team)
        check_team_keys(profile, team, team_quorum)
    return founders


def team_keys(given: Sequence[str] | None) -> dict[str, list[Key]]:
    """Load ``TEAM=NAME.pub`` arguments: public keys by team.

    Raises:
        AskPerson: ``KEY_MISSING`` or ``KEY_UNSUPPORTED``.
    """
    from bundles.trust.signing.signers import load_public

    found: dict[str, list[Key]] = {}
    for entry in given or ():
        team, equals, path = entry.partition("=")
        if not equals:
            raise typer.BadParameter(f"{entry!r} is not of the form TEAM=NAME.pub.")
        found.setdefault(team, []).append(load_public(Path(path)))
    return found


def draft_founding(
    place: Path, founders: Founders, server: Path, server_cas: Sequence[bytes], *, demo: bool, note: str
) -> dict[str, Any]:
    """Write the founding event, unsigned; make the server's keys where it has none. Return what was made.

    Args:
        place: folder or zip of the event.
        founders: whose keys.
        server: data folder of the server.
        server_cas: DER of the server's CA certificates.
        demo: mark the keys as a demo's.
        note: for the holders.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: there is a repository already.
        TrustRefused: ``TRUST_THRESHOLD``: one key under two ids.
    """
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.founding import check_no_repository, first_metadata
    from bundles.trust.signing.eventfolder import new_event, write_event

    check_no_repository(server / "metadata")
    online, at_ms = make_online_keys(server / "keys"), now_ms()
    drafts = first_metadata(
        root=founders.root,
        targets=founders.targets,
        teams=founders.teams,
        snapshot=online["snapshot"],
        timestamp=online["timestamp"],
        director=online["director"],
        now_ms=at_ms,
        revocation=founders.revocation,
        profile=founders.profile.name,
        demo=demo,
        server_cas=server_cas,
    )
    files = encode_drafts(drafts)
    write_event(new_event("found", note, at_ms, {}, files), place)
    return {"event": str(place), "server": str(server), "files": sorted(files), **explain(None, files)}


def make_online_keys(folder: Path) -> dict[str, Key]:
    """Return the public halves of the server's keys in ``folder`` by role; those that are missing are made.

    Raises:
        AskPerson: ``KEY_UNSUPPORTED``: what is there is no key.
        OSError: the folder cannot be written.
    """
    from bundles.trust.signing.signers import load_signer, new_key
    from control_plane.online_keys import ROLES

    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    found: dict[str, Key] = {}
    for role in ROLES:
        path = folder / f"{role}.pem"
        found[role] = (load_signer(path) if path.exists() else new_key(path)).public_key
    return found


@app.command()
def found(
    event: EventArgument,
    server: Annotated[Path, typer.Option(help="The server's data folder, as `trust init` was given it.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the root for devices goes; default root.json in the data folder.")
    ] = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Found the repository: a first snapshot and timestamp over what the holders signed, checked as a new device."""
    from bundles.trust.drafting.founding import found_repository
    from bundles.trust.durable import write_durably
    from bundles.trust.publishing.keyring import KeyRing
    from bundles.trust.roles import file_name, parse_root, parse_targets
    from bundles.trust.signing.base import is_founding
    from bundles.trust.signing.eventfolder import read_event
    from control_plane.cli.metadata import conflicts
    from control_plane.online_keys import OnlineKeys

    with conflicts():
        given = read_event(event)
        if not is_founding(given):
            raise AskPerson(
                f"The event {event} founds nothing.",
                code="TRUST_EVENT",
                remedy="Give the event of `wavegate trust init --root-key`; others go to `wavegate trust publish`.",
            )
        told = explain(None, given.files)
        if not told["complete"]:
            _refuse_incomplete(told["needed"])
        folder = data_folder(str(server))
        first_root, first_targets = file_name("root", 1), file_name("targets", 1)
        root = parse_root(first_root, given.files[first_root]).signed
        if not (folder / "keys" / "snapshot.pem").exists():
            raise AskPerson(
                f"There are no keys of a server in {folder / 'keys'}.",
                code="TRUST_REPOSITORY",
                remedy="Name the folder that `wavegate trust init` had with --server: the first root names its keys.",
            )
        with stopped(folder):
            keys = OnlineKeys(folder / "keys")
            keys.director(parse_targets(first_targets, given.files[first_targets]).signed)
            snapshot = KeyRing("snapshot", keys.ring("snapshot")).signer(root)
            timestamp = KeyRing("timestamp", keys.ring("timestamp")).signer(root)
            say("Checking it as a new device.")
            found_repository(folder / "metadata", given.files, snapshot, timestamp, now_ms())
        place = out or folder / "root.json"
        write_durably(place, given.files[first_root])
    files = sorted(path.name for path in (folder / "metadata").glob("*.json"))
    facts = {"root": str(place), "server": str(folder), "files": files, "changes": told["changes"]}
    show(facts, chosen(output, as_json), _FOUNDED)
    say(f"Give {place} to every holder, and to every device when it enrols. Then: wavegate server run --dir {folder}")


def _refuse_incomplete(needed: list[str]) -> None:
    raise AskPerson(
        f"Signatures are missing: {'; '.join(needed)}.",
        code="TRUST_THRESHOLD",
        remedy="Pass the event on (`wavegate trust sign`), or join signed copies (`wavegate trust merge`).",
        details={"needed": needed},
    )


def _keys(keys: list[Key], threshold: int) -> Keys:
    """Return ``keys`` with the threshold, or where they are too few with the one they can meet: checked by profile."""
    from bundles.trust.drafting.drafts import Keys

    return Keys(keys, min(threshold, len({key.keyid for key in keys})))
