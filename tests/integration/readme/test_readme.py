"""Every command of the README, run in its order as a newcomer would; a command without a home here fails the test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control_plane.demo.processes import free_port
from control_plane.demo.releases import RELEASES, split_stream, write_project
from control_plane.demo.stage import PROFILE

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
LIMIT_S = 120.0
RUN_ELSEWHERE = {
    "git clone <this repository> wavegate && cd wavegate": "how this very checkout came about",
    "scripts/demo": "tests/e2e/test_demo.py plays what it ends in",
    "scripts/test": "it runs this test",
    "scripts/check": "continuous integration runs it beside the tests",
    "scripts/bench agent": "tests/integration/agent_environment runs what it measures in",
    "scripts/bench delta download": "tests/unit/scripts runs what they measure with",
    "scripts/bench trust": "tests/unit/scripts runs what it measures with",
    "scripts/fuzz": "tests/unit/scripts runs a short form of it",
    "scripts/simulate": "tests/sim runs what it calls",
    "scripts/serve": "it is `wavegate server run` with this checkout's environment",
}
IN_BACKGROUND = ("wavegate server run", "wavegate-agent run")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition(" #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


class Newcomer:
    """Somebody at a shell in an empty folder. Ports are free ones, and time runs by the demo's profile."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.background, self.known = folder, [], {}
        self.ports = {"8080": free_port(), "8443": free_port(), "8883": free_port()}
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "WAVEGATE_KEY_PASSPHRASE": "correct horse",
            "WAVEGATE_SERVER_PORT": str(self.ports["8080"]),
            "WAVEGATE_SERVER_DEVICE_PORT": str(self.ports["8443"]),
            "WAVEGATE_SERVER_MQTT_PORT": str(self.ports["8883"]),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    def type(self, line: str) -> str:
        for port, free in self.ports.items():
            line = line.replace(f":{port}", f":{free}")
        line = line.replace("--soak 2400", "--soak 13")
        for name, value in self.known.items():
            line = line.replace(name, value)
        assert "<" not in line, f"nobody knows yet what to put there: {line}"
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.environment[name] = value
            return ""
        if line.startswith(IN_BACKGROUND):
            self.background.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip
            return ""
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def until(self, line: str, words: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                shown = self.type(line)
            except AssertionError as error:
                shown = str(error)
            if words in shown:
                return
            assert time.monotonic() < deadline, shown
            time.sleep(0.5)

    def leave(self) -> None:
        for process in reversed(self.background):
            process.send_signal(signal.SIGTERM)
        for process in self.background:
            process.wait(20)


@pytest.fixture
def newcomer(tmp_path):
    validation, _ = split_stream(tmp_path)
    write_project(tmp_path, RELEASES["1.0.0"], validation)
    somebody = Newcomer(tmp_path)
    yield somebody
    somebody.leave()


LEARNED = {
    "wavegate server create-admin": (r"wgo_\S+", "<ada's token>"),
    "wavegate token create": (r"wgo_\S+", "<grace's token>"),
    "wavegate device enroll-token": (r"wge_\S+", "<claim token>"),
    "wavegate rollout create": (r"ro-[0-9a-f]+", "<rollout>"),
}


@pytest.mark.parametrize(("broker", "route"), [("private", "by mqtt"), ("none", "by https")])
def test_every_command_of_the_readme_works_in_its_order(newcomer, broker, route):
    newcomer.environment["WAVEGATE_SERVER_BROKER"] = broker
    for line in commands():
        if line in RUN_ELSEWHERE or line.startswith("scripts/demo"):
            script = line.split()[0]
            assert not script.startswith("scripts/") or os.access(ROOT / script, os.X_OK), script
            continue
        output = newcomer.type(line)
        for command, (pattern, name) in LEARNED.items():
            if line.startswith(command):
                newcomer.known[name] = re.search(pattern, output)[0]
        if line.startswith("wavegate trust init"):
            profile = "\n".join(f"{field} = {value}" for field, value in PROFILE.items())
            (newcomer.folder / "data" / "settings.toml").write_text(f"reconcile_s = 0.5\n[profile]\n{profile}\n")
        if line.startswith("wavegate server run"):
            newcomer.environment |= {"WAVEGATE_URL": f"http://127.0.0.1:{newcomer.ports['8080']}"}
            newcomer.until(f"curl -s http://127.0.0.1:{newcomer.ports['8080']}/readyz", '"ready":true')
        if line.startswith("wavegate-agent run"):
            newcomer.until("wavegate device list -o json", '"online": true')
    newcomer.until("wavegate-agent status --dir cam-1", "digits: 1.0.0")
    assert route in newcomer.type("wavegate-agent status --dir cam-1")
    for snippet in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", snippet],
            cwd=newcomer.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("1.0.0 ")
