"""``wavegate trust key``: make a key in a file, or take the public half of one that lives elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli.output import Format, Output, say, show
from control_plane.cli.trust.options import Json, PassphraseFile, PinFile, Plain, SchemeOption, chosen

app = typer.Typer(help="Keys in files and in hardware.", no_args_is_help=True)


@app.command("new")
def new_key(
    path: Annotated[Path, typer.Argument(help="Private key file to make; NAME.pub is made beside it.")],
    scheme: SchemeOption = "ed25519",
    passphrase_file: PassphraseFile = None,
    plain: Plain = False,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Make a key pair."""
    from bundles.trust.signing import signers
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
    show(facts, chosen(output, as_json), columns)


@app.command("server-ca")
def new_server_ca(
    folder: Annotated[Path, typer.Argument(help="Folder for NAME.pem and NAME.key, apart from the server.")],
    name: Annotated[str, typer.Option(help="Of the two files.")] = "server-ca-spare",
    passphrase_file: PassphraseFile = None,
    plain: Plain = False,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Make a spare CA for the server. Sign it into the set with `trust rotate server-ca`."""
    from control_plane.cli.metadata import conflicts
    from control_plane.cli.passphrases import fresh
    from control_plane.cli.trust.making import now_ms
    from control_plane.identity.spare import make_spare_ca

    with conflicts():
        made = make_spare_ca(folder, fresh(passphrase_file, plain=plain), now_ms(), name)
    facts = {"certificate": str(made.certificate), "key": str(made.key)}
    show(facts, chosen(output, as_json), {"Certificate": "certificate", "Key": "key"})


@app.command("import")
def import_key(
    signer: Annotated[str, typer.Option(help="Where the key lives: hsm:2?label=..., awskms:..., a file.")],
    out: Annotated[Path, typer.Option(help="Public key file to write: NAME.pub.")],
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Write the public half of a key in hardware, a key service or a file, to delegate to. Twice changes nothing."""
    from bundles.errors import AskPerson
    from bundles.trust.durable import read_if_there, write_durably
    from bundles.trust.signing.remote_signers import import_key as ask_for_key
    from bundles.trust.signing.remote_signers import is_remote
    from bundles.trust.signing.signers import encode_public, open_signer
    from control_plane.cli.metadata import conflicts
    from control_plane.cli.passphrases import existing, pins

    if is_remote(signer):
        uri, key = ask_for_key(signer, pins(pin_file))
    else:
        uri, key = signer, open_signer(signer, passphrase=existing(passphrase_file)).public_key
    encoded, before = encode_public(key), read_if_there(out)
    if before not in (None, encoded):
        with conflicts():
            raise AskPerson(f"There is another key at {out}.", code="KEY_EXISTS", remedy="Choose another name.")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_durably(out, encoded)
    say(f"Sign with: --signer '{uri}' --public {out}")
    facts = {"keyid": key.keyid, "scheme": key.scheme, "signer": uri, "public": str(out)}
    columns = {"Key id": "keyid", "Scheme": "scheme", "Signer": "signer", "Public": "public"}
    show(facts, chosen(output, as_json), columns)
