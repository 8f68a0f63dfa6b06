"""Every command that the programs' own words send a person to exists, with the options named."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from agent.cli.parser import build_parser
from control_plane.cli.root import COMMANDS, app

ROOT = Path(__file__).resolve().parents[4]
PACKAGES = ("bundles", "agent", "control_plane")
# A command in running text begins with its program, or, in backticks, with a group of `wavegate`.
MENTION = re.compile(
    r"\bwavegate(?P<agent>-agent)? (?P<rest>[a-z][^`\n\"']*)|`(?P<short>(?!wavegate)[a-z][a-z-]* [a-z][^`\n]*)`"
)
PROSE = {"tools"}
"""Words that follow the name of the program where no command is meant."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every string and docstring of a module with its line; what an f-string fills in becomes ``{}``."""
    inside: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node)}
            yield node.lineno, "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def mentions() -> Iterator[tuple[str, bool, list[str]]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for line, text in texts(path):
                for found in MENTION.finditer(text):
                    rest = found["rest"] or found["short"]
                    words = rest.replace("[", " ").split()
                    if found["short"] and words[0] not in COMMANDS:
                        continue
                    if words[0].strip(".,;:") not in PROSE:
                        yield f"{path.relative_to(ROOT)}:{line}", bool(found["agent"]), words


def trouble_of_wavegate(words: list[str]) -> str:
    """Return what is wrong with the command line ``words``; empty where nothing is."""
    command = typer.main.get_command(app)
    context = typer.Context(command)
    for position, word in enumerate(words):
        if not hasattr(command, "get_command"):
            return unknown_options(words[position:], {text for p in command.params for text in p.opts})
        name = word.rstrip(".,;:)|")
        if word.startswith("{}"):
            return ""
        # "`trust delegate add|rotate`" names several; each must be there.
        for one in name.split("|"):
            child = command.get_command(context, one)
            if child is None:
                return f"no command {one!r}"
        command = child
        if name != word and "|" not in name:
            return ""
    return ""


def trouble_of_agent(words: list[str]) -> str:
    commands = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    name = words[0].rstrip(".,;:)")
    if name not in commands:
        return f"no command {name!r}"
    return unknown_options(words[1:], set(commands[name]._option_string_actions))


def unknown_options(words: list[str], known: set[str]) -> str:
    named = [word.rstrip(".,;:)").partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    return ", ".join(f"no option {word}" for word in named if word not in {*known, "--help"})


def test_every_command_named_in_the_sources_exists():
    found = list(mentions())
    assert len(found) > 100
    wrong = [
        f"{place}: {'wavegate-agent' if agent else 'wavegate'} {' '.join(words)}: {trouble}"
        for place, agent, words in found
        if (trouble := trouble_of_agent(words) if agent else trouble_of_wavegate(words))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "agent"),
    [
        ("release list", False),
        ("trust rotate nobody", False),
        ("trust sign --nothing", False),
        ("bundle sign|nothing", False),
        ("steal --dir x", True),
        ("status --nothing", True),
    ],
)
def test_a_command_that_is_not_there_is_found_out(line, agent):
    assert (trouble_of_agent if agent else trouble_of_wavegate)(line.split())
