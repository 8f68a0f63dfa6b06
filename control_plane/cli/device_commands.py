"""``wavegate device diagnose|diagnosis|commands|status|selftest|rollback``: ask one device something.

The device answers when it is in touch; ``--wait`` waits for that. A support bundle is a ``.tar.gz`` of plain files.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from control_plane.cli.context import connect
from control_plane.cli.exits import TimedOut
from control_plane.cli.output import Format, Json, Limit, Output, card, say, show
from control_plane.cli.support_bundle import INDEX, README, printable, read_file
from control_plane.errors import Conflict, SetUpWrong

if TYPE_CHECKING:
    from control_plane.client import Client

COMMANDS = {
    "AT": "issued_ms",
    "COMMAND": "id",
    "DO": "do",
    "STATE": "state",
    "CODE": "code",
    "BY": "actor",
    "WHY": "why",
    "BYTES": "bundle_bytes",
    "DETAIL": "detail",
}
STATUS = ("state", "route", "gen", "session", "uptime_ms", "hardware", "trust_level", "disk_free_bytes", "troubles")
STORY = {"MODEL": "model", "STEP": "step", "REASON": "reason", "CODE": "code", "WAITS FOR": "waits_for"} | {
    name.upper(): f"releases.{name}.version" for name in ("active", "previous", "factory", "target")
}
POLL_S = 0.5
Id = Annotated[str, typer.Argument(metavar="DEVICE", help="Its id.")]
Why = Annotated[str, typer.Option("--reason", help="For the audit.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for its answer.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Give up waiting after so many seconds; 0 = never.")]
Force = Annotated[bool, typer.Option("--force", help="Also where it was asked a moment ago.")]


def diagnose(
    ctx: typer.Context,
    device: Id,
    wait: Wait = False,
    out: Annotated[Path | None, typer.Option("--out", help="File the support bundle goes to; waits for it.")] = None,
    timeout: Timeout = 300,
    reason: Why = "",
    force: Force = False,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Ask a device for a support bundle: its log, state, kernel lines and network, without keys and inputs."""
    with connect(ctx) as client:
        command = _ask(client, device, "diagnose", reason=reason, force=force)
        if wait or out is not None:
            command = _answered(client, command, timeout)
        if out is not None and command["bundle_bytes"]:
            _save(client.download(_path(device, command["id"])), out)
    show(command, _form(output, as_json), COMMANDS)
    _check(command)


def diagnosis(
    ctx: typer.Context,
    device: Id,
    command: Annotated[str, typer.Argument(help="Of `wavegate device commands`; the newest kept if left out.")] = "",
    is_shown: Annotated[bool, typer.Option("--show", help="What stands out in it, and nothing is written.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="File it goes to.")] = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Fetch a support bundle that a device sent before; with --show, read what a person reads first."""
    with connect(ctx) as client:
        if not command:
            kept = client.pages(f"/api/v1/devices/{device}/diagnoses", most=100)
            command = next((one["id"] for one in kept if one["bundle_bytes"]), "newest")
        content = client.download(_path(device, command))
    form = _form(output, as_json)
    if not is_shown or out is not None:
        path = out or Path(f"diagnosis-{device}-{command}.tar.gz")
        _save(content, path)
    if is_shown and form is Format.TABLE:
        sys.stdout.write(printable(read_file(content, README)))
    elif is_shown:
        show(msgspec.json.decode(read_file(content, INDEX)), form, {})
    else:
        saved = {"device": device, "command": command, "bytes": len(content), "file": str(path)}
        show(saved, form, {"DEVICE": "device", "COMMAND": "command", "BYTES": "bytes", "FILE": "file"})


def commands(
    ctx: typer.Context, device: Id, limit: Limit = 50, output: Output = Format.TABLE, as_json: Json = False
) -> None:
    """List what a device was asked, newest first, and what became of it."""
    with connect(ctx) as client:
        show(client.pages(f"/api/v1/devices/{device}/commands", most=limit), _form(output, as_json), COMMANDS)


def status(
    ctx: typer.Context,
    device: Id,
    timeout: Timeout = 300,
    force: Force = False,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Ask a device for its whole status now, as `wavegate-agent status` shows it there."""
    with connect(ctx) as client:
        command = _answered(client, _ask(client, device, "status", force=force), timeout)
    _check(command)
    form, told = _form(output, as_json), command["data"]
    if form is not Format.TABLE:
        show(told, form, {})
        return
    sys.stdout.write(card(told, {name: name for name in STATUS if name in told}) + "\n")
    show([{"model": model, **story} for model, story in told.get("updates", {}).items()], form, STORY)


def selftest(
    ctx: typer.Context,
    device: Id,
    timeout: Timeout = 300,
    force: Force = False,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Have a device check its identity, store, runtimes and server."""
    with connect(ctx) as client:
        command = _answered(client, _ask(client, device, "selftest", force=force), timeout)
    findings: Any = command["data"].get("findings", [])
    show(findings, _form(output, as_json), {"WHAT": "what", "OK": "is_ok", "CODE": "code", "DETAIL": "detail"})
    _check(command)


def rollback(
    ctx: typer.Context,
    device: Id,
    model: Annotated[str, typer.Option("--model", help="team/model; may be left out where there is one.")] = "",
    wait: Wait = False,
    timeout: Timeout = 300,
    reason: Why = "",
    force: Force = False,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Have one device go back to the release before, which it holds; what it is asked to run does not change."""
    with connect(ctx) as client:
        command = _ask(client, device, "rollback", model=model, reason=reason, force=force)
        if wait:
            command = _answered(client, command, timeout)
    show(command, _form(output, as_json), COMMANDS)
    _check(command)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the group ``device``."""
    for command in (diagnose, diagnosis, commands, status, selftest, rollback):
        app.command(command.__name__)(command)


def _ask(client: Client, device: str, do: str, **more: object) -> dict[str, Any]:
    asked: dict[str, Any] = client.post(f"/api/v1/devices/{device}/commands", {"do": do, **more})
    return asked


def _answered(client: Client, command: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Return the command once it has ended.

    Raises:
        TimedOut: it has not; the device is still asked.
    """
    began = time.monotonic()
    while command["state"] == "waiting":
        if timeout_s and time.monotonic() - began > timeout_s:
            raise TimedOut(
                f"The device {command['device']!r} has not answered yet.",
                remedy=f"It stays asked; look later: wavegate device commands {command['device']}.",
            )
        time.sleep(POLL_S)
        command = dict(client.get(f"/api/v1/devices/{command['device']}/commands/{command['id']}"))
    return command


def _check(command: dict[str, Any]) -> None:
    """Leave with an error where the device did not do what it was asked.

    Raises:
        Conflict: with the device's own code.
    """
    if command["state"] not in ("waiting", "done"):
        raise Conflict(
            f"{command['device']}: {command['do']} {command['state']}. {command['detail']}",
            code=command["code"] or "COMMAND_FAILED",
            remedy=f"See `wavegate device events {command['device']}`.",
        )


def _form(output: Format, as_json: bool) -> Format:
    return Format.JSON if as_json else output


def _path(device: str, command: str) -> str:
    return f"/api/v1/devices/{device}/diagnoses/{command}"


def _save(content: bytes, out: Path) -> None:
    try:
        out.write_bytes(content)
        out.chmod(0o600)  # redacted, and still nobody else's business
    except OSError as error:
        raise SetUpWrong(
            f"{str(out)!r} cannot be written: {error.strerror}.", code="FILE_WRITE", remedy="Name another with --out."
        ) from error
    say(f"{len(content)} bytes: {out}")
