"""``wavegate audit``: the hash-chained log."""

from __future__ import annotations

from typing import Annotated

import typer

from control_plane.cli import exits
from control_plane.cli.context import connect
from control_plane.cli.output import Format, Limit, Output, show

app = typer.Typer(no_args_is_help=True, help="The append-only log: audit rows, decisions, gate evaluations.")
COLUMNS = {
    "ID": "id",
    "AT": "at_ms",
    "KIND": "kind",
    "ACTOR": "actor",
    "ACTION": "action",
    "SUBJECT": "subject",
    "REASON": "body.reason",
}
CHAIN = {"WHOLE": "is_whole", "ROWS": "rows", "HEAD": "head", "FIRST BAD": "first_bad"}


@app.command("list")
def list_rows(
    ctx: typer.Context,
    subject: Annotated[str, typer.Option(help="Such as rollout:ID or release:SHA256.")] = "",
    kind: Annotated[str, typer.Option(help="audit, decision or gate.")] = "",
    actor: Annotated[str, typer.Option(help="Only what this principal did.")] = "",
    limit: Limit = 50,
    output: Output = Format.TABLE,
) -> None:
    """List the log, newest first."""
    with connect(ctx) as client:
        show(
            client.pages("/api/v1/audit", most=limit, subject=subject, kind=kind, actor=actor),
            output,
            COLUMNS,
        )


@app.command("verify")
def verify(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Recompute the whole chain; 6 = a row was changed or removed."""
    with connect(ctx) as client:
        report = client.get("/api/v1/audit/verify")
    show(report, output, CHAIN)
    if not report["is_whole"]:
        raise typer.Exit(exits.VERIFICATION)
