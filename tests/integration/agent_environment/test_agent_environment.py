"""A device installs ``[agent]`` and nothing else: all of ``agent`` and ``bundles`` imports there, and stays light.

The environment is made where it is missing (a minute, then kept in ``.venv-agent``), by the script the benches use.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bundles import __version__

pytestmark = pytest.mark.timeout(600)  # for the installation, the first time
ROOT = Path(__file__).resolve().parents[3]
SERVER_ONLY = {"pydantic", "pydantic_core", "fastapi", "starlette", "sqlmodel", "sqlalchemy", "alembic", "uvicorn"}
OPERATORS_ONLY = {"typer", "rich", "click"}
RUNTIMES = {"onnxruntime", "tflite_runtime", "ai_edge_litert"}
WALK = """
import importlib, json, pkgutil, sys
from agent.inference.backend import REGISTRY
backends = {entry.target.partition(":")[0] for entry in REGISTRY.values() if entry.distribution}
names = []
for package in sys.argv[1:]:
    module = importlib.import_module(package)
    names += [package, *(m.name for m in pkgutil.walk_packages(module.__path__, package + "."))]
names = [name for name in names if name not in backends and not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
LOADED_BY = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.fixture(scope="session")
def bin_folder():
    """Programs of the environment with only ``[agent]``."""
    script = ROOT / "scripts" / "benches" / "agent_environment"
    made = subprocess.run([script], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.fail(f"The environment with only [agent] could not be made:\n{made.stderr}")
    return Path(made.stdout.strip()) / "bin"


@pytest.fixture(scope="session")
def ask(bin_folder):
    """Run Python code there; returns what it printed, read as JSON."""

    def run(code: str, *arguments: str):
        done = subprocess.run(
            [bin_folder / "python", "-W", "error", "-c", code, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def command(bin_folder, tmp_path):
    """Run a program of that environment outside the checkout; returns exit code, stdout and stderr."""

    def run(*arguments):
        name, *rest = map(str, arguments)
        done = subprocess.run([bin_folder / name, *rest], capture_output=True, text=True, check=False, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_environment_has_the_agent_and_nothing_of_server_or_operators(ask):
    code = "import importlib.util as u, json, sys; print(json.dumps([n for n in sys.argv[1:] if u.find_spec(n)]))"
    assert ask(code, *SERVER_ONLY, *OPERATORS_ONLY) == []
    assert ask(code, "agent", "bundles", "numpy", "onnxruntime") == ["agent", "bundles", "numpy", "onnxruntime"]


def test_every_module_of_agent_and_bundles_imports_without_the_servers_packages(ask):
    names, loaded = ask(WALK, "agent", "bundles")
    assert {"agent.cli", "agent.runner.wiring", "agent.virtual.fleet", "bundles.trust.device.client"} <= set(names)
    assert not (SERVER_ONLY | OPERATORS_ONLY | RUNTIMES) & set(loaded)


def test_no_module_of_bundles_loads_numpy(ask):
    # `agent.inference.backend`, which the walk reads the backends from, is no part of bundles, and loads none either.
    names, loaded = ask(WALK, "bundles")
    assert "bundles.sketch.update" in names
    assert "numpy" not in loaded


@pytest.mark.parametrize(
    "module", ["agent", "bundles", "agent.client", "agent.cli", "agent.cli.local", "agent.cli.service"]
)
def test_importing_the_agents_front_loads_no_runtime_and_no_numpy(ask, module):
    assert not (RUNTIMES | {"numpy"}) & set(ask(LOADED_BY, module))


@pytest.mark.parametrize("module", ["agent.runner.wiring", "agent.inference.engine", "agent.inference.forkserver"])
def test_the_agents_own_process_loads_no_runtime(ask, module):
    assert not RUNTIMES & set(ask(LOADED_BY, module))


@pytest.mark.parametrize("program", ["wavegate", "wavegate-agent"])
def test_both_commands_tell_their_version(command, program):
    code, out, err = command(program, "version")
    assert (code, err) == (0, "")
    assert out.split()[-1] == __version__


def test_the_runtimes_of_a_device_work_there(command, tmp_path):
    code, out, err = command("wavegate-agent", "accelerators", "--dir", tmp_path, "--json")
    assert code == 0, err
    usable = {report["backend"] for report in json.loads(out) if report["usable"]}
    assert {"onnxruntime", "litert"} <= usable


def test_selftest_of_a_device_that_is_not_enrolled_says_so_and_fails(command, tmp_path):
    code, out, err = command("wavegate-agent", "selftest", "--dir", tmp_path)
    assert code == 1, err
    assert any(line.startswith("FAIL") and "not enrolled" in line for line in out.splitlines()), out
    assert any(line.startswith("ok") and "onnxruntime" in line for line in out.splitlines()), out


def test_selftest_of_a_folder_that_is_not_there_says_so(command, tmp_path):
    code, _, err = command("wavegate-agent", "selftest", "--dir", tmp_path / "nowhere")
    assert code == 3
    assert err.startswith("[NOT_FOUND]"), err
    assert "Traceback" not in err


def test_the_operators_command_says_what_to_install(command):
    code, _, err = command("wavegate", "rollout", "list")
    assert code == 1
    assert err.startswith("[CLI_NOT_INSTALLED]"), err
    assert "wavegate[cli]" in err
