"""``wavegate trust rotate``: other keys for a role, or other CAs for the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli.trust.event_command import Making, makes_event
from control_plane.cli.trust.making import changed_keys
from control_plane.cli.trust.online_keys import next_keys
from control_plane.cli.trust.options import (
    Server,
)

app = typer.Typer(help="Exchange the keys of a role.", no_args_is_help=True)
Add = Annotated[list[Path] | None, typer.Option("--add", help="Public key to add; repeatable.")]
Remove = Annotated[list[str] | None, typer.Option("--remove", help="Key to remove: .pub file or id; repeatable.")]
Threshold = Annotated[int | None, typer.Option(help="How many must sign from now on.", min=1)]


@app.command("root")
@makes_event
def root_keys(
    making: Making,
    add: Add = None,
    remove: Remove = None,
    threshold: Threshold = None,
) -> None:
    """Exchange keys of root. Both the root before and the new one must be signed for."""
    from bundles.trust.drafting.drafts import encode_drafts, keys_of
    from bundles.trust.drafting.rotation import rotate_root

    ground = making.ground()
    keys = changed_keys(keys_of(ground.state.root, "root"), add, remove, threshold)
    files = encode_drafts(rotate_root(ground.state, keys, ground.now_ms))
    making.finish(ground, "rotate root", files)


@app.command("targets")
@makes_event
def targets_keys(
    making: Making,
    add: Add = None,
    remove: Remove = None,
    threshold: Threshold = None,
) -> None:
    """Exchange keys of the targets role. Root signs the change, the new holders sign the role."""
    from bundles.trust.drafting.drafts import encode_drafts, keys_of
    from bundles.trust.drafting.rotation import rotate_targets

    ground = making.ground()
    keys = changed_keys(keys_of(ground.state.root, "targets"), add, remove, threshold)
    files = encode_drafts(rotate_targets(ground.state, keys, ground.now_ms))
    making.finish(ground, "rotate targets", files)


@app.command("revocation")
@makes_event
def revocation_keys(
    making: Making,
    add: Add = None,
    remove: Remove = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Bundle digest to keep revoked under the new keys; default: all.")
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Begin an empty list (but --keep): what a stolen key revoked lapses.")
    ] = False,
) -> None:
    """Exchange keys of the revocation role, or give the repository one. One key always suffices to forbid."""
    from bundles.trust.drafting.drafts import Keys, encode_drafts, keys_of
    from bundles.trust.drafting.rotation import rotate_revocation
    from bundles.trust.publishing.state import delegated_names
    from bundles.trust.revocation import REVOCATION
    from control_plane.cli.trust.making import public_keys

    ground = making.ground()
    state = ground.state
    if REVOCATION in delegated_names(state.targets):
        keys = changed_keys(keys_of(state.targets, REVOCATION), add, remove, 1)
    else:
        keys = Keys(public_keys(add), 1)
    kept = list(keep or ()) if keep or forget else None
    files = encode_drafts(rotate_revocation(state, keys, ground.now_ms, keep=kept))
    making.finish(ground, "rotate revocation", files)


@app.command("online")
@makes_event
def online_keys(
    making: Making,
    server: Server = "",
) -> None:
    """Exchange the server's snapshot and timestamp keys. The server makes them, and uses them once root names them."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.rotation import rotate_online

    ground = making.ground(server)
    keys = next_keys(making.ctx, server or making.metadata, "online")
    files = encode_drafts(rotate_online(ground.state, keys["snapshot"], keys["timestamp"], ground.now_ms))
    making.finish(ground, "rotate online", files)


@app.command("director")
@makes_event
def director_key(
    making: Making,
    server: Server = "",
) -> None:
    """Exchange the server's director key. The server makes it, and signs every assignment anew once targets name it."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.rotation import rotate_director

    ground = making.ground(server)
    key = next_keys(making.ctx, server or making.metadata, "director")["director"]
    files = encode_drafts(rotate_director(ground.state, key, ground.now_ms))
    making.finish(ground, "rotate director", files)


@app.command("server-ca")
@makes_event
def server_cas(
    making: Making,
    ca: Annotated[list[Path], typer.Option(help="CA certificate (PEM or DER): the one in use first, then spares.")],
) -> None:
    """Say which CAs devices trust to sign the server's certificate: at least two, one of them kept offline."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.statements import set_server_cas

    ground = making.ground()
    files = encode_drafts(set_server_cas(ground.state, [_certificate(path) for path in ca], ground.now_ms))
    making.finish(ground, "rotate server-ca", files)


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
