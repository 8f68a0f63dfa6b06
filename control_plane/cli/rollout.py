"""``wavegate rollout``: plan, create, approve, watch, stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.cli.context import connect
from control_plane.cli.output import Format, Limit, Output, say, show, table
from control_plane.cli.rollout_request import build, read_document
from control_plane.cli.rollout_watch import until_over

app = typer.Typer(no_args_is_help=True, help="Rollouts: plan, create, approve, watch, stop, roll back.")
COLUMNS = {
    "ID": "id",
    "MODEL": "model",
    "VERSION": "release_version",
    "PHASE": "phase",
    "WAVE": "wave",
    "OF": "waves",
    "DEVICES": "devices",
    "CONFIRMED": "confirmed",
    "FAILED": "failed",
    "CREATED": "created_ms",
    "REASON": "reason",
}
WAVES = {
    "WAVE": "number",
    "PHASE": "phase",
    "DEVICES": "devices",
    "CONFIRMED": "confirmed",
    "FAILED": "failed",
    "STATES": "states",
    "LOOK": "look",
}
DIAGNOSES = {
    "WAVE": "wave",
    "FAILURE": "failure",
    "DEVICE": "device",
    "DIAGNOSIS": "command",
    "STATE": "state",
    "BYTES": "bundle_bytes",
}
PLANNED = {
    "WAVE": "number",
    "DEVICES": "size",
    "SOAK_S": "soak_s",
    "STRATA": "strata",
    "NOT APPLICABLE": "not_applicable",
    "PROVES": "proves",
}
Id = Annotated[str, typer.Argument(metavar="ROLLOUT", help="Its id.")]
File = Annotated[Path | None, typer.Option("-f", "--file", help="YAML or JSON with the fields of a rollout.")]
Release = Annotated[str, typer.Option(help="TEAM/MODEL@VERSION, or the bundle digest.")]
Baseline = Annotated[str, typer.Option(help="Bundle to compare with; default: what most devices run.")]
All = Annotated[bool, typer.Option("--all", help="The whole fleet.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="NAME=VALUE that devices must have; repeatable.")]
Devices = Annotated[list[str] | None, typer.Option("--device", help="A device id; repeatable.")]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", help="A device id to leave out; repeatable.")]
Waves = Annotated[list[str] | None, typer.Option("--wave", help="16, 25% or rest, with :SECONDS of soak; repeatable.")]
Soak = Annotated[float | None, typer.Option("--soak", help="Soak of every wave that names none, seconds.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="YAML or JSON with a gate policy.")]
Timing = Annotated[list[str] | None, typer.Option("--timing", help="NAME=SECONDS of the timing profile; repeatable.")]
Seed = Annotated[str, typer.Option(help="Of the order within strata; default: random.")]
Why = Annotated[str, typer.Option("--reason", help="For the audit.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is over; 7 = halted or rolled back.")]
Timeout = Annotated[float, typer.Option(min=0, help="Give up waiting after so many seconds; 0 = never.")]


@app.command("plan")
def plan(
    ctx: typer.Context,
    file: File = None,
    release: Release = "",
    baseline: Baseline = "",
    everything: All = False,
    label: Labels = None,
    device: Devices = None,
    exclude: Exclude = None,
    wave: Waves = None,
    soak: Soak = None,
    policy: PolicyFile = None,
    timing: Timing = None,
    seed: Seed = "",
    output: Output = Format.TABLE,
) -> None:
    """Say which devices would move in which wave, why not the others, and what the gates can prove. Changes nothing."""
    body = _body(file, release, baseline, everything, label, device, exclude, wave, soak, policy, timing, seed)
    with connect(ctx) as client:
        made = client.post("/api/v1/rollouts/plan", body)
    if output is not Format.TABLE:
        show(made, output, {})
        return
    show(made["waves"], output, PLANNED)
    for note in made["notes"]:
        say(note)
    for name, reason in made["excluded"].items():
        say(f"Left out: {name} ({reason})")
    for one in made["short"]:
        say(f"No room: {one['sentence']}")
    say(f"Takes {made['shortest_s']:g} to {made['longest_s']:g} seconds.")


@app.command("create")
def create(
    ctx: typer.Context,
    file: File = None,
    release: Release = "",
    baseline: Baseline = "",
    everything: All = False,
    label: Labels = None,
    device: Devices = None,
    exclude: Exclude = None,
    wave: Waves = None,
    soak: Soak = None,
    policy: PolicyFile = None,
    timing: Timing = None,
    seed: Seed = "",
    wait: Wait = False,
    timeout: Timeout = 0,
    output: Output = Format.TABLE,
) -> None:
    """Create a rollout of an approved release. Another person approves it."""
    import uuid

    body = _body(file, release, baseline, everything, label, device, exclude, wave, soak, policy, timing, seed)
    with connect(ctx) as client:
        view = client.post("/api/v1/rollouts", body, idempotency_key=uuid.uuid4().hex)
        show(view, output, COLUMNS)
        if view["phase"] == "pending_approval":
            say(f"Another person may now approve it: wavegate rollout approve {view['id']}")
        if wait:
            raise typer.Exit(until_over(client, view["id"], timeout_s=timeout))


@app.command("list")
def list_rollouts(
    ctx: typer.Context,
    phase: Annotated[str, typer.Option(help="Only this phase.")] = "",
    model: Annotated[str, typer.Option(help="Only TEAM/MODEL's.")] = "",
    limit: Limit = 50,
    output: Output = Format.TABLE,
) -> None:
    """List rollouts, newest first."""
    with connect(ctx) as client:
        items = client.pages("/api/v1/rollouts", most=limit, phase=phase, model=model)
    show(items, output, COLUMNS)


@app.command("status")
def status(
    ctx: typer.Context,
    rollout: Id,
    devices: Annotated[bool, typer.Option("--devices", help="Its devices as well.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show a rollout's waves, and its devices where asked."""
    with connect(ctx) as client:
        detail = client.get(f"/api/v1/rollouts/{rollout}")
        if devices:
            detail["devices"] = client.pages(f"/api/v1/rollouts/{rollout}/devices", most=100_000)
    if output is not Format.TABLE:
        show(detail, output, {})
        return
    show(detail, output, {name: f"rollout.{path}" for name, path in COLUMNS.items()})
    show(detail["waves"], output, WAVES)
    if detail["diagnoses"]:
        show(detail["diagnoses"], output, DIAGNOSES)
    if devices:
        columns = {"DEVICE": "device", "STATE": "state", "REASON": "reason", "VARIANT": "variant"}
        show(detail["devices"], output, {"WAVE": "wave", **columns})


