"""``wavegate trust init``, ``upgrade`` and ``drill``: first keys, more keys, proof that a backup works."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from control_plane.cli.output import Format, Output, say, show
from control_plane.cli.trust.at_hand import open_keys
from control_plane.cli.trust.event_command import Making, makes_event
from control_plane.cli.trust.founding import draft_founding, read_founders, team_keys
from control_plane.cli.trust.making import check_free, now_ms, public_keys, read_ground
from control_plane.cli.trust.options import (
    Json,
    Metadata,
    Note,
    PassphraseFile,
    PinFile,
    Plain,
    Publics,
    Root,
    SchemeOption,
    chosen,
)

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from bundles.trust.drafting.drafts import Keys
    from bundles.trust.publishing.state import State
    from bundles.trust.signing.ceremony import Ceremony

app = typer.Typer()
_DRAFTED = {"Profile": "profile", "Event": "event", "Server": "server", "Files": "files", "Still needed": "needed"}


@app.command()
def init(
    folder: Annotated[Path, typer.Option("--dir", help="Where keys and first metadata go.")],
    profile: Annotated[
        Literal["solo", "team", "regulated"], typer.Option(help="How many people hold the offline keys.")
    ] = "solo",
    team: Annotated[list[str] | None, typer.Option(help="A team that lists bundles; may be given again.")] = None,
    server: Annotated[Path | None, typer.Option(help="The server's data folder; default DIR/server.")] = None,
    backup: Annotated[
        Path | None, typer.Option(help="Another place for the last root key, such as a USB stick.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write the last root key, encrypted, as a sheet of text to print.")
    ] = None,
    root_key: Annotated[
        list[Path] | None, typer.Option(help="Public key of a root holder, who keeps the private one; repeatable.")
    ] = None,
    targets_key: Annotated[list[Path] | None, typer.Option(help="Of a targets holder; repeatable.")] = None,
    revocation_key: Annotated[list[Path] | None, typer.Option(help="Of a revocation holder; repeatable.")] = None,
    team_key: Annotated[
        list[str] | None, typer.Option(metavar="TEAM=NAME.pub", help="Of a holder of a team's role; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --root-key: the event for the holders; default DIR/founding.")
    ] = None,
    note: Note = "",
    demo: Annotated[bool, typer.Option("--demo", help="Mark the keys as a demo's: no real device takes them.")] = False,
    scheme: SchemeOption = "ed25519",
    passphrase_file: PassphraseFile = None,
    plain: Plain = False,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Hold the key ceremony: all keys, the first signed metadata, and what server and devices need of it.

    The server's CA is made too, and a spare of it beside the offline keys; devices are told to trust these two alone.
    With --root-key no offline key is made: the holders named sign the event that is written, then: `trust found`.
    """
    from bundles.trust.profiles import PROFILES
    from bundles.trust.signing.ceremony import check_ceremony, hold_ceremony
    from control_plane.cli.metadata import conflicts
    from control_plane.cli.passphrases import fresh

    at_ms = now_ms()
    if root_key or targets_key or revocation_key or team_key:
        if backup or sheet or team:
            raise typer.BadParameter(
                "--backup, --sheet and --team are for keys made here; name a team with --team-key."
            )
        with conflicts():
            founders = read_founders(PROFILES[profile], root_key, targets_key, revocation_key, team_key)
            place, home = out or folder / "founding", server or folder / "server"
            check_free(place)
            cas = _server_cas(folder, home, fresh(passphrase_file, plain=plain), at_ms, drafted_again=True)
            drafted = draft_founding(place, founders, home, cas, demo=demo, note=note)
        show({"profile": profile, **drafted}, chosen(output, as_json), _DRAFTED)
        say(f"Pass {place} to every holder: wavegate trust sign {place} --signer KEY")
        say(f"Once enough have signed: wavegate trust found {place} --server {home}")
        return
    with conflicts():
        check_ceremony(folder, PROFILES[profile], team or ["main"], server=server, backup=backup)
        passphrase = fresh(passphrase_file, plain=plain)
        cas = _server_cas(folder, server or folder / "server", passphrase, at_ms)
        made = hold_ceremony(
            folder,
            PROFILES[profile],
            team or ["main"],
            passphrase=passphrase,
            now_ms=at_ms,
            scheme=scheme,
            server=server,
            server_cas=cas,
            demo=demo,
            backup=backup,
        )
        last = next(path for path in made.offline_keys if path.name == f"root-{PROFILES[profile].root_keys}.pem")
        if sheet is not None:
            _write_sheet(sheet, last, at_ms, solo=profile == "solo")
    _say_what_next(profile, made, last, backup=backup is not None or sheet is not None)
    facts = {
        "profile": profile,
        "root": str(made.root),
        "server": str(made.server),
        "offline_keys": [str(path) for path in made.offline_keys],
        "server_ca": str(made.server / "keys" / "server-ca.pem"),
        "spare_ca": str(folder / "keys" / "server-ca-spare.pem"),
        "demo": demo,
        "sheet": str(sheet) if sheet is not None else None,
    }
    columns = {"Profile": "profile", "Root": "root", "Server": "server", "Offline keys": "offline_keys"}
    columns |= {"Spare server CA": "spare_ca"}
    show(facts, chosen(output, as_json), columns)


