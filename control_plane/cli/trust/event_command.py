"""The options that every command which makes an event has, given to it by one decorator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from control_plane.cli.output import Format, Output
from control_plane.cli.trust.at_hand import open_keys
from control_plane.cli.trust.making import Ground, finish, read_ground
from control_plane.cli.trust.options import (
    Json,
    Metadata,
    Note,
    Out,
    PassphraseFile,
    PinFile,
    Publics,
    Root,
    Signers,
    chosen,
)


@dataclass(frozen=True)
class Making:
    """What the command line says about the event to make.

    Attributes:
        ctx: of the command.
        metadata: where the metadata is; empty = the server's.
        signers: keys to sign with at once.
        publics: public halves of those that are no files.
        out: where to.
        root: root metadata to trust.
        note: for the other signers.
        passphrase_file: of keys.
        pin_file: of a hardware key.
        form: how to answer.
    """

    ctx: typer.Context
    metadata: str
    signers: list[str] | None
    publics: list[Path] | None
    out: Path | None
    root: Path | None
    note: str
    passphrase_file: Path | None
    pin_file: Path | None
    form: Format

    def ground(self, place: str = "") -> Ground:
        """Read and verify what the change is drafted on; ``place`` where the command line says nothing.

        Raises:
            WavegateError: as ``read_ground``.
        """
        return read_ground(self.ctx, self.metadata or place, self.root)

    def finish(
        self,
        ground: Ground,
        kind: str,
        files: Mapping[str, bytes],
        *,
        signers: Sequence[str] = (),
        out: Path | None = None,
        note: str = "",
        more: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> None:
        """Sign ``files`` with the keys at hand, write the event and explain it; see ``making.finish``.

        Args:
            ground: what they were drafted on.
            kind: of the event.
            files: the new metadata.
            signers: more keys to sign with.
            out: where to; None = as the command line says.
            note: where the command line has none.
            more: facts to add to the answer.
            replace: write over the event that is there.

        Raises:
            WavegateError: as ``making.finish``; a key cannot be opened.
        """
        keys = open_keys([*(self.signers or ()), *signers], self.publics, self.passphrase_file, self.pin_file)
        finish(
            ground,
            kind,
            files,
            keys=keys,
            out=out or self.out,
            note=self.note or note,
            form=self.form,
            more=more,
            replace=replace,
        )


def makes_event(command: Callable[..., None]) -> Callable[..., None]:
    """Return ``command`` with the options of ``Making``, which it takes as its first argument.

    Its own options come first in the help. A command that is told its EVENT as an argument has no ``--out``.
    Conflicts with what others publish are told in the words of the metadata room.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = dict(inspect.signature(_shared, eval_str=True).parameters)
    first = shared.pop("ctx")
    if any(parameter.name == "event" for parameter in own):
        del shared["out"]
    mine = list(shared.values())

    @wraps(command)
    def run(ctx: typer.Context, **given: Any) -> None:
        from control_plane.cli.metadata import conflicts

        making = _shared(ctx, **{parameter.name: given.pop(parameter.name) for parameter in mine})
        with conflicts():
            command(making, **given)

    del run.__wrapped__  # its signature is not this one's
    parameters = [first, *own, *mine]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _shared(
    ctx: typer.Context,
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
) -> Making:
    form = chosen(output, as_json)
    return Making(ctx, metadata, signer, public, out, root, note, passphrase_file, pin_file, form)
