"""What docs/store.md says is so: its commands exist, its settings are read, its folders and numbers are the code's."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from agent.cli.parser import build_parser
from agent.config import AgentConfig, load_config
from agent.core.policy import MAX_WRONG_CONTENT
from agent.core.reasons import STORE_DAMAGE
from agent.runner.rehash import REST_RATIO
from agent.runner.steps import HASHED_FIRST_BYTES
from agent.store import LocalFileSystem, Store
from agent.store.factory import FACTORY
from agent.store.store import RESERVE_BYTES

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "store.md").read_text("utf-8")
MIB = 1024 * 1024


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.splitlines()])
def test_every_command_exists(command):
    program, *arguments = shlex.split(command)
    assert program == "wavegate-agent"
    module, _, function = build_parser().parse_args(arguments).target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_settings_are_read(tmp_path):
    (tmp_path / "config.toml").write_text("".join(blocks("toml")))
    config = load_config(tmp_path / "config.toml")
    assert (config.reserve_mib, len(config.factory)) == (256, 1)


def test_the_folders_are_there(tmp_path):
    Store(LocalFileSystem(tmp_path)).open()
    told = re.findall(r"^\| `([a-z0-9/]+?)/(?:`|<)", TEXT, re.MULTILINE)
    assert set(told) == {"blobs/sha256", "blobs/part", "slots", "journal", FACTORY}
    assert all((tmp_path / folder).is_dir() for folder in told if folder != FACTORY)


@pytest.mark.parametrize(
    "said",
    [
        f"({AgentConfig().reserve_mib} MiB) are left",
        f"the default is {RESERVE_BYTES // MIB}",
        f"more than {HASHED_FIRST_BYTES // MIB} MiB answers first",
        {3.0: "a quarter of the disk's speed"}[REST_RATIO],
        {3: "Three times wrong"}[MAX_WRONG_CONTENT],
        *(f"`{code}`" for code in ("DISK_FULL", *sorted(STORE_DAMAGE))),
    ],
)
def test_every_number_and_word_is_the_codes(said):
    assert said in TEXT