@app.command()
@makes_event
def upgrade(
    making: Making,
    profile: Annotated[Literal["team", "regulated"], typer.Option(help="The profile to climb to.")],
    root_key: Annotated[list[Path] | None, typer.Option(help="Public root key to add; repeatable.")] = None,
    targets_key: Annotated[list[Path] | None, typer.Option(help="Public targets key to add; repeatable.")] = None,
    revocation_key: Annotated[list[Path] | None, typer.Option(help="Public revocation key to add; repeatable.")] = None,
    team_key: Annotated[
        list[str] | None, typer.Option(metavar="TEAM=NAME.pub", help="Public key to add to a team; repeatable.")
    ] = None,
) -> None:
    """Go up to a profile with more holders: one event, a root rotation; devices notice nothing and keep running.

    New root keys join the ones there are; targets and revocation get keys of their own.
    """
    from bundles.trust.drafting.drafts import Keys, encode_drafts, keys_of
    from bundles.trust.drafting.rotation import upgrade as climb
    from bundles.trust.profiles import PROFILES

    wanted = PROFILES[profile]
    ground = making.ground()
    state = ground.state
    holders = _joined(keys_of(state.root, "root").keys, public_keys(root_key))
    drafts = climb(
        state,
        wanted,
        root=Keys(holders, wanted.root_threshold),
        targets=Keys(_own(state, "targets", targets_key), wanted.targets_threshold),
        revocation=Keys(_own(state, "revocation", revocation_key), 1),
        teams=_teams(state, team_keys(team_key), wanted.team_threshold),
        now_ms=ground.now_ms,
    )
    making.finish(ground, "upgrade", encode_drafts(drafts))


