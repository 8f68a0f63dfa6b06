"""Options that several ``wavegate trust`` commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from control_plane.cli.output import Format

Json = Annotated[bool, typer.Option("--json", help="The same as -o json.")]
PassphraseFile = Annotated[Path | None, typer.Option(help="File holding the passphrase of the keys.")]
PinFile = Annotated[Path | None, typer.Option(help="File holding the PIN of a hardware key.")]
Plain = Annotated[bool, typer.Option("--plain", help="Leave new private keys unencrypted: for demos and tests.")]
SchemeOption = Annotated[Literal["ed25519", "ecdsa"], typer.Option(help="Kind of new keys.")]
Metadata = Annotated[
    str,
    typer.Option(envvar="WAVEGATE_METADATA", help="Folder with trust metadata, or a server's address; default --url."),
]
Root = Annotated[
    Path | None, typer.Option(envvar="WAVEGATE_ROOT", help="Root metadata to trust; needed with an address.")
]
Signers = Annotated[
    list[str] | None,
    typer.Option("--signer", "--key", help="Key to sign with at once: a file or a URI such as hsm:2; repeatable."),
]
Publics = Annotated[
    list[Path] | None,
    typer.Option("--public", help="Public half of a --signer URI, in the same order; default: ask the hardware."),
]
Out = Annotated[Path | None, typer.Option(help="The event to write: a new folder, or NAME.zip; default by its kind.")]
Note = Annotated[str, typer.Option(help="One line for the other signers.")]
EventArgument = Annotated[Path, typer.Argument(metavar="EVENT", help="Folder or .zip of an event.", exists=True)]
Server = Annotated[
    str, typer.Option(help="Address of the server, or the data folder of one that is stopped; default --url.")
]


def chosen(output: Format, as_json: bool) -> Format:
    """Return how to answer, where ``--json`` may stand beside ``-o``."""
    return Format.JSON if as_json else output
