"""docs/runbooks: every block of commands is run, in the order of its page, as a release manager would type it.

The ceremony is one story. Each emergency begins anew, right after the keys were made.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from control_plane.cli.root import run

PAGES = Path(__file__).resolve().parents[3] / "docs" / "runbooks"


def sections(page: str) -> dict[str, list[str]]:
    """Return the command lines of a page's ``sh`` blocks, by the heading they stand under."""
    found = {}
    for part in (PAGES / page).read_text().split("\n## ")[1:]:
        blocks = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
        found[part.partition("\n")[0]] = [line for block in blocks for line in block.splitlines() if line.strip()]
    return found


CEREMONY, EMERGENCIES = sections("ceremony.md"), sections("emergencies.md")


def type_in(lines, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WAVEGATE_KEY_PASSPHRASE", "correct horse")
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "wavegate", line
        if words[:2] == ["trust", "sign"]:
            words.append("--yes")  # there is nobody at the terminal to ask
        code = run(words)
        said = capsys.readouterr().err
        # Something is always due within the years that the page looks ahead; that is said by the exit status.
        assert code == 0 or (words[:2] == ["trust", "expiry"] and code == 1), f"{line}\n{said}"


@pytest.fixture(scope="module")
def keys_made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ceremony")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WAVEGATE_KEY_PASSPHRASE", "correct horse")
        assert run(shlex.split(CEREMONY["Making the keys"][0])[1:]) == 0
    return folder


def test_the_ceremony_and_what_follows_it(tmp_path, monkeypatch, capsys):
    lines = [line for section in CEREMONY.values() for line in section]
    assert len(lines) > 20
    type_in(lines, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("heading", [heading for heading, lines in EMERGENCIES.items() if lines])
def test_an_emergency(heading, keys_made, tmp_path, monkeypatch, capsys):
    shutil.copytree(keys_made, tmp_path / "place")
    type_in(EMERGENCIES[heading], tmp_path / "place", monkeypatch, capsys)


def test_the_pages_tell_what_to_do_in_each_emergency():
    assert sum(map(bool, EMERGENCIES.values())) >= 6
