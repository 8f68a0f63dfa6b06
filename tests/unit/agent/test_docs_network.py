"""What docs/network.md says is so: its commands exist, its settings are read, its files are there."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from agent.cli.parser import build_parser
from agent.config import load_config
from agent.core.route import CHANGE_AFTER, RECONNECT, RECONNECT_SLOWLY
from agent.runner.link import FALLBACK_AFTER_MS, POLL_AGAIN

PAGE = Path(__file__).resolve().parents[3] / "docs" / "network.md"
TEXT = PAGE.read_text("utf-8")


@pytest.mark.parametrize("command", re.findall(r"^wavegate-agent .*", TEXT, re.MULTILINE))
def test_every_command_exists(command):
    module, _, function = build_parser().parse_args(shlex.split(command)[1:]).target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_settings_are_read(tmp_path):
    (settings,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "config.toml").write_text(settings)
    config = load_config(tmp_path / "config.toml")
    assert (config.proxy.partition("@")[2], config.no_proxy) == ("proxy.example:3128", ("10.0.0.0/8", ".local"))
    for way in ("auto", "mqtt", "websocket", "https"):
        (tmp_path / "config.toml").write_text(f'transport = "{way}"')
        assert load_config(tmp_path / "config.toml").route == way


def test_files_and_numbers_are_the_codes():
    assert all((PAGE.parent / link).exists() for link in re.findall(r"\]\((.*?)\)", TEXT))
    assert (CHANGE_AFTER, RECONNECT.cap_s, RECONNECT_SLOWLY.cap_s, FALLBACK_AFTER_MS) == (2, 120.0, 3600.0, 30_000)
    assert POLL_AGAIN.cap_s == 300.0
