"""docs/security.md: every command it names exists, with the options it gives."""

import re
from pathlib import Path

import pytest
import typer.main

from control_plane.cli.root import app

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "security.md").read_text()
QUOTED = [" ".join(text.split()) for text in re.findall(r"`([^`|]+)`", PAGE)]
STARTS = ("wavegate ", "trust ", "rotate ", "delegate ")
COMMANDS = sorted({text for text in QUOTED if text.startswith(STARTS)})


def command_of(words):
    """Return the command that ``words`` name, and the words left over."""
    found = typer.main.get_command(app)
    while hasattr(found, "get_command") and words:
        found = found.get_command(None, words[0])
        assert found is not None, words
        words = words[1:]
    return found, words


def test_the_page_names_the_commands_of_a_ceremony():
    assert len(COMMANDS) > 25
    assert any(command.startswith("wavegate trust drill --lost") for command in COMMANDS)


@pytest.mark.parametrize("text", COMMANDS)
def test_the_command_exists_with_these_options(text):
    words = text.removeprefix("wavegate ").split()
    if words[0] in ("rotate", "delegate"):
        words = ["trust", *words]
    command, rest = command_of(words)
    assert not hasattr(command, "get_command"), text
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in rest if word.startswith("-")} <= known
