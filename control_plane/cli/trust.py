"""``wavegate trust``: the key ceremony, keys, teams, status. The work is in ``bundles.trust``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from control_plane.cli.output import Format, Output, say, show

app = typer.Typer(help="Keys, roles and who may sign what.", no_args_is_help=True)
key_app = typer.Typer(help="Key files.", no_args_is_help=True)
delegate_app = typer.Typer(help="Which team may list bundles.", no_args_is_help=True)
app.add_typer(key_app, name="key")
app.add_typer(delegate_app, name="delegate")

Json = Annotated[bool, typer.Option("--json", help="The same as -o json.")]
PassphraseFile = Annotated[Path | None, typer.Option(help="File holding the passphrase of the keys.")]
Plain = Annotated[bool, typer.Option("--plain", help="Leave new private keys unencrypted: for demos and tests.")]
SchemeOption = Annotated[Literal["ed25519", "ecdsa"], typer.Option(help="Kind of new keys.")]

_ROLES = {
    "Role": "role",
    "Version": "version",
    "Expires": "expires_ms",
    "Threshold": "threshold",
    "Keys": "keys",
    "Signed by": "signed_by",
    "Listed": "listed",
}


@app.command()
def init(
    folder: Annotated[Path, typer.Option("--dir", help="Where keys and first metadata go.")],
    profile: Annotated[Literal["solo", "team"], typer.Option(help="Who holds the offline keys.")] = "solo",
    team: Annotated[list[str] | None, typer.Option(help="A team that lists bundles; may be given again.")] = None,
    server: Annotated[Path | None, typer.Option(help="The server's data folder; default DIR/server.")] = None,
    scheme: SchemeOption = "ed25519",
    passphrase_file: PassphraseFile = None,
    plain: Plain = False,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Hold the key ceremony: all keys, the first signed metadata, and what server and devices need of it."""
    from bundles.trust.ceremony import PROFILES, hold_ceremony
    from control_plane.cli.metadata import conflicts
    from control_plane.cli.passphrases import fresh

    with conflicts():
        made = hold_ceremony(
            folder,
            PROFILES[profile],
            team or ["main"],
            passphrase=fresh(passphrase_file, plain=plain),
            now_ms=_now_ms(),
            scheme=scheme,
            server=server,
        )
    say(f"Keep the keys in {made.folder / 'keys'} apart from the server, and copies of the root keys in two places.")
    if profile == "solo":
        say("Profile solo: one person can sign anything, and nothing they sign is reviewed.")
    facts = {
        "profile": profile,
        "root": str(made.root),
        "server": str(made.server),
        "offline_keys": [str(path) for path in made.offline_keys],
    }
    columns = {"Profile": "profile", "Root": "root", "Server": "server", "Offline keys": "offline_keys"}
    show(facts, Format.JSON if as_json else output, columns)


@key_app.command("new")
def new_key(
    path: Annotated[Path, typer.Argument(help="Private key file to make; NAME.pub is made beside it.")],
    scheme: SchemeOption = "ed25519",
    passphrase_file: PassphraseFile = None,
    plain: Plain = False,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Make a key pair."""
    from bundles.trust import signers
    from control_plane.cli.metadata import conflicts
    from control_plane.cli.passphrases import fresh

    with conflicts():
        signer = signers.new_key(path, scheme=scheme, passphrase=fresh(passphrase_file, plain=plain))
    facts = {
        "keyid": signer.public_key.keyid,
        "scheme": signer.public_key.scheme,
        "private": str(path),
        "public": str(path.with_suffix(".pub")),
    }
    columns = {"Key id": "keyid", "Scheme": "scheme", "Private": "private", "Public": "public"}
    show(facts, Format.JSON if as_json else output, columns)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="Folder of metadata, of a server, or of a ceremony.")],
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Show every role: its version, when it expires, who may sign and who has."""
    from bundles.trust.status import describe

    found = describe(folder, _now_ms())
    form = Format.JSON if as_json else output
    plain = msgspec.to_builtins(found)
    if form is not Format.TABLE:
        show(plain, form, {})
        return
    rows = [
        {**role, "keys": [k[:8] for k in role["keys"]], "signed_by": [k[:8] for k in role["signed_by"]]}
        for role in plain["roles"]
    ]
    show(rows, form, _ROLES)
    for model, counter in found.floors.items():
        say(f"Floor of {model}: release counter {counter}.")
    for remark in found.remarks:
        say(remark)


@delegate_app.command("add")
def add_delegation(
    team: Annotated[str, typer.Argument(help="Name of the new team.")],
    metadata: Annotated[str, typer.Option(help="Folder with trust metadata, or a server's address.")],
    key: Annotated[list[Path], typer.Option(help="Private key of the targets role; as many as its threshold.")],
    team_key: Annotated[list[Path], typer.Option(help="Private key of the new team; may be given again.")],
    out: Annotated[Path, typer.Option(help="Folder to write the event to: the files to publish.")],
    threshold: Annotated[int, typer.Option(help="How many of the team's keys must sign.", min=1)] = 1,
    root: Annotated[Path | None, typer.Option(help="Root metadata to trust; needed with an address.")] = None,
    passphrase_file: PassphraseFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Let a new team list bundles. Writes an event; publish it with `wavegate trust publish`."""
    from bundles.trust.durable import write_durably
    from bundles.trust.offline import Quorum, add_team
    from bundles.trust.release import current_targets
    from bundles.trust.signers import load_signer
    from control_plane.cli.metadata import open_metadata
    from control_plane.cli.passphrases import existing

    fetch, trusted = open_metadata(metadata, root)
    ask, now_ms = existing(passphrase_file), _now_ms()
    targets = current_targets(fetch, trusted, now_ms)
    holders = Quorum([load_signer(path, ask) for path in team_key], threshold)
    files = add_team(targets, team, holders, [load_signer(path, ask) for path in key], now_ms)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_durably(out / name, data)
    say(f"The targets role, version {targets.version + 1}, now also delegates {team}/* to {len(team_key)} key(s).")
    facts = {"team": team, "event": str(out), "files": sorted(files)}
    show(facts, Format.JSON if as_json else output, {"Team": "team", "Event": "event", "Files": "files"})


@app.command()
def publish(
    event: Annotated[Path, typer.Argument(help="Folder of signed metadata files.", exists=True, file_okay=False)],
    server: Annotated[Path, typer.Option(help="Data folder of the server, which must not be running.")],
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Publish an event into the data folder of a stopped server on this machine."""
    from filelock import FileLock, Timeout

    from bundles.errors import TryAgain
    from bundles.trust.repository import OnlineRepository
    from bundles.trust.signers import load_signer
    from control_plane.cli.metadata import conflicts

    try:
        with FileLock(server / "server.lock", timeout=0), conflicts():
            keys = {role: load_signer(server / "keys" / f"{role}.pem") for role in ("snapshot", "timestamp")}
            repository = OnlineRepository(server / "metadata", keys["snapshot"], keys["timestamp"], _now_ms)
            done = repository.publish({path.name: path.read_bytes() for path in sorted(event.glob("*.json"))})
    except Timeout as error:
        raise TryAgain(
            f"A server is running on {server}.",
            code="SERVER_RUNNING",
            remedy="Stop it for the moment of publishing.",
        ) from error
    facts = {"published": done.names, "releases": done.releases, "timestamp_version": done.timestamp_version}
    columns = {"Published": "published", "Releases": "releases", "Timestamp": "timestamp_version"}
    show(facts, Format.JSON if as_json else output, columns)


def _now_ms() -> int:
    return int(time.time() * 1000)
