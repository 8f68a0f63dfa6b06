"""``wavegate publish`` and ``wavegate model``: releases of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.cli.context import connect
from control_plane.cli.output import Format, Limit, Output, say, show
from control_plane.client import Client
from control_plane.errors import Conflict, NotFound, SetUpWrong

app = typer.Typer(no_args_is_help=True, help="Releases: list, show, approve, reject.")
publish_app = typer.Typer(add_completion=False)
COLUMNS = {
    "TEAM": "team",
    "MODEL": "model",
    "VERSION": "version",
    "COUNTER": "release_counter",
    "STAGE": "stage",
    "CHANNEL": "channel",
    "PUBLISHER": "publisher",
    "APPROVER": "approver",
    "PUBLISHED": "published_ms",
    "SHA256": "sha256",
}
Name = Annotated[str, typer.Argument(metavar="RELEASE", help="TEAM/MODEL@VERSION, or digits of the bundle digest.")]


@publish_app.command("publish")
def publish(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A signed .wgb file.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Publish a signed bundle. The same bundle again changes nothing."""
    try:
        stream = file.open("rb")
    except OSError as error:
        raise SetUpWrong(
            f"{file} cannot be read: {error.strerror}.", code="FILE_UNREADABLE", remedy="Name a .wgb file."
        ) from error
    with stream, connect(ctx) as client:
        release = client.upload("/api/v1/releases", stream)
    show(release, output, COLUMNS)
    if release["stage"] == "registered":
        say(f"Another person may now approve it: wavegate model approve {release['sha256'][:12]}")


@app.command("list")
def list_releases(
    ctx: typer.Context,
    team: Annotated[str, typer.Option(help="Only this team's.")] = "",
    model: Annotated[str, typer.Option(help="Only this model's.")] = "",
    stage: Annotated[str, typer.Option(help="Only this stage.")] = "",
    limit: Limit = 100,
    output: Output = Format.TABLE,
) -> None:
    """List releases, newest first."""
    with connect(ctx) as client:
        items = client.pages("/api/v1/releases", most=limit, team=team, model=model, stage=stage)
    show(items, output, COLUMNS)


@app.command("show")
def show_release(ctx: typer.Context, release: Name, output: Output = Format.TABLE) -> None:
    """Show a release and what its manifest promises."""
    with connect(ctx) as client:
        detail = client.get(f"/api/v1/releases/{find(client, release)}")
    columns = {name: f"release.{path}" for name, path in COLUMNS.items()}
    show(detail, output, {**columns, "LABELS": "manifest.labels", "LINEAGE": "manifest.lineage"})


@app.command("approve")
def approve(
    ctx: typer.Context,
    release: Name,
    comment: Annotated[str, typer.Option(help="For the audit.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Approve a release that another person published."""
    _judge(ctx, release, "approve", comment, output)


@app.command("reject")
def reject(
    ctx: typer.Context,
    release: Name,
    comment: Annotated[str, typer.Option(help="For the audit.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Refuse a release for good."""
    _judge(ctx, release, "reject", comment, output)


def _judge(ctx: typer.Context, release: str, verb: str, comment: str, output: Format) -> None:
    with connect(ctx) as client:
        view = client.post(f"/api/v1/releases/{find(client, release)}/{verb}", {"comment": comment})
    show(view, output, COLUMNS)


def find(client: Client, name: str) -> str:
    """Return the digest of the release called ``name``: ``team/model@version``, or the first digits of its digest.

    Raises:
        NotFound: ``RELEASE_UNKNOWN``.
        Conflict: ``RELEASE_AMBIGUOUS``.
    """
    key, at, version = name.partition("@")
    team, _, model = key.partition("/")
    query: dict[str, Any] = {"team": team, "model": model} if at else {}
    found = [
        item["sha256"]
        for item in client.pages("/api/v1/releases", most=10_000, **query)
        if (item["version"] == version if at else item["sha256"].startswith(name))
    ]
    if not found:
        raise NotFound(f"No release is called {name!r}.", code="RELEASE_UNKNOWN", remedy="See `wavegate model list`.")
    if len(found) > 1:
        raise Conflict(
            f"Several releases begin with {name!r}.", code="RELEASE_AMBIGUOUS", remedy="Give more digits of the digest."
        )
    return str(found[0])
