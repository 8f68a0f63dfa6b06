"""A real control plane as a process with its real broker, and real agents in this one, without models."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest

from agent.config import AgentConfig, dump_config
from agent.core import route
from agent.core.retry import Backoff
from agent.runner import commands, link
from agent.runner.credentials import enroll_over_https
from agent.runner.wiring import Agent
from control_plane.cli import device_commands
from control_plane.cli.root import run

BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
LIMIT_S = 40.0
SETTINGS = """
publish_s = 0.1
tell_again_s = 1
[profile]
heartbeat_s = 0.3
poll_s = 3600
"""


def wait_until(condition, what: str, seconds: float = LIMIT_S):
    """Poll until true; the limit only ends a broken run."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not in {seconds} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


class House:
    """The server, always at the same ports, and a client for each role."""

    def __init__(self, home: Path) -> None:
        self.home, self.data, self.process = home, home / "data", None
        self.environment = {**os.environ, "WAVEGATE_KEY_PASSPHRASE": "correct horse battery"}
        self.ports = {"--port": free_port(), "--device-port": free_port(), "--mqtt-port": free_port()}
        self.api_url = f"http://{HOST}:{self.ports['--port']}"
        self.url = f"https://{HOST}:{self.ports['--device-port']}"
        self._do("trust", "init", "--dir", "ceremony", "--server", "data", "--team", "vision")
        (self.data / "settings.toml").write_text(SETTINGS)
        self.token = self._do("server", "create-admin", "ada", "--dir", self.data).strip()
        self.api = httpx.Client(base_url=self.api_url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30)

    def start(self) -> None:
        ready = self.home / "ready.json"
        ready.unlink(missing_ok=True)
        ports = [text for flag, port in self.ports.items() for text in (flag, str(port))]
        command = [BIN / "wavegate", "server", "run", "--dir", self.data, *ports, "--ready-file", ready]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        def is_ready():
            assert self.process.poll() is None, (self.home / "server.log").read_text()
            return ready.exists()

        wait_until(is_ready, "the server ready")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        self.api.close()
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def ask(self, device: str, do: str, **more) -> dict:
        answer = self.api.post(f"/api/v1/devices/{device}/commands", json={"do": do, **more})
        assert answer.status_code == 202, answer.text
        return answer.json()

    def command(self, device: str, command: str) -> dict:
        with contextlib.suppress(httpx.TransportError):  # while the server is down
            return self.api.get(f"/api/v1/devices/{device}/commands/{command}").json()
        return {"state": "waiting"}

    def ended(self, device: str, command: str) -> dict:
        return wait_until(
            lambda: (one := self.command(device, command))["state"] != "waiting" and one, f"the end of {command}"
        )

    def rows(self, query: str) -> list[tuple]:
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'wavegate.db'}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()

    def _do(self, *line: object) -> str:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
            patch.chdir(self.home)
            patch.setenv("WAVEGATE_KEY_PASSPHRASE", "correct horse battery")
            assert run([str(word) for word in line]) == 0
        return out.getvalue()


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    made = House(tmp_path_factory.mktemp("house"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Site:
    """Where a test makes its agents; all end with it. They come back within moments, so that tests do not wait."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house, self.folder, self._stack = house, folder, contextlib.ExitStack()

    def enrol(self, name: str, **settings) -> Path:
        """Enrol a device; return its folder."""
        folder = self.folder / name
        made = self.house.api.post("/api/v1/devices/enroll-tokens", json={"uses": 1, "life_s": 3600})
        assert made.is_success, made.text
        enroll_over_https(
            folder / "identity", url=self.house.url, token=made.json()["token"],
            server_ca_pem=(self.house.data / "keys" / "server-ca.pem").read_text(), name=name,
        )  # fmt: skip
        (folder / "root.json").write_bytes((self.house.home / "ceremony" / "root.json").read_bytes())
        config = AgentConfig(
            **{"hardware": "cam-a", "runtimes": ("none",), "heartbeat_s": 0.3, "poll_s": 0.3, **settings}
        )
        (folder / "config.toml").write_text(dump_config(config))
        return folder

    def run(self, folder: Path) -> Agent:
        """Run the agent of a folder (again) until it is stopped."""
        agent = Agent(folder)
        self._stack.callback(agent.stop)  # a second time does nothing
        agent.start()
        return agent

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def site(house, monkeypatch):
    monkeypatch.setattr(route, "RECONNECT", Backoff(base_s=0.05, cap_s=0.2, floor_s=0.02))
    monkeypatch.setattr(link, "POLL_AGAIN", Backoff(base_s=0.1, cap_s=0.5))
    monkeypatch.setattr(link, "FALLBACK_AFTER_MS", 60_000)
    monkeypatch.setattr(link, "STABLE_MS", 200)
    monkeypatch.setattr(link, "FIRST_CONNECT_S", 0.0)
    monkeypatch.setattr(link, "FLUSH_S", 0.2)
    monkeypatch.setattr(commands, "QUIET_MS", 100)
    with tempfile.TemporaryDirectory(prefix="wg-") as folder:
        made = Site(house, Path(folder))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def until():
    return wait_until


@pytest.fixture
def wavegate(house, monkeypatch, tmp_path, capsys):
    """Runs a command as the administrator; returns (exit code, stdout, stderr)."""
    for name in ("WAVEGATE_PROFILE", "WAVEGATE_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WAVEGATE_CONFIG", str(tmp_path / "profiles.json"))
    monkeypatch.setenv("WAVEGATE_URL", house.api_url)
    monkeypatch.setenv("WAVEGATE_TOKEN", house.token)

    monkeypatch.setattr(device_commands, "POLL_S", 0.05)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        told = capsys.readouterr()
        return code, told.out, told.err

    return call
