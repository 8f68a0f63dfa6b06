"""``wavegate trust floor``: the lowest release counter that any device may still take."""

from __future__ import annotations

from typing import Annotated

import typer

from control_plane.cli.trust.event_command import Making, makes_event

app = typer.Typer()


@app.command()
@makes_event
def floor(
    making: Making,
    model: Annotated[str, typer.Argument(metavar="TEAM/MODEL", help="The model.")],
    counter: Annotated[int, typer.Argument(help="Lowest release counter that is still allowed.", min=1)],
) -> None:
    """Raise the signed floor of a model: no device goes below it, whatever the server says. It never falls again."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.statements import raise_floors

    ground = making.ground()
    files = encode_drafts(raise_floors(ground.state, {model: counter}, ground.now_ms))
    making.finish(ground, "floor", files)
