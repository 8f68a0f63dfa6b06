"""``wavegate doctor``: what stands between this command line and the server, line by line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from bundles import __version__
from bundles.errors import WavegateError
from control_plane.cli import exits
from control_plane.cli.context import address
from control_plane.cli.output import Format, Output, show
from control_plane.client import Client

app = typer.Typer()
COLUMNS = {"CHECK": "check", "OK": "ok", "DETAIL": "detail", "REMEDY": "remedy"}


@app.command("doctor")
def doctor(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Check the address, the server, its parts and the token; 1 = something is wrong."""
    url, token = address(ctx)
    with Client(url, token) as client:
        lines = examine(client, has_token=bool(token))
    show(lines, output, COLUMNS)
    if not all(line["ok"] for line in lines):
        raise typer.Exit(exits.ERROR)


def examine(client: Client, *, has_token: bool) -> list[dict[str, Any]]:
    """Return one line for each check; the rest is left out where the server does not answer at all."""
    lines = [_line("server", lambda: _server(client))]
    if not lines[0]["ok"]:
        return lines
    lines += [
        {"check": part["name"], "ok": part["ok"], "detail": part["detail"], "remedy": ""} for part in client.readiness()
    ]
    if has_token:
        lines.append(_line("token", lambda: _token(client)))
    else:
        remedy = "Set WAVEGATE_TOKEN, or keep one with `wavegate profile set NAME --token TOKEN`."
        lines.append({"check": "token", "ok": False, "detail": "none is set", "remedy": remedy})
    return lines


def _line(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "detail": check(), "remedy": ""}
    except WavegateError as error:
        return {"check": name, "ok": False, "detail": f"[{error.code}] {error.sentence}", "remedy": error.remedy}


def _server(client: Client) -> str:
    told = client.get("/healthz")["version"]
    return f"{client.url} runs {told}" + ("" if told == __version__ else f", this is {__version__}")


def _token(client: Client) -> str:
    me = client.get("/api/v1/me")
    return f"{me['principal']} is {me['role']} for {', '.join(me['teams'])}"
