"""The root group: its commands are names and modules, imported when one is called; errors become exit codes here."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bundles.errors import WavegateError
from control_plane.cli import exits
from control_plane.cli.context import Context

COMMANDS: dict[str, str] = {
    "demo": "control_plane.cli.demo:app",
    "server": "control_plane.cli.server:app",
    "bundle": "control_plane.cli.bundle:app",
    "trust": "control_plane.cli.trust:app",
    "publish": "control_plane.cli.model:publish_app",
    "model": "control_plane.cli.model:app",
    "rollout": "control_plane.cli.rollout:app",
    "device": "control_plane.cli.device:app",
    "drift": "control_plane.cli.drift:app",
    "alerts": "control_plane.cli.alerts:app",
    "audit": "control_plane.cli.audit:app",
    "token": "control_plane.cli.token:app",
    "profile": "control_plane.cli.profile:app",
    "doctor": "control_plane.cli.doctor:app",
    "version": "control_plane.cli.version:app",
}


class LazyGroup(TyperGroup):
    """Knows its commands by name; imports the module of one only to run it or to describe it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return every command whose module is part of this installation."""
        return [name for name, target in COMMANDS.items() if importlib.util.find_spec(target.partition(":")[0])]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and return the command called ``cmd_name``, None where there is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = typer.main.get_command(getattr(importlib.import_module(module), attribute))
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Ship signed models to fleets of devices and prove, wave by wave, that they are healthy there.",
)


@app.callback()
def root(
    ctx: typer.Context,
    url: Annotated[str, typer.Option(envvar="WAVEGATE_URL", help="Address of the server.")] = "",
    token: Annotated[str, typer.Option(envvar="WAVEGATE_TOKEN", help="Operator token.", show_envvar=True)] = "",
    profile: Annotated[str, typer.Option(envvar="WAVEGATE_PROFILE", help="Named profile to use.")] = "",
) -> None:
    """Keep what tells where to go; nothing is opened yet."""
    ctx.obj = Context(url=url, token=token, profile=profile)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. Every expected error is one line on stderr."""
    command = typer.main.get_command(app)
    try:
        result = command.main(args=list(arguments), prog_name="wavegate", standalone_mode=False)
    except WavegateError as error:
        print(error, file=sys.stderr)
        return exits.exit_code(error)
    except (KeyboardInterrupt, typer.Abort):
        return exits.INTERRUPTED
    except Exception as error:
        # Typer's usage errors know how to show themselves and which code they leave with.
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or not isinstance(code, int):
            raise
        show()
        return code
    return result if isinstance(result, int) else exits.OK