@app.command("explain")
def explain(ctx: typer.Context, rollout: Id, output: Output = Format.TABLE) -> None:
    """Say why a rollout stands where it stands, with the numbers."""
    with connect(ctx) as client:
        story = client.get(f"/api/v1/rollouts/{rollout}/explain")
    if output is Format.TABLE:
        typer.echo(story["text"])
    else:
        show(story["story"], output, {})


@app.command("watch")
def watch(ctx: typer.Context, rollout: Id, timeout: Timeout = 0) -> None:
    """Follow a rollout until it is over: live in a terminal, JSON lines without one."""
    with connect(ctx) as client:
        raise typer.Exit(until_over(client, rollout, timeout_s=timeout, draw=_drawing))


@app.command("approve")
def approve(
    ctx: typer.Context,
    rollout: Id,
    reason: Why = "",
    wait: Wait = False,
    timeout: Timeout = 0,
    output: Output = Format.TABLE,
) -> None:
    """Approve a rollout that another person created; it then starts."""
    _steer(ctx, rollout, "approve", reason, output)
    if wait:
        with connect(ctx) as client:
            raise typer.Exit(until_over(client, rollout, timeout_s=timeout))


@app.command("reject")
def reject(ctx: typer.Context, rollout: Id, reason: Why = "", output: Output = Format.TABLE) -> None:
    """Refuse to approve, for good."""
    _steer(ctx, rollout, "reject", reason, output)


@app.command("promote")
def promote(ctx: typer.Context, rollout: Id, reason: Why = "", output: Output = Format.TABLE) -> None:
    """Promote a wave that the gates could not decide."""
    _steer(ctx, rollout, "promote", reason, output)


@app.command("pause")
def pause(ctx: typer.Context, rollout: Id, reason: Why = "", output: Output = Format.TABLE) -> None:
    """Let it wait; offers nobody took yet are recalled."""
    _steer(ctx, rollout, "pause", reason, output)


@app.command("resume")
def resume(ctx: typer.Context, rollout: Id, reason: Why = "", output: Output = Format.TABLE) -> None:
    """Let a paused rollout go on."""
    _steer(ctx, rollout, "resume", reason, output)


@app.command("rollback")
def rollback(ctx: typer.Context, rollout: Id, reason: Why = "", output: Output = Format.TABLE) -> None:
    """Halt it and ask every exposed device back."""
    _steer(ctx, rollout, "rollback", reason, output)


@app.command("abort")
def abort(ctx: typer.Context, rollout: Id, reason: Why = "", output: Output = Format.TABLE) -> None:
    """Stop it where it stands: nobody new, nobody back."""
    _steer(ctx, rollout, "abort", reason, output)


def _steer(ctx: typer.Context, rollout: str, verb: str, reason: str, output: Format) -> None:
    path = f"/api/v1/rollouts/{rollout}"
    with connect(ctx) as client:
        _, tag = client.versioned(path)
        show(client.post(f"{path}/{verb}", {"reason": reason}, if_match=tag), output, COLUMNS)


def _drawing(detail: dict[str, Any]) -> str:
    view = detail["rollout"]
    head = f"{view['id']}  {view['model']}@{view['release_version']}  {view['phase']}  {view['reason']}".rstrip()
    gates = [
        f"  {one['gate']}: {one['verdict']}. {one['sentence']}" for one in detail["waves"][view["wave"] - 1]["gates"]
    ]
    return "\n".join([head, table(detail["waves"], WAVES), *gates])


def _body(
    file: Path | None,
    release: str,
    baseline: str,
    everything: bool,
    label: list[str] | None,
    device: list[str] | None,
    exclude: list[str] | None,
    wave: list[str] | None,
    soak: float | None,
    policy: Path | None,
    timing: list[str] | None,
    seed: str,
) -> dict[str, Any]:
    return build(
        read_document(file) if file else {},
        release=release,
        baseline=baseline,
        everything=everything,
        labels=label or (),
        devices=device or (),
        exclude=exclude or (),
        waves=wave or (),
        soak_s=soak,
        policy=read_document(policy) if policy else None,
        timing=timing or (),
        seed=seed,
    )
