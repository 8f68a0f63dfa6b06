"""What docs/agent.md says is so: its commands exist, its settings are read, its words and numbers are the code's."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from agent.cli.parser import build_parser
from agent.conditions import MODEL_FACTOR, WORKER_BYTES
from agent.config import load_config
from agent.core.health import HealthLimits
from agent.core.policy import DEFAULT_POLICY, DEFER, LOOK_AGAIN_S, MAX_WRONG_CONTENT, SERVE_AGAIN_S
from agent.core.reasons import ENVIRONMENT
from agent.core.state import MAX_HISTORY, Step

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "agent.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.splitlines()])
def test_every_command_exists(command):
    program, *arguments = shlex.split(command)
    assert program == "wavegate-agent"
    module, _, function = build_parser().parse_args(arguments).target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_settings_are_read(tmp_path):
    (tmp_path / "config.toml").write_text(blocks("toml")[0])
    config = load_config(tmp_path / "config.toml")
    assert (config.min_battery_percent, config.metered, len(config.limits().windows)) == (30, "auto", 1)


def test_the_python_runs(tmp_path):
    (program,) = blocks("python")
    exec(program.replace("DIR", str(tmp_path)), {})
    assert (tmp_path / "update.lock").exists()


def test_every_step_and_reason_is_there():
    missing = [step.value for step in Step if step is not Step.IDLE and not re.search(rf"\b{step.value}\b", TEXT)]
    assert missing == []
    assert [reason for reason in ENVIRONMENT if f"`{reason}`" not in TEXT] == []


@pytest.mark.parametrize(
    "said",
    [
        f"{DEFAULT_POLICY.max_attempts} activations",
        f"{DEFAULT_POLICY.max_recoveries} starts",
        f"{DEFAULT_POLICY.max_transitions} changes",
        f"{MAX_WRONG_CONTENT} times wrong",
        f"every {LOOK_AGAIN_S:.0f} s",
        f"after {DEFER.floor_s:.0f} s to {DEFER.cap_s / 60:.0f} min",
        f"every {SERVE_AGAIN_S / 60:.0f} minutes",
        f"last {MAX_HISTORY} steps",
        f"{HealthLimits.min_for_constant} different inputs",
        f"{HealthLimits.max_crashes} crashes",
        {2: "twice the model file"}[MODEL_FACTOR],
        f"plus {WORKER_BYTES // 2**20} MiB",
    ],
)
def test_every_number_is_the_codes(said):
    assert said in TEXT
