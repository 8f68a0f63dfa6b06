"""``wavegate alerts``: what is wrong, and who takes care of it."""

from __future__ import annotations

from typing import Annotated

import typer

from control_plane.cli.context import connect
from control_plane.cli.output import Format, Limit, Output, show

app = typer.Typer(no_args_is_help=True, help="Alerts: list, acknowledge.")
COLUMNS = {
    "ID": "id",
    "SEVERITY": "severity",
    "STATE": "state",
    "NAME": "name",
    "SUMMARY": "summary",
    "COUNT": "count",
    "FIRST": "first_ms",
    "LAST": "last_ms",
    "LABELS": "labels",
}


@app.command("list")
def list_alerts(
    ctx: typer.Context,
    state: Annotated[str, typer.Option(help="firing, acknowledged, resolved, or open for all but resolved.")] = "open",
    name: Annotated[str, typer.Option(help="Only alerts of this name.")] = "",
    limit: Limit = 100,
    output: Output = Format.TABLE,
) -> None:
    """List alerts, newest first."""
    with connect(ctx) as client:
        show(client.pages("/api/v1/alerts", most=limit, state=state, name=name), output, COLUMNS)


@app.command("ack")
def acknowledge(
    ctx: typer.Context,
    alert: Annotated[int, typer.Argument(min=1, help="Its id.")],
    output: Output = Format.TABLE,
) -> None:
    """Say that somebody takes care of an alert."""
    with connect(ctx) as client:
        show(client.post(f"/api/v1/alerts/{alert}/ack"), output, COLUMNS)
