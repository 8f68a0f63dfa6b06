"""``wavegate trust expiry`` and ``renew``: what is about to expire, and signing it again unchanged."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from control_plane.cli.context import address, connect
from control_plane.cli.output import Format, Output, say, show
from control_plane.cli.trust.event_command import Making, makes_event
from control_plane.cli.trust.making import read_ground
from control_plane.cli.trust.options import (
    Json,
    Metadata,
    Root,
    chosen,
)

if TYPE_CHECKING:
    from bundles.trust.drafting.expiry import Deadline

app = typer.Typer()
_DUE = {"Role": "role", "Expires": "expires_ms", "Days left": "days_left", "Command": "command"}
_SECONDS = {"": 86_400, "d": 86_400, "h": 3_600, "w": 7 * 86_400}
DUE = 1
"""Exit code when something is due, so that a calendar job can tell."""


@app.command()
def expiry(
    ctx: typer.Context,
    warn: Annotated[str, typer.Option(help="How far to look ahead, such as 60d.")] = "60d",
    metadata: Metadata = "",
    root: Root = None,
    output: Output = Format.TABLE,
    as_json: Json = False,
) -> None:
    """List what expires soon, with the command that mends it. Leaves with 1 when something is due, else with 0.

    A running server (--url) also says which of its certificates and lists are about to expire.
    """
    from bundles.trust.drafting.expiry import expiring
    from bundles.trust.publishing.state import state_expiries

    warn_s = _seconds(warn)
    ground = read_ground(ctx, metadata, root)
    roles = state_expiries(ground.state)
    others = {name: one for name, one in _told_by_server(ctx, ground.place, warn_s).items() if name not in roles}
    due = expiring(roles, ground.now_ms, warn_s, extra=others, place=ground.place)
    show([msgspec.to_builtins(entry) for entry in due], chosen(output, as_json), _DUE)
    if due:
        raise typer.Exit(DUE)
    say(f"Nothing expires within {warn}.")


@app.command()
@makes_event
def renew(
    making: Making,
    role: Annotated[list[str] | None, typer.Option(help="Role to renew: root, targets, team-NAME; repeatable.")] = None,
    all_due: Annotated[bool, typer.Option("--all-due", help="Renew whatever expires soon, in one event.")] = False,
    within: Annotated[str, typer.Option(help="What soon means, such as 60d.")] = "60d",
) -> None:
    """Sign roles again, unchanged but for their expiry."""
    from bundles.errors import AskPerson
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.renewal import renew as renew_roles
    from bundles.trust.drafting.renewal import renew_all_due

    if bool(role) == all_due:
        raise AskPerson("What to renew is not said.", code="TRUST_CEREMONY", remedy="Give --role ROLE, or --all-due.")
    ground = making.ground()
    if all_due:
        drafts = renew_all_due(ground.state, ground.now_ms, _seconds(within)).drafts
    else:
        drafts = renew_roles(ground.state, role or (), ground.now_ms)
    if not drafts:
        say(f"Nothing expires within {within}.")
        show({"event": None, "files": [], "complete": True}, making.form, {"Event": "event", "Files": "files"})
        return
    making.finish(ground, "renew", encode_drafts(drafts))


def _told_by_server(ctx: typer.Context, place: str, warn_s: int) -> dict[str, Deadline]:
    """Return what the server of ``--url`` says is about to expire, by name; nothing where ``place`` is another.

    The token is shown to that server only, not to whoever else serves metadata.
    """
    from bundles.trust.drafting.expiry import WARN_S, Deadline

    url, token = address(ctx)
    if place.rstrip("/") != url.rstrip("/") or not token:
        say("Metadata only. What else expires (CAs, TLS, revocation list) the server of --url tells, to a token.")
        return {}
    with connect(ctx) as client:
        told = client.get("/api/v1/trust")["expiring"]
    if warn_s > WARN_S:
        say(f"Of its certificates the server tells those that expire within {WARN_S // 86_400} days.")
    return {one["item"]: Deadline(one["expires_ms"], one["command"]) for one in told}


def _seconds(text: str) -> int:
    """Return the seconds that ``text`` (such as ``60d``) means.

    Raises:
        BadParameter: it is no duration.
    """
    found = re.fullmatch(r"([0-9]{1,5})([dhw]?)", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration such as 60d.")
    return int(found[1]) * _SECONDS[found[2]]
