"""``wavegate token``: operator tokens."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from control_plane.cli.context import connect
from control_plane.cli.output import Format, Output, show

app = typer.Typer(no_args_is_help=True, help="Operator tokens: create, list, revoke.")
COLUMNS = {
    "ID": "id",
    "PRINCIPAL": "principal",
    "ROLE": "role",
    "TEAMS": "teams",
    "EXPIRES": "expires_ms",
    "REVOKED": "revoked_ms",
}


class RoleName(StrEnum):
    """Roles, each including those before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


@app.command("create")
def create(
    ctx: typer.Context,
    principal: Annotated[str, typer.Argument(help="Who will use it.")],
    role: Annotated[RoleName, typer.Option(help="The most they may do.")] = RoleName.VIEWER,
    team: Annotated[list[str] | None, typer.Option(help="A team they may do it for; default: all; repeatable.")] = None,
    days: Annotated[float, typer.Option(min=0.001, max=366, help="Days until it expires.")] = 90,
    output: Output = Format.TABLE,
) -> None:
    """Make a token. It is shown once."""
    body = {"principal": principal, "role": role.value, "teams": team or ["*"], "life_s": int(days * 86_400)}
    with connect(ctx) as client:
        made = client.post("/api/v1/tokens", body)
    show(made, output, {"TOKEN": "token", **{name: f"view.{path}" for name, path in COLUMNS.items()}})


@app.command("list")
def list_tokens(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """List tokens, without their secrets."""
    with connect(ctx) as client:
        show(client.get("/api/v1/tokens")["items"], output, COLUMNS)


@app.command("revoke")
def revoke(
    ctx: typer.Context,
    token: Annotated[str, typer.Argument(metavar="ID", help="The token's id, not the token.")],
    output: Output = Format.TABLE,
) -> None:
    """Revoke a token at once."""
    with connect(ctx) as client:
        show(client.post(f"/api/v1/tokens/{token}/revoke"), output, COLUMNS)
