"""``wavegate bundle``: build, sign, verify, inspect, compare. Options in, answers out; ``bundles`` does the work."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from bundles.errors import AskPerson
from control_plane.cli.output import Format, Json, Output, say, show

app = typer.Typer(help="Build, sign, verify, inspect and compare bundles.", no_args_is_help=True)

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
_DELTAS = {
    "Path": "path",
    "Bytes": "new_bytes",
    "Delta": "delta_bytes",
    "Percent": "percent",
    "Offered": "is_offered",
    "File": "file",
}


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
    ctx: typer.Context,
    file: FileArgument,
    metadata: Metadata,
    signer: Annotated[
        list[str],
        typer.Option("--signer", "--key", help="Key of the team's role: a file or a URI such as hsm:2; repeatable."),
    ],
    public: Annotated[list[Path] | None, typer.Option(help="Public half of a --signer URI, in the same order.")] = None,
    root: Root = None,
    out: Annotated[Path | None, typer.Option(help="Write there instead of into FILE.")] = None,
    event: Annotated[
        Path | None, typer.Option(help="Write an event for others to sign, a folder or .zip; leave FILE as it is.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    pin_file: Annotated[Path | None, typer.Option(help="File holding the PIN of a hardware key.")] = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """List a bundle in its team's role: puts the newly signed metadata into the .wgb, ready for `wavegate publish`."""
    from bundles.archive import add_metadata, open_archive
    from bundles.trust.drafting.release import add_release, current_team, team_state
    from bundles.trust.publishing.reading import read_state
    from bundles.trust.roles import file_name
    from bundles.verify import verify_content
    from control_plane.cli.metadata import conflicts, open_metadata
    from control_plane.cli.trust.at_hand import note, open_keys
    from control_plane.cli.trust.making import finish, read_ground
    from control_plane.cli.trust.staging import check_history

    archive = open_archive(file)
    verify_content(archive)
    manifest, form = archive.manifest, Format.JSON if as_json else output
    if event is not None:
        with conflicts():
            ground = read_ground(ctx, metadata, root)
            check_history(ground.place, ground.state, archive)
            drafted = add_release(team_state(ground.state, manifest.team), archive.manifest_bytes, [], ground.now_ms)
            keys_at_hand = open_keys(signer, public, passphrase_file, pin_file)
            files = {drafted.name: drafted.data}
            finish(ground, "bundle sign", files, keys=keys_at_hand, out=event, note="", form=form)
        return
    fetch, trusted = open_metadata(metadata, root)
    now_ms = _now_ms()
    with conflicts():
        team = current_team(fetch, trusted, manifest.team, now_ms)
        check_history(metadata, read_state(fetch, trusted), archive)
        keys_at_hand = open_keys(signer, public, passphrase_file, pin_file)
        pending = archive.metadata.get(file_name(team.role, team.signed.version + 1))
        signers = [key.signer for key in keys_at_hand]
        signed = add_release(team, archive.manifest_bytes, signers, now_ms, pending=pending)
        note(keys_at_hand, {signed.name: signed.data}, instead=True)
    say(
        f"{team.role}: version {team.signed.version} -> {team.signed.version + 1}, now also lists "
        f"{manifest.target_path} (counter {manifest.release_counter}, channel {manifest.channel})."
    )
    if not signed.is_complete:
        say(f"{signed.threshold - signed.signatures} more signature(s) needed: pass the file on to another holder.")
    elif signed.threshold == 1:
        say("One person: not reviewed. One signature suffices for this team.")
    archive = add_metadata(archive, out or file, {signed.name: signed.data})
    facts = {
        "role": team.role,
        "signatures": f"{signed.signatures} of {signed.threshold}",
        "complete": signed.is_complete,
        "metadata": signed.name,
    }
    show({**_summary(archive), **facts}, form, _SIGNED)


