"""docs/security.md and docs/runbooks: commands, files, checks and links that they name exist.

So do the commands that the product's own remedies name. ``tests/integration/runbooks`` runs the blocks of commands.
"""

import re
from pathlib import Path

import pytest
import typer.main

from control_plane.cli.root import app

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "docs" / "security.md", *sorted((ROOT / "docs" / "runbooks").glob("*.md"))]
SECURITY = PAGES[0].read_text()
FENCED = re.compile(r"```sh\n(.*?)```", re.DOTALL)
STARTS = ("wavegate ", "trust ", "rotate ", "delegate ")
ROW = re.compile(r"^\| (\d+) \| [^|]+ \| `([^`]+)` \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
FAMILIES = {int(number): (file, re.findall(r"`([^`]+)`", checks)) for number, file, checks in ROW.findall(SECURITY)}


def commands_of(text):
    """Return what the page shows as commands, each on one line."""
    blocks = [line.strip() for block in FENCED.findall(text) for line in block.splitlines()]
    quoted = [" ".join(part.split()) for part in re.findall(r"`([^`|]+)`", FENCED.sub("", text))]
    return [line for line in (*blocks, *quoted) if line.startswith(STARTS)]


def remedies():
    """Return the commands that sentences of the product name, without what a running one fills in."""
    found = set()
    for package in ("agent", "bundles", "control_plane"):
        for path in (ROOT / package).rglob("*.py"):
            found.update(re.findall(r"`(wavegate [a-z][^`]*)`", path.read_text()))
    return found


COMMANDS = sorted({command for page in PAGES for command in commands_of(page.read_text())})


def command_of(words):
    """Return the command that ``words`` name, and the words left over."""
    found = typer.main.get_command(app)
    while hasattr(found, "get_command") and words and re.fullmatch(r"[a-z-]+", words[0]):
        found = found.get_command(None, words[0])
        assert found is not None, words
        words = words[1:]
    return found, words


def options_of(command):
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def test_the_pages_name_the_commands_of_a_ceremony():
    assert len(COMMANDS) > 60
    assert any(command.startswith("wavegate trust drill --lost") for command in COMMANDS)


@pytest.mark.parametrize("text", COMMANDS)
def test_the_command_exists_with_these_options(text):
    words = text.removeprefix("wavegate ").split()
    if words[0] in ("rotate", "delegate"):
        words = ["trust", *words]
    command, rest = command_of(words)
    assert not hasattr(command, "get_command"), text
    assert {word for word in rest if word.startswith("-")} <= options_of(command)


@pytest.mark.parametrize("text", sorted(remedies()))
def test_a_command_that_a_remedy_names_exists(text):
    command, rest = command_of(text.removeprefix("wavegate ").split())
    assert {word for word in rest if word.startswith("--")} <= options_of(command) | {"--help"}


def test_every_family_of_attacks_has_its_row():
    assert sorted(FAMILIES) == list(range(1, 29))


@pytest.mark.parametrize("number", sorted(FAMILIES))
def test_the_file_of_a_family_exists_and_takes_away_the_checks_it_is_said_to(number):
    file, checks = FAMILIES[number]
    text = (ROOT / "tests" / file).read_text()
    assert [check for check in checks if f".{check}" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_security_page_can_be_read_in_one_sitting():
    assert len(SECURITY.splitlines()) <= 300
