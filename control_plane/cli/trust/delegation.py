"""``wavegate trust delegate``: which team may list bundles, and with whose keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli.trust.event_command import Making, makes_event
from control_plane.cli.trust.making import changed_keys, public_keys

app = typer.Typer(help="Which team may list bundles.", no_args_is_help=True)
Team = Annotated[str, typer.Argument(help="Name of the team.")]


@app.command("add")
@makes_event
def add(
    making: Making,
    team: Annotated[str, typer.Argument(help="Name of the new team.")],
    team_key: Annotated[
        list[Path], typer.Option(help="Key of the new team: a private file signs at once, NAME.pub later; repeatable.")
    ],
    threshold: Annotated[int, typer.Option(help="How many of the team's keys must sign.", min=1)] = 1,
) -> None:
    """Let a new team list bundles. Writes an event: the targets role and the team's first, empty role."""
    from bundles.trust.drafting.drafts import Keys, encode_drafts
    from bundles.trust.drafting.rotation import add_team

    ground = making.ground()
    drafts = add_team(ground.state, team, Keys(public_keys(team_key), threshold), ground.now_ms)
    own = [str(path) for path in team_key if path.suffix != ".pub"]
    making.finish(ground, "delegate add", encode_drafts(drafts), signers=own, more={"team": team})


@app.command("rotate")
@makes_event
def rotate(
    making: Making,
    team: Team,
    add_key: Annotated[list[Path] | None, typer.Option("--add", help="Public key to add; repeatable.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Key to remove: .pub file or id; repeatable.")] = None,
    threshold: Annotated[int | None, typer.Option(help="How many must sign from now on.", min=1)] = None,
) -> None:
    """Exchange keys of a team. Its list is signed anew, by the new keys."""
    from bundles.trust.drafting.drafts import encode_drafts, keys_of
    from bundles.trust.drafting.rotation import rotate_team
    from bundles.trust.roles import team_role

    ground = making.ground()
    current = keys_of(ground.state.targets, _known(ground.state.targets, team_role(team)))
    keys = changed_keys(current, add_key, remove, threshold)
    files = encode_drafts(rotate_team(ground.state, team, keys, ground.now_ms))
    making.finish(ground, "delegate rotate", files, more={"team": team})


@app.command("remove")
@makes_event
def remove(
    making: Making,
    team: Team,
) -> None:
    """Let a team list nothing any more. What runs keeps running; no device can be given its bundles again."""
    from bundles.trust.drafting.drafts import encode_drafts
    from bundles.trust.drafting.rotation import remove_team
    from bundles.trust.roles import team_role

    ground = making.ground()
    _known(ground.state.targets, team_role(team))
    files = encode_drafts(remove_team(ground.state, team, ground.now_ms))
    making.finish(ground, "delegate remove", files, more={"team": team})


@app.command("kit")
@makes_event
def kit(
    making: Making,
    kit_key: Annotated[
        list[Path] | None, typer.Option("--kit-key", help="Public key of who signs offline kits; repeatable.")
    ] = None,
    threshold: Annotated[int, typer.Option(help="How many of them must sign a kit.", min=1)] = 2,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Let nobody sign offline kits any more.")] = False,
) -> None:
    """Say who signs offline kits (a USB snapshot for devices without a network); again: exchange their keys."""
    from bundles.trust.drafting.drafts import Keys, encode_drafts
    from bundles.trust.drafting.rotation import delegate_kit, remove_kit

    ground = making.ground()
    if withdraw:
        drafts = remove_kit(ground.state, ground.now_ms)
    else:
        drafts = delegate_kit(ground.state, Keys(public_keys(kit_key), threshold), ground.now_ms)
    making.finish(ground, "delegate kit", encode_drafts(drafts))


def _known(targets: object, role: str) -> str:
    from bundles.errors import AskPerson
    from bundles.trust.publishing.state import delegated_names

    if role not in delegated_names(targets):  # type: ignore[arg-type]  # tuf is imported only when a command runs
        raise AskPerson(
            f"Nothing is delegated to {role!r}.",
            code="TRUST_CEREMONY",
            remedy="See `wavegate trust status` for the teams there are.",
        )
    return role
