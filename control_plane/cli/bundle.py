"""``wavegate bundle``: build, sign, verify, inspect. The work is in ``bundles``; this reads options, shows answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from control_plane.cli.output import Format, Output, say, show

app = typer.Typer(help="Build, sign, verify and inspect bundles.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="The same as -o json.")]
FileArgument = Annotated[Path, typer.Argument(help="A .wgb file.", exists=True, dir_okay=False)]
Metadata = Annotated[str, typer.Option(help="Folder with trust metadata, or a server's address.")]
Root = Annotated[Path | None, typer.Option(help="Root metadata to trust; needed with an address.")]
PassphraseFile = Annotated[Path | None, typer.Option(help="File holding the passphrase of the keys.")]

_BUILT = {
    "Bundle": "bundle",
    "Sha256": "sha256",
    "Counter": "release_counter",
    "Channel": "channel",
    "Variants": "variants",
    "Files": "files",
    "Archive": "archive",
}
_SIGNED = {**_BUILT, "Role": "role", "Signatures": "signatures", "Complete": "complete", "Archive": "archive"}
_VERIFIED = {**_BUILT, "Content": "content", "Signature": "signature"}


@app.command()
def build(
    project: Annotated[Path, typer.Argument(help="The bundle.toml that says what to build.", exists=True)],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where to; default MODEL-VERSION.wgb.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="The model's answers to the validation or training rows (.npz).")
    ] = None,
    predict: Annotated[bool, typer.Option(help="Run an ONNX variant for the answers where none are given.")] = True,
    as_json: Json = False,
) -> None:
    """Build a .wgb from model files, contract, goldens and training rows."""
    from bundles.build import TrainingRows, read_rows
    from bundles.build import build as build_bundle
    from bundles.project import read_contract, read_project, to_spec

    plan, folder = read_project(project), project.parent
    contract = read_contract(plan, folder)
    rows: TrainingRows | None = None
    if plan.training is not None:
        unseen = plan.validation or plan.training
        given = predictions or (folder / unseen.predictions if unseen.predictions else None)
        answered = read_rows(folder / unseen.rows, contract, given)
        model = next((v.file for v in plan.variants if v.runtime == "onnxruntime"), None)
        outputs = answered.outputs
        if not outputs and predict and model is not None:
            from control_plane.cli.predictions import predict as run_model

            say(f"Running {model} over {unseen.rows}.")
            outputs = run_model(folder / model, contract, answered.inputs)
        if outputs and plan.validation is None:
            say("The answers are to training rows, of which a model is too sure; [validation] rows would be better.")
        trained = answered if plan.validation is None else read_rows(folder / plan.training.rows, contract)
        rows = TrainingRows(trained.inputs, outputs)
    spec = to_spec(plan, folder, contract, rows, _now_ms())
    built = build_bundle(spec, out or Path(f"{spec.model}-{spec.version}.wgb"))
    for note in built.notes:
        say(note)
    show(_summary(built.archive), Format.JSON if as_json else Format.TABLE, _BUILT)


@app.command()
def sign(
    file: FileArgument,
    metadata: Metadata,
    key: Annotated[list[Path], typer.Option(help="Private key of the team's role; may be given twice.")],
    root: Root = None,
    out: Annotated[Path | None, typer.Option(help="Write there instead of into FILE.")] = None,
    passphrase_file: PassphraseFile = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """List a bundle in its team's role: puts the newly signed metadata into the .wgb, ready for `wavegate publish`."""
    from bundles.archive import add_metadata, open_archive
    from bundles.trust.release import add_release, current_team
    from bundles.trust.roles import file_name
    from bundles.trust.signers import load_signer
    from bundles.verify import verify_content
    from control_plane.cli.metadata import conflicts, open_metadata
    from control_plane.cli.passphrases import existing

    archive = open_archive(file)
    verify_content(archive)
    fetch, trusted = open_metadata(metadata, root)
    manifest, now_ms = archive.manifest, _now_ms()
    with conflicts():
        team = current_team(fetch, trusted, manifest.team, now_ms)
        signers = [load_signer(path, existing(passphrase_file)) for path in key]
        pending = archive.metadata.get(file_name(team.role, team.signed.version + 1))
        signed = add_release(team, archive.manifest_bytes, signers, now_ms, pending=pending)
    say(
        f"{team.role}: version {team.signed.version} -> {team.signed.version + 1}, now also lists "
        f"{manifest.target_path} (counter {manifest.release_counter}, channel {manifest.channel})."
    )
    if not signed.is_complete:
        say(f"{signed.threshold - signed.signatures} more signature(s) needed: pass the file on to another holder.")
    archive = add_metadata(archive, out or file, {signed.name: signed.data})
    facts = {
        "role": team.role,
        "signatures": f"{signed.signatures} of {signed.threshold}",
        "complete": signed.is_complete,
        "metadata": signed.name,
    }
    show({**_summary(archive), **facts}, Format.JSON if as_json else output, _SIGNED)


@app.command()
def verify(
    file: FileArgument,
    metadata: Metadata = "",
    root: Root = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Check every digest and format of a .wgb and, with --metadata, that its team has signed it."""
    from bundles.archive import open_archive
    from bundles.trust.release import current_team
    from bundles.verify import verify_content, verify_signed
    from control_plane.cli.metadata import conflicts, open_metadata

    archive = open_archive(file)
    verify_content(archive)
    signature = "not checked"
    if metadata:
        fetch, trusted = open_metadata(metadata, root)
        with conflicts():
            signature = verify_signed(archive, current_team(fetch, trusted, archive.manifest.team, _now_ms()))
    else:
        say("The signature was not checked: say with --metadata (and --root) against what.")
    facts = {"content": "whole", "signature": signature}
    show({**_summary(archive), **facts}, Format.JSON if as_json else output, _VERIFIED)


@app.command()
def inspect(file: FileArgument, output: Output = Format.TABLE, as_json: Json = False) -> None:
    """Show what a .wgb promises: its manifest, its digest, the metadata it carries. Verifies its shape only."""
    from bundles.archive import open_archive

    archive = open_archive(file)
    manifest: dict[str, Any] = msgspec.json.decode(archive.manifest_bytes)
    facts = {**_summary(archive), "manifest": manifest, "metadata": sorted(archive.metadata)}
    columns = {
        **_BUILT,
        "Created": "manifest.created_ms",
        "Licence": "manifest.licence",
        "Lineage": "manifest.lineage",
        "Metadata": "metadata",
    }
    show(facts, Format.JSON if as_json else output, columns)


def _summary(archive: Any) -> dict[str, Any]:
    manifest = archive.manifest
    return {
        "bundle": f"{manifest.model_key} {manifest.version}",
        "sha256": archive.sha256,
        "length": len(archive.manifest_bytes),
        "target": manifest.target_path,
        "release_counter": manifest.release_counter,
        "channel": manifest.channel,
        "variants": [f"{variant.id} ({variant.runtime})" for variant in manifest.variants],
        "files": len(manifest.files),
        "archive": str(archive.path),
    }


def _now_ms() -> int:
    return int(time.time() * 1000)