@app.command()
def drill(
    ctx: typer.Context,
    lost: Annotated[str, typer.Option(help="The key given up for the drill: its id, or NAME.pub.")],
    signer: Annotated[list[str], typer.Option("--signer", "--key", help="The backup: every key left; repeatable.")],
    public: Publics = None,
    metadata: Metadata = "",
    root: Root = None,
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Prove that the backup suffices: recover from the loss of a key in a copy, before it happens. Changes nothing."""
    from bundles.trust.signing.drill import drill as rehearse
    from control_plane.cli.trust.making import key_of

    ground = read_ground(ctx, metadata, root)
    delegations = ground.state.targets.delegations
    known = {**(delegations.keys if delegations is not None else {}), **ground.state.root.keys}
    backup = [key.signer for key in open_keys(signer, public, passphrase_file, pin_file)]
    with tempfile.TemporaryDirectory() as folder:
        for name, data in ground.base.items():
            (Path(folder) / name).write_bytes(data)
        report = rehearse(Path(folder), ground.root, key_of(list(known.values()), lost), backup, ground.now_ms)
    for sentence in report.words:
        say(sentence)
    facts = {"recovered": True, "lost": report.lost, "roles": report.roles, "words": report.words}
    show(facts, chosen(output, as_json), {"Recovered": "recovered", "Lost": "lost", "Roles": "roles"})


def _server_cas(
    folder: Path, server: Path, passphrase: bytes | None, at_ms: int, *, drafted_again: bool = False
) -> list[bytes]:
    """Return the server's CA, made where it has none, and a new spare (both DER), for the first targets to name.

    They come before the metadata: a set that names CAs whose keys a crash has swallowed would lock every device out.
    Where a founding is ``drafted_again``, the spare of the first draft is taken.

    Raises:
        AskPerson: ``TRUST_CEREMONY``: a ceremony was held here; ``CA_EXISTS``.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from bundles.trust.drafting.founding import check_no_repository
    from control_plane.identity.authority import Authority
    from control_plane.identity.spare import CURRENT, SPARE, make_spare_ca

    check_no_repository(server / "metadata")
    spare = folder / "keys" / f"{SPARE}.pem"
    if not (drafted_again and spare.exists()):
        spare = make_spare_ca(folder / "keys", passphrase, at_ms).certificate
    current = Authority.open_or_create(server / "keys", CURRENT, at_ms).certificate_pem
    pems = [current, spare.read_bytes()]
    return [x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER) for pem in pems]


def _write_sheet(place: Path, key: Path, at_ms: int, *, solo: bool) -> None:
    from bundles.trust.durable import write_durably
    from bundles.trust.signing.recovery import recovery_sheet
    from bundles.trust.signing.signers import load_public

    roles = ["root", "targets", "revocation"] if solo else ["root"]
    text = recovery_sheet(key.read_bytes(), load_public(key), name=key.name, roles=roles, made_ms=at_ms)
    write_durably(place, text.encode(), mode=0o600)


def _say_what_next(profile: str, made: Ceremony, last: Path, *, backup: bool) -> None:
    keys = made.folder / "keys"
    say(f"Keep the keys in {keys} apart from the server, and copies of the root keys in two places.")
    say("server-ca-spare among them replaces the server's CA, should that be lost: wavegate server adopt-ca.")
    if profile == "solo":
        say("Profile solo: one person can sign anything. One person: not reviewed.")
        if not backup:
            say(f"{last} is your backup: move it to another place, or print it (--sheet FILE).")
    else:
        say(f"Profile {profile}: give each holder one key, and keep no copy here.")
    rest = last if profile == "solo" else "KEY, once for every key left"
    say(
        "Prove the backup before the first real device enrols: wavegate trust drill"
        f" --metadata {made.server} --lost {keys / 'root-1.pub'} --signer {rest}"
    )


def _joined(kept: Sequence[Key], fresh: list[Key]) -> list[Key]:
    return list({key.keyid: key for key in [*kept, *fresh]}.values())


def _own(state: State, role: str, paths: list[Path] | None) -> list[Key]:
    """Return keys of ``role``, without those that are root's: the profiles above solo keep them apart."""
    from bundles.trust.drafting.drafts import keys_of

    holder = state.root if role == "targets" else state.targets
    try:
        kept = [key for key in keys_of(holder, role).keys if key.keyid not in state.root.roles["root"].keyids]
    except ValueError:
        kept = []
    return _joined(kept, public_keys(paths))


def _teams(state: State, added: dict[str, list[Key]], threshold: int) -> dict[str, Keys]:
    """Return the keys of every team that gets more of them, or another threshold."""
    from bundles.trust.drafting.drafts import Keys, delegated, keys_of
    from bundles.trust.roles import TEAM_PREFIX, team_role

    teams = [role.removeprefix(TEAM_PREFIX) for role in delegated(state.targets) if role.startswith(TEAM_PREFIX)]
    changed: dict[str, Keys] = {}
    for team in teams:
        current = keys_of(state.targets, team_role(team))
        if team in added or current.threshold < threshold:
            changed[team] = Keys(_joined(list(current.keys), added.get(team, [])), max(threshold, current.threshold))
    return changed
