"""``wavegate server``: run the control plane, migrate its database, make the first admin. The work is ``app``'s."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Run and set up the control plane.", no_args_is_help=True)

Dir = Annotated[Path | None, typer.Option("--dir", help="Data folder.", envvar="WAVEGATE_SERVER_DIR")]


@app.command()
def run(
    folder: Dir = None,
    host: Annotated[str | None, typer.Option(help="Address of the operators' door.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the operators' door (plain HTTP); 0 = any free.")] = None,
    device_host: Annotated[str | None, typer.Option(help="Address of the devices' door.")] = None,
    device_port: Annotated[int | None, typer.Option(help="Port of the devices' door (TLS); 0 = any free.")] = None,
    mqtt_host: Annotated[str | None, typer.Option(help="Address the private broker listens on.")] = None,
    mqtt_port: Annotated[int | None, typer.Option(help="Port of the private broker (mutual TLS).")] = None,
    mqtt_ws_port: Annotated[int | None, typer.Option(help="Its port for MQTT over WebSocket; 0 = none.")] = None,
    no_broker: Annotated[bool, typer.Option("--no-broker", help="No broker: devices poll over HTTPS.")] = False,
    broker_required: Annotated[
        bool, typer.Option("--broker-required", help="Do not start where mosquitto is missing.")
    ] = False,
    database_url: Annotated[str | None, typer.Option(help="PostgreSQL or SQLite URL; default SQLite in --dir.")] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write the addresses there as JSON once every door answers.")
    ] = None,
) -> None:
    """Run the control plane until Ctrl-C."""
    from bundles.trust.durable import write_durably
    from control_plane import app as composition

    settings = _settings(
        dir=folder,
        host=host,
        port=port,
        device_host=device_host,
        device_port=device_port,
        mqtt_host=mqtt_host,
        mqtt_port=mqtt_port,
        mqtt_ws_port=mqtt_ws_port,
        broker="none" if no_broker else None,
        broker_required=broker_required or None,
        database_url=database_url,
        log_format=log_format,
        log_level=log_level,
    )

    def started(addresses: dict[str, Any]) -> None:
        if ready_file is not None:
            write_durably(ready_file, json.dumps(addresses).encode())  # whoever waits for it finds it whole
        print(f"Operators  {addresses['operators']}", file=sys.stderr)
        print(f"Devices    {addresses['devices']}  (server CA {addresses['server_ca']})", file=sys.stderr)
        mqtt = addresses["mqtt"]
        print(f"MQTT       {f'{mqtt[0]}:{mqtt[1]}' if mqtt else 'none; devices poll'}", file=sys.stderr)

    composition.run(settings, started=started)


@app.command()
def migrate(folder: Dir = None, database_url: Annotated[str | None, typer.Option()] = None) -> None:
    """Bring the database's schema up to date; `run` does so by itself."""
    from control_plane import app as composition
    from control_plane.folder import Folder, own

    settings = _settings(dir=folder, database_url=database_url)
    with own(Folder(settings.dir)):
        composition.open_database(settings).close()
    print("The schema is up to date.", file=sys.stderr)


@app.command("adopt-ca")
def adopt_ca(
    certificate: Annotated[Path, typer.Option("--certificate", help="The spare CA's certificate, PEM.")],
    key: Annotated[Path, typer.Option("--key", help="Its key, PEM.")],
    folder: Dir = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="File with the key's passphrase.")] = None,
) -> None:
    """Issue the server's certificates by its spare CA from the next start on. Devices must hold its pin already.

    The key of the CA before is kept encrypted under the same passphrase, for you to take away; without one it is gone.
    """
    from control_plane import app as composition
    from control_plane.cli.passphrases import existing
    from control_plane.folder import Folder, own
    from control_plane.identity import spare

    place = Folder(_settings(dir=folder).dir)
    with own(place):
        pinned, now_ms = spare.signed_pins(place.metadata), composition.SystemClock().now_ms()
        retired = spare.adopt_ca(place.keys, certificate, key, existing(passphrase_file)(key), pinned, now_ms)
    print("Adopted. Start the server; it issues its certificates anew.", file=sys.stderr)
    if retired == "kept":
        aside = place.keys / spare.RETIRED
        print(f"The CA before is {aside}.pem and .key, under the passphrase you gave. Take both away;", file=sys.stderr)
        print("destroy them once a set without it is signed (wavegate trust rotate server-ca).", file=sys.stderr)
    elif retired == "removed":
        print(
            "The key of the CA before is removed. Sign a set without it (wavegate trust rotate server-ca).",
            file=sys.stderr,
        )


@app.command("create-admin")
def create_admin(
    principal: Annotated[str, typer.Argument(help="Who the token is for, such as ada@example.com.")],
    folder: Dir = None,
    database_url: Annotated[str | None, typer.Option()] = None,
    days: Annotated[int, typer.Option(help="Life of the token.", min=1, max=366)] = 90,
) -> None:
    """Print a new admin token. It is shown this once; whoever can write the database may run this."""
    from control_plane import app as composition
    from control_plane.auth import Role
    from control_plane.services import tokens

    settings = _settings(dir=folder, database_url=database_url)
    db = composition.open_database(settings)
    with db.write() as session:
        made = tokens.create(
            session,
            principal=principal,
            role=Role.ADMIN,
            life_s=days * 24 * 3600,
            actor="system:cli",
            now_ms=composition.SystemClock().now_ms(),
            random_bytes=secrets.token_bytes,
        )
    db.close()
    print(made.token)


def _settings(**flags: Any) -> Any:
    from pydantic import ValidationError

    from bundles.errors import AskPerson
    from control_plane import settings

    try:
        return settings.load(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        raise AskPerson(
            f"The setting {name!r} is not valid: {first['msg']}.",
            code="SETTINGS",
            remedy="Check the flag, WAVEGATE_SERVER_* or settings.toml in the data folder.",
        ) from error
