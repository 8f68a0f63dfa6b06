"""``wavegate profile``: named servers and tokens of this user."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from control_plane.cli.output import Format, Output, show
from control_plane.cli.profiles import Profiles, load, save

app = typer.Typer(no_args_is_help=True, help="Named servers and tokens, kept in a file only you can read.")
COLUMNS = {"NAME": "name", "URL": "url", "TOKEN": "token", "CURRENT": "is_current"}
Name = Annotated[str, typer.Argument(help="Its name.")]


@app.command("list")
def list_profiles(output: Output = Format.TABLE) -> None:
    """List profiles; tokens are not shown."""
    show(_rows(load()), output, COLUMNS)


@app.command("set")
def set_profile(
    name: Name,
    url: Annotated[str, typer.Option(help="Address of the server.")] = "",
    token: Annotated[str, typer.Option(envvar="WAVEGATE_TOKEN", help="Operator token.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Set a profile; what is not given stays. The first one becomes current."""
    profiles = load().with_profile(name, url=url, token=token)
    save(profiles)
    show(_rows(profiles), output, COLUMNS)


@app.command("use")
def use(name: Name, output: Output = Format.TABLE) -> None:
    """Make a profile the current one."""
    profiles = load()
    profiles.named(name)
    profiles = replace(profiles, current=name)
    save(profiles)
    show(_rows(profiles), output, COLUMNS)


def _rows(profiles: Profiles) -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "url": profile.url,
            "token": "set" if profile.token else "",
            "is_current": name == profiles.current,
        }
        for name, profile in profiles.profiles.items()
    ]
