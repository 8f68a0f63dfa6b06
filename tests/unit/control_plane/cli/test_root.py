"""The root command: fast where it must be, lazy everywhere, and one exit code for each kind of error."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bundles import __version__
from bundles.errors import BundleRefused, TrustRefused, TryAgain
from control_plane import errors as e
from control_plane.cli import exits
from control_plane.cli.root import COMMANDS, run

_PROBE = """
import json, sys
from control_plane.cli.main import main
try:
    main({arguments!r})
except SystemExit as end:
    pass
heavy = ("typer", "rich", "httpx", "fastapi", "sqlmodel", "sqlalchemy", "pydantic", "uvicorn", "yaml", "numpy")
print(json.dumps([name for name in heavy if name in sys.modules]), file=sys.stderr)
"""


def _imported(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(arguments=list(arguments))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return json.loads(done.stderr.splitlines()[-1])


def test_version_loads_nothing_heavy():
    assert _imported("version") == []


def test_a_client_command_loads_nothing_of_the_server():
    server = {"fastapi", "sqlmodel", "sqlalchemy", "uvicorn", "numpy"}
    assert not server & set(_imported("profile", "list"))
    assert not server & set(_imported("--url", "http://127.0.0.1:9", "--token", "t", "device", "list"))


def test_version_is_told_both_ways(capsys):
    assert run(["version", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["wavegate"] == __version__


def test_every_command_is_named_after_its_place_in_the_root():
    from control_plane.cli.root import LazyGroup

    group = LazyGroup(name="wavegate")
    names = group.list_commands(None)
    assert {"publish", "model", "rollout", "device", "audit", "token", "bundle", "trust", "server"} <= set(names)
    for name in names:
        command = group.get_command(None, name)
        assert command.name == name
        assert command.get_short_help_str()
    assert group.get_command(None, "nothing") is None
    assert set(names) <= set(COMMANDS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (e.NotFound(""), 3),
        (e.NotAllowed(""), 4),
        (e.Unauthenticated(""), 4),
        (e.Conflict(""), 5),
        (e.PreconditionFailed(""), 5),
        (e.PreconditionMissing(""), 5),
        (BundleRefused(""), 6),
        (TrustRefused(""), 6),
        (exits.TimedOut(""), 8),
        (TryAgain(""), 1),
        (e.PolicyRefused(""), 1),
        (e.SetUpWrong(""), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error, code):
    assert exits.exit_code(error) == code


def test_usage_errors_are_2_and_go_to_stderr(capsys):
    assert run(["rollout", "list", "--no-such-flag"]) == 2
    assert run(["no-such-command"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "no-such" in told.err.replace("\n", "")


def test_no_server_is_one_line_with_a_remedy(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WAVEGATE_CONFIG", str(tmp_path / "profiles.json"))
    monkeypatch.setenv("WAVEGATE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WAVEGATE_TOKEN", "t")
    assert run(["device", "list"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("[SERVER_UNREACHABLE] ")
    assert "wavegate server run" in told.err
    assert run(["doctor", "-o", "json"]) == 1
    (line,) = json.loads(capsys.readouterr().out)
    assert not line["ok"]


def test_no_token_is_told(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WAVEGATE_CONFIG", str(tmp_path / "profiles.json"))
    monkeypatch.delenv("WAVEGATE_TOKEN", raising=False)
    assert run(["device", "list"]) == 1
    assert capsys.readouterr().err.startswith("[TOKEN_UNSET] ")
