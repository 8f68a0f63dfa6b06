"""What docs/benchmarks.md says is so: its commands run, its bars are the benches'."""

import importlib
import re
import shlex
from pathlib import Path

import bench
import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "benchmarks.md"
TEXT = PAGE.read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_benches_and_options_that_there_are(command):
    program, *arguments = shlex.split(command)
    assert (PAGE.parents[1] / program).is_file()
    options = bench.parse(arguments)
    assert set(options.names) <= set(bench.names())


def test_every_bench_of_the_page_exists_and_every_bench_is_on_the_page():
    assert set(bench.names()) == {name for name in re.findall(r"`([a-z]+)`", TEXT) if name in bench.names()}


def test_bars_are_those_of_the_benches():
    delta, agent = (importlib.import_module(f"benches.{name}") for name in ("delta", "agent"))
    for case, row in (("int8_1pct", "1 % of"), ("int8_10pct", "10 % by"), ("int8_head", "a new head")):
        (line,) = [line for line in TEXT.splitlines() if line.startswith(f"| {row}")]
        assert f"| {delta.SIZE_BARS[case] * delta.OTHER_WEIGHTS:.2f} |" in line
    assert f"| {agent.PSS_BAR_MIB:.0f} |" in TEXT
    assert f"| {agent.IDLE_CPU_BAR} |" in TEXT
    assert f"bar {delta.WORK_BARS_MIB['make']:.0f};" in TEXT
    assert f"bar {delta.WORK_BARS_MIB['apply']:.0f}." in TEXT
