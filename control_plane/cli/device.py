"""``wavegate device``: the fleet's devices, one at a time."""

from __future__ import annotations

from typing import Annotated

import typer

from control_plane.cli.context import connect
from control_plane.cli.output import Format, Limit, Output, show
from control_plane.cli.rollout_request import build

app = typer.Typer(no_args_is_help=True, help="Devices: list, show, timeline, claim tokens, retire, revoke.")
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
}
Id = Annotated[str, typer.Argument(metavar="DEVICE", help="Its id.")]
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
    output: Output = Format.TABLE,
) -> None:
    """Make a claim token for new devices. It is shown once."""
    labels = build({}, labels=label).get("selector", {}).get("labels", {}) if label else {}
    body = {"uses": uses, "life_s": int(hours * 3600), "hardware": hardware, "labels": labels, "device": device}
    with connect(ctx) as client:
        show(client.post("/api/v1/devices/enroll-tokens", body), output, TOKEN)


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
