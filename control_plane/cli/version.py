"""``wavegate version -o json``; the bare ``wavegate version`` is answered by ``main`` without any of this."""

from __future__ import annotations

import platform

import typer

from bundles import __version__
from control_plane.cli.output import Format, Output, show

app = typer.Typer()


@app.command("version")
def version(output: Output = Format.TABLE) -> None:
    """Say which release this is."""
    told = {"wavegate": __version__, "python": platform.python_version(), "platform": platform.platform()}
    show(told, output, {"WAVEGATE": "wavegate", "PYTHON": "python", "PLATFORM": "platform"})
