"""``wavegate trust rotate``: other keys for a role, or other CAs for the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli.output import Format, Output
from control_plane.cli.trust.at_hand import open_keys
from control_plane.cli.trust.making import changed_keys, finish, read_ground
from control_plane.cli.trust.online_keys import next_keys
from control_plane.cli.trust.options import (
    Json,
    Metadata,
    Note,
    Out,
    PassphraseFile,
    PinFile,
    Publics,
    Root,
    Server,
    Signers,
    chosen,
)

app = typer.Typer(help="Exchange the keys of a role.", no_args_is_help=True)
Add = Annotated[list[Path] | None, typer.Option("--add", help="Public key to add; repeatable.")]
Remove = Annotated[list[str] | None, typer.Option("--remove", help="Key to remove: .pub file or id; repeatable.")]
Threshold = Annotated[int | None, typer.Option(help="How many must sign from now on.", min=1)]


@app.command("root")
def root_keys(
    ctx: typer.Context,
    add: Add = None,
    remove: Remove = None,
    threshold: Threshold = None,
    metadata: Metadata = "",
    signer: Signers = None,
    public: Publics = None,
    out: Out = None,
    root: Root = None,
    note: Note = "",
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Exchange keys of root. Both the root before and the new one must be signed for."""
    from bundles.trust.drafting.drafts import encode_drafts, keys_of
    from bundles.trust.drafting.rotation import rotate_root
    from control_plane.cli.metadata import conflicts

    with conflicts():
        ground = read_ground(ctx, metadata, root)
        keys = changed_keys(keys_of(ground.state.root, "root"), add, remove, threshold)
        files = encode_drafts(rotate_root(ground.state, keys, ground.now_ms))
        keys_at_hand = open_keys(signer, public, passphrase_file, pin_file)
        finish(ground, "rotate root", files, keys=keys_at_hand, out=out, note=note, form=chosen(output, as_json))


@app.command("targets")
def targets_keys(
    ctx: typer.Context,
    add: Add = None,
    remove: Remove = None,
    threshold: Threshold = None,
    metadata: Metadata = "",
    signer: Signers = None,
    public: Publics = None,
    out: Out = None,
    root: Root = None,
    note: Note = "",
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Exchange keys of the targets role. Root signs the change, the new holders sign the role."""
    from bundles.trust.drafting.drafts import encode_drafts, keys_of
    from bundles.trust.drafting.rotation import rotate_targets
    from control_plane.cli.metadata import conflicts

    with conflicts():
        ground = read_ground(ctx, metadata, root)
        keys = changed_keys(keys_of(ground.state.root, "targets"), add, remove, threshold)
        files = encode_drafts(rotate_targets(ground.state, keys, ground.now_ms))
        keys_at_hand = open_keys(signer, public, passphrase_file, pin_file)
        finish(ground, "rotate targets", files, keys=keys_at_hand, out=out, note=note, form=chosen(output, as_json))


@app.command("revocation")
def revocation_keys(
    ctx: typer.Context,
    add: Add = None,
    remove: Remove = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Bundle digest to keep revoked under the new keys; default: all.")
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Begin an empty list (but --keep): what a stolen key revoked lapses.")
    ] = False,
    metadata: Metadata = "",
    signer: Signers = None,
    public: Publics = None,
    out: Out = None,
    root: Root = None,
    note: Note = "",
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Exchange keys of the revocation role, or give the repository one. One key always suffices to forbid."""
    from bundles.trust.drafting.drafts import Keys, encode_drafts, keys_of
    from bundles.trust.drafting.rotation import rotate_revocation
    from bundles.trust.publishing.state import delegated_names
    from bundles.trust.revocation import REVOCATION
    from control_plane.cli.metadata import conflicts
    from control_plane.cli.trust.making import public_keys

    with conflicts():
        ground = read_ground(ctx, metadata, root)
        state = ground.state
        if REVOCATION in delegated_names(state.targets):
            keys = changed_keys(keys_of(state.targets, REVOCATION), add, remove, 1)
        else:
            keys = Keys(public_keys(add), 1)
        kept = list(keep or ()) if keep or forget else None
        files = encode_drafts(rotate_revocation(state, keys, ground.now_ms, keep=kept))
        keys_at_hand = open_keys(signer, public, passphrase_file, pin_file)
        finish(ground, "rotate revocation", files, keys=keys_at_hand, out=out, note=note, form=chosen(output, as_json))


@app.command("online")
def online_keys(
    ctx: typer.Context,
    server: Server = "",
    metadata: Metadata = "",
    signer: Signers = None,
    public: Publics = None,
    out: Out = None,
    root: Root = None,
    note: Note = "",
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Exchange the server's snapshot and timestamp keys. The server makes them, and uses them once root names them."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.rotation import rotate_online
    from control_plane.cli.metadata import conflicts

    with conflicts():
        ground = read_ground(ctx, metadata or server, root)
        keys = next_keys(ctx, server or metadata, "online")
        files = encode_drafts(rotate_online(ground.state, keys["snapshot"], keys["timestamp"], ground.now_ms))
        keys_at_hand = open_keys(signer, public, passphrase_file, pin_file)
        finish(ground, "rotate online", files, keys=keys_at_hand, out=out, note=note, form=chosen(output, as_json))


@app.command("director")
def director_key(
    ctx: typer.Context,
    server: Server = "",
    metadata: Metadata = "",
    signer: Signers = None,
    public: Publics = None,
    out: Out = None,
    root: Root = None,
    note: Note = "",
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Exchange the server's director key. The server makes it, and signs every assignment anew once targets name it."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.rotation import rotate_director
    from control_plane.cli.metadata import conflicts

    with conflicts():
        ground = read_ground(ctx, metadata or server, root)
        key = next_keys(ctx, server or metadata, "director")["director"]
        files = encode_drafts(rotate_director(ground.state, key, ground.now_ms))
        keys_at_hand = open_keys(signer, public, passphrase_file, pin_file)
        finish(ground, "rotate director", files, keys=keys_at_hand, out=out, note=note, form=chosen(output, as_json))


@app.command("server-ca")
def server_cas(
    ctx: typer.Context,
    ca: Annotated[list[Path], typer.Option(help="CA certificate (PEM or DER): the one in use first, then spares.")],
    metadata: Metadata = "",
    signer: Signers = None,
    public: Publics = None,
    out: Out = None,
    root: Root = None,
    note: Note = "",
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Say which CAs devices trust to sign the server's certificate: at least two, one of them kept offline."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.statements import set_server_cas
    from control_plane.cli.metadata import conflicts

    with conflicts():
        ground = read_ground(ctx, metadata, root)
        files = encode_drafts(set_server_cas(ground.state, [_certificate(path) for path in ca], ground.now_ms))
        keys_at_hand = open_keys(signer, public, passphrase_file, pin_file)
        finish(ground, "rotate server-ca", files, keys=keys_at_hand, out=out, note=note, form=chosen(output, as_json))


def _certificate(path: Path) -> bytes:
    """Return the certificate in ``path`` as DER.

    Raises:
        AskPerson: ``FILE_UNREADABLE``.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from bundles.errors import AskPerson

    try:
        data = path.read_bytes()
        pem = data.lstrip().startswith(b"-----")
        found = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
    except (OSError, ValueError) as error:
        raise AskPerson(
            f"{path} is no certificate that can be read: {error}.",
            code="FILE_UNREADABLE",
            remedy="Give the CA's certificate as PEM or DER.",
        ) from error
    return found.public_bytes(Encoding.DER)
