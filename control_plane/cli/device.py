"""``wavegate device``: the fleet's devices, one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.cli import device_commands
from control_plane.cli.context import connect
from control_plane.cli.output import Format, Limit, Output, show
from control_plane.cli.rollout_request import build

app = typer.Typer(no_args_is_help=True, help="Devices: list, show, timeline, diagnose, claim tokens, retire, revoke.")
device_commands.add_to(app)
COLUMNS = {
    "DEVICE": "id",
    "STATE": "state",
    "ONLINE": "online",
    "HARDWARE": "hardware",
    "COHORT": "cohort",
    "TIER": "tier",
    "MODELS": "running",
    "GEN": "reported_gen",
    "OF": "desired_gen",
    "LAST SEEN": "last_seen_ms",
}
EVENTS = {
    "AT": "at_ms",
    "KIND": "kind",
    "MODEL": "model",
    "CODE": "code",
    "BUNDLE": "sha256",
    "DETAIL": "detail",
}
TOKEN = {
    "ID": "id",
    "TOKEN": "token",
    "USES": "uses",
    "EXPIRES": "expires_ms",
    "DEVICE": "device",
    "HARDWARE": "hardware",
    "LABELS": "labels",
    "SERIAL": "serial",
}
Id = Annotated[str, typer.Argument(metavar="DEVICE", help="Its id.")]
PENDING = {
    "FINGERPRINT": "fingerprint",
    "STATE": "state",
    "NAME": "name",
    "SERIAL": "serial",
    "HARDWARE": "hardware",
    "LABELS": "labels",
    "ASKED": "asked_ms",
    "LAST": "last_ms",
    "DEVICE": "device",
}
Fingerprint = Annotated[str, typer.Argument(help="Of its key, or the first 8 digits or more.")]
Why = Annotated[str, typer.Option("--reason", help="For the audit.")]


@app.command("list")
def list_devices(
    ctx: typer.Context,
    state: Annotated[str, typer.Option(help="Only this state.")] = "",
    hardware: Annotated[str, typer.Option(help="Only this hardware.")] = "",
    cohort: Annotated[str, typer.Option(help="Only this cohort.")] = "",
    limit: Limit = 1000,
    output: Output = Format.TABLE,
) -> None:
    """List devices in the order of their ids."""
    with connect(ctx) as client:
        items = client.pages("/api/v1/devices", most=limit, state=state, hardware=hardware, cohort=cohort)
    if output is Format.TABLE:
        items = [{**item, "running": _running(item)} for item in items]
    show(items, output, COLUMNS)


@app.command("show")
def show_device(ctx: typer.Context, device: Id, output: Output = Format.TABLE) -> None:
    """Show a device's twin: what it is asked, what it says, its rollouts."""
    with connect(ctx) as client:
        detail = client.get(f"/api/v1/devices/{device}")
    if output is not Format.TABLE:
        show(detail, output, {})
        return
    device_view = {**detail["device"], "running": _running(detail["device"])}
    device_view["asked"] = {key: asked["sha256"][:12] for key, asked in detail["desired"].items()}
    device_view["certificate"] = detail["certificate_expires_ms"]
    show(device_view, output, {**COLUMNS, "ASKED": "asked", "CERTIFICATE ENDS": "certificate"})
    if detail["executions"]:
        columns = {"ROLLOUT": "rollout", "STATE": "state", "REASON": "reason", "UPDATED": "updated_ms"}
        show(detail["executions"], output, columns)


@app.command("events")
def events(ctx: typer.Context, device: Id, limit: Limit = 50, output: Output = Format.TABLE) -> None:
    """Show what happened on a device, newest first."""
    with connect(ctx) as client:
        show(client.pages(f"/api/v1/devices/{device}/events", most=limit), output, EVENTS)


