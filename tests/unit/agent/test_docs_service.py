"""What docs/service.md says is so: its commands exist, and its words and numbers are the code's."""

import importlib
import re
import shlex
from pathlib import Path, PurePosixPath

import pytest

from agent.cli.parser import build_parser
from agent.logs import FIELDS, RING_BYTES, RING_FILES
from agent.service.unit import UNIT, WATCHDOG_S, Plan, files

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "service.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
OF_SYSTEMD = {"systemd-sysusers", "chown", "systemctl", "journalctl"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_exists(command):
    program, *arguments = shlex.split(command)
    if program in OF_SYSTEMD:
        assert program in ("systemd-sysusers", "chown") or UNIT in arguments or arguments == ["daemon-reload"]
        return
    assert program == "wavegate-agent"
    module, _, function = build_parser().parse_args(arguments).target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_unit_says_what_the_page_says():
    plan = Plan(("/usr/bin/wavegate-agent",), PurePosixPath("/var/lib/wavegate"))
    text = files(plan)[PurePosixPath("/etc/systemd/system") / UNIT]
    for line in (f"WatchdogSec={WATCHDOG_S}", "Type=notify", "TimeoutStopSec=10"):
        assert line in text
        assert line in TEXT
    assert all(field.upper() in TEXT for field in FIELDS)
    assert (RING_FILES + 1, RING_BYTES) == (3, 256 * 1024)
