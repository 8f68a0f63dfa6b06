"""``wavegate drift``: what the drift room last judged."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from control_plane.cli.context import connect
from control_plane.cli.output import Format, Output, show

app = typer.Typer(no_args_is_help=True, help="Drift of inputs and outputs against the signed baseline.")
COLUMNS = {"MODEL": "model", "BUNDLE": "bundle", "COHORT": "cohort", "JUDGED": "judged_ms", "VERDICT": "said"}


@app.callback()
def group() -> None:
    """Drift of inputs and outputs against the signed baseline."""


@app.command("show")
def show_drift(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="Only TEAM/MODEL's.")] = "",
    cohort: Annotated[str, typer.Option(help="Only this cohort.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Show the newest verdict of every model, bundle and cohort."""
    with connect(ctx) as client:
        items: list[dict[str, Any]] = client.get("/api/v1/drift", model=model, cohort=cohort)["items"]
    if output is Format.TABLE:
        items = [{**item, "bundle": item["bundle_sha256"][:12], "said": _said(item["verdict"])} for item in items]
    show(items, output, COLUMNS)


def _said(verdict: dict[str, Any]) -> dict[str, Any]:
    """Keep what fits on a line: the plain values of the verdict."""
    return {name: value for name, value in verdict.items() if isinstance(value, str | int | float | bool)}