@app.command("enroll-token")
def enroll_token(
    ctx: typer.Context,
    uses: Annotated[int, typer.Option(min=1, help="Devices it may enrol.")] = 1,
    hours: Annotated[float, typer.Option(min=0.01, help="Hours until it expires.")] = 24,
    hardware: Annotated[str, typer.Option(help="Hardware class of those devices.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE given to those devices; repeatable.")] = None,
    device: Annotated[str, typer.Option(help="The one device id it is for.")] = "",
    serial: Annotated[str, typer.Option(help="The one hardware serial number it is for.")] = "",
    key: Annotated[str, typer.Option(help="Fingerprint of the one key it is for (sha256, hex).")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Make a claim token for new devices. It is shown once."""
    labels = build({}, labels=label).get("selector", {}).get("labels", {}) if label else {}
    body = {"uses": uses, "life_s": int(hours * 3600), "hardware": hardware, "labels": labels, "device": device}
    body |= {"serial": serial, "key_sha256": key.lower()}
    with connect(ctx) as client:
        show(client.post("/api/v1/devices/enroll-tokens", body), output, TOKEN)


@app.command("enroll-csv")
def enroll_csv(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV with a header: serial[,device,hardware] and labels.")],
    out: Annotated[Path, typer.Option("--out", help="CSV file the tokens go to (0600); kept and added to.")],
    days: Annotated[float, typer.Option(min=0.01, max=366, help="Days until the tokens expire.")] = 30,
    replace: Annotated[bool, typer.Option(help="End unused tokens of these serial numbers; make new ones.")] = False,
) -> None:
    """Make a claim token for each serial number of a list. Running it again makes only what is missing."""
    from control_plane.cli.hardware_list import read_list, read_tokens, write_tokens

    rows, before = read_list(file), read_tokens(out)
    with connect(ctx) as client:
        body = {"rows": rows, "life_s": int(days * 86_400), "replace": replace}
        made: Any = client.post("/api/v1/enrolments/tokens", body)
    lost = write_tokens(out, made, before)
    counts = {state: sum(row["state"] == state for row in made) for state in ("made", "exists", "enrolled")}
    typer.echo(
        f"{counts['made']} made, {counts['exists']} there before, {counts['enrolled']} enrolled: {out}", err=True
    )
    if lost:
        typer.echo(f"No token is known here for {', '.join(lost[:5])}; --replace makes new ones.", err=True)


@app.command("pending")
def pending(
    ctx: typer.Context,
    state: Annotated[str, typer.Option(help="pending, approved, denied or all.")] = "pending",
    output: Output = Format.TABLE,
) -> None:
    """List keys that asked to become devices without a claim token."""
    with connect(ctx) as client:
        items: Any = client.get("/api/v1/enrolments", state=state)
    show(items, output, PENDING)


@app.command("approve")
def approve(
    ctx: typer.Context,
    fingerprint: Fingerprint,
    device: Annotated[str, typer.Option(help="Id to give; the one it asks for if empty.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Make a device of a key that waits. Compare its fingerprint with the one the device shows."""
    with connect(ctx) as client:
        show(client.post(f"/api/v1/enrolments/{fingerprint}/approve", {"device": device}), output, PENDING)


@app.command("deny")
def deny(ctx: typer.Context, fingerprint: Fingerprint, output: Output = Format.TABLE) -> None:
    """Refuse a key that waits."""
    with connect(ctx) as client:
        show(client.post(f"/api/v1/enrolments/{fingerprint}/deny", {}), output, PENDING)


@app.command("retire")
def retire(ctx: typer.Context, device: Id, reason: Why = "", output: Output = Format.TABLE) -> None:
    """Take a device out of service."""
    with connect(ctx) as client:
        show(client.post(f"/api/v1/devices/{device}/retire", {"reason": reason})["device"], output, COLUMNS)


@app.command("revoke")
def revoke(ctx: typer.Context, device: Id, reason: Why = "", output: Output = Format.TABLE) -> None:
    """Stop trusting a device, for good."""
    with connect(ctx) as client:
        show(client.post(f"/api/v1/devices/{device}/revoke", {"reason": reason})["device"], output, COLUMNS)


def _running(item: dict[str, object]) -> dict[str, str]:
    models = item["models"]
    assert isinstance(models, dict)
    return {key: f"{said['version'] or '-'} {said['phase']}" for key, said in models.items()}