@app.command()
def promote(
    file: FileArgument,
    channel: Annotated[Literal["dev", "canary", "prod"], typer.Option(help="The channel it is to reach.")],
    counter: Annotated[int, typer.Option(help="Release counter: above every release of this model.", min=1)],
    version: Annotated[str, typer.Option(help="Of the new release; default by channel, such as 1.4.0-prod.")] = "",
    out: Annotated[Path | None, typer.Option(help="Where to; default MODEL-VERSION.wgb.")] = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Make of a bundle that was tried a release for a higher channel: the same files. Then sign it as any other."""
    from bundles.archive import open_archive
    from bundles.promote import promote as make_release
    from bundles.promote import promoted_version

    archive = open_archive(file)
    name = version or promoted_version(archive.manifest, channel)
    place = out or Path(f"{archive.manifest.model}-{name}.wgb")
    if place.exists():
        raise AskPerson(f"There is something at {place} already.", code="BUNDLE_EXISTS", remedy="Choose another --out.")
    made = make_release(archive, place, channel=channel, release_counter=counter, now_ms=_now_ms(), version=name)
    say("The same files under a new manifest, not signed yet: wavegate bundle sign.")
    show({**_summary(made), "parent": archive.sha256}, Format.JSON if as_json else output, _BUILT)


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
    from bundles.trust.drafting.release import current_team
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
def inspect(
    file: FileArgument,
    statement: Annotated[
        bool, typer.Option("--statement", help="Print where it comes from as an in-toto statement (SLSA provenance).")
    ] = False,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Show what a .wgb promises and where it comes from. Verifies its shape only."""
    from bundles.archive import open_archive
    from bundles.provenance import lineage_rows
    from bundles.provenance import statement as in_toto

    archive = open_archive(file)
    if statement:
        print(in_toto(archive.manifest_bytes).decode())
        return
    manifest: dict[str, Any] = msgspec.json.decode(archive.manifest_bytes)
    lineage = dict(lineage_rows(archive.manifest))
    facts = {**_summary(archive), "manifest": manifest, "metadata": sorted(archive.metadata), "lineage": lineage}
    columns = {
        **_BUILT,
        "Created": "manifest.created_ms",
        "Licence": "manifest.licence",
        "Metadata": "metadata",
    }
    form = Format.JSON if as_json else output
    show(facts, form, columns)
    if form is Format.TABLE and lineage:
        show(lineage, form, {name: name for name in lineage if "." not in name})


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="A .wgb file.", exists=True, dir_okay=False)],
    new: Annotated[Path, typer.Argument(help="A .wgb file.", exists=True, dir_okay=False)],
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Show what changes from one bundle to another, and what a device that has the old one would download."""
    from bundles.archive import open_archive
    from bundles.delta.between import deltas_between
    from bundles.delta.describe import diff as compare

    before, after = open_archive(old), open_archive(new)
    changes = [msgspec.to_builtins(change) for change in compare(before, after)]
    deltas = [_delta_facts(delta) for delta in deltas_between(before, after)]
    form = Format.JSON if as_json else output
    if form is not Format.TABLE:
        show({"changes": changes, "downloads": deltas}, form, {})
        return
    show(changes, form, {"What": "what", "Before": "before", "After": "after"})
    if deltas:
        say("")
        show(deltas, form, _DELTAS)


@app.command()
def delta(
    old: Annotated[Path, typer.Argument(help="The .wgb a device has.", exists=True, dir_okay=False)],
    new: Annotated[Path, typer.Argument(help="The .wgb it is to get.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="Folder to write the deltas to.")],
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Make the deltas from one bundle's files to another's. They need no signature: the result has one."""
    from bundles.archive import open_archive
    from bundles.delta.between import deltas_between

    say(f"Comparing {old} and {new}.")
    out.mkdir(parents=True, exist_ok=True)
    made = [_delta_facts(delta) for delta in deltas_between(open_archive(old), open_archive(new), out)]
    show(made, Format.JSON if as_json else output, _DELTAS)


def _delta_facts(delta: Any) -> dict[str, Any]:
    return {
        "path": delta.path,
        "old_path": delta.old_path,
        "new_bytes": delta.new_bytes,
        "delta_bytes": delta.delta_bytes,
        "percent": round(100 * delta.ratio, 1),
        "is_offered": delta.is_offered,
        "file": str(delta.file) if delta.file is not None else None,
    }


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
