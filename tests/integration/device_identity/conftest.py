"""A real control plane as a process with its real broker, the commands people type, and real agents in this process."""

from __future__ import annotations

import json
import os
import shutil
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

from agent.config import AgentConfig
from agent.core import route
from agent.runner import link
from agent.runner.credentials import enroll_over_https
from agent.runner.schedule import SteadyClock
from agent.runner.wiring import Agent

BIN = Path(sys.executable).parent
LIMIT_S = 60.0
PASSPHRASE = "correct horse battery"
SETTINGS = """
publish_s = 0.1
[profile]
heartbeat_s = 0.5
poll_s = 0.5
"""


def wait_until(condition, what: str):
    """Poll until true; the limit only ends a broken run."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not in {LIMIT_S} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Desk:
    """Somebody with a shell in a folder of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "WAVEGATE_KEY_PASSPHRASE": PASSPHRASE}

    def call(self, *line: object, program: str = "wavegate") -> subprocess.CompletedProcess[str]:
        """Run one command."""
        return subprocess.run(
            [str(BIN / program), *map(str, line)],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def do(self, *line: object, program: str = "wavegate") -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.call(*line, program=program)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fail(self, code: str, *line: object, program: str = "wavegate") -> str:
        """Run a command that must be refused with ``code``; return its words."""
        done = self.call(*line, program=program)
        assert done.returncode != 0
        assert f"[{code}]" in done.stderr, done.stderr
        return done.stderr


class House(Desk):
    """A data folder with its ceremony, and the server that runs on it, always at the same ports."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.data, self.process = home / "data", None
        self.ports = {"--port": free_port(), "--device-port": free_port(), "--mqtt-port": free_port()}
        self.url = f"https://127.0.0.1:{self.ports['--device-port']}"
        self.environment["WAVEGATE_URL"] = f"http://127.0.0.1:{self.ports['--port']}"
        (self.data / "settings.toml").write_text(SETTINGS)
        token = self.do("server", "create-admin", "ada", "--dir", self.data).strip()
        self.environment["WAVEGATE_TOKEN"] = token
        self.api = httpx.Client(
            base_url=self.environment["WAVEGATE_URL"], headers={"Authorization": f"Bearer {token}"}, timeout=30
        )

    @property
    def root(self) -> bytes:
        """What devices trust from the start."""
        return (self.home / "ceremony" / "root.json").read_bytes()

    @property
    def server_ca(self) -> str:
        """The CA file that people enrol devices with."""
        return (self.data / "keys" / "server-ca.pem").read_text()

    def start(self, **environment: str) -> None:
        """Run the server until ``stop``."""
        ready = self.home / "ready.json"
        ready.unlink(missing_ok=True)
        ports = [text for flag, port in self.ports.items() for text in (flag, str(port))]
        command = [BIN / "wavegate", "server", "run", "--dir", self.data, *ports, "--ready-file", ready]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**self.environment, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        def is_ready():
            assert self.process.poll() is None, (self.home / "server.log").read_text()
            return ready.exists()

        wait_until(is_ready, "the server ready")

    def stop(self) -> None:
        """End the server, which takes its broker along."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
            self.process = None

    def token(self, **body) -> str:
        """Make a claim token."""
        made = self.api.post("/api/v1/devices/enroll-tokens", json={"uses": 1, "life_s": 3600, **body})
        assert made.is_success, made.text
        return made.json()["token"]

    def device(self, name: str) -> dict:
        """Return what operators see of a device."""
        return self.api.get(f"/api/v1/devices/{name}").json()["device"]

    def alerts(self) -> list[dict]:
        """Return the conflicts of identity that people are told of."""
        return self.api.get("/api/v1/alerts", params={"name": "identity_conflict"}).json()["items"]

    def sighting(self, name: str) -> dict:
        """Return what the server remembers of a device's heartbeats."""
        with sqlite3.connect(f"file:{self.data / 'wavegate.db'}?mode=ro", uri=True) as db:
            (text,) = db.execute("SELECT sighting_json FROM device WHERE id = ?", (name,)).fetchone()
        db.close()
        return json.loads(text) if text else {}


@pytest.fixture(scope="session")
def ceremony(tmp_path_factory) -> Path:
    """The folder of a key ceremony with a passphrase, and the server's data folder as it leaves it."""
    home = tmp_path_factory.mktemp("ceremony")
    Desk(home).do("trust", "init", "--dir", "ceremony", "--server", "data", "--team", "vision")
    return home


@pytest.fixture
def house(ceremony, tmp_path):
    shutil.copytree(ceremony, tmp_path / "house")
    made = House(tmp_path / "house")
    yield made
    made.api.close()
    made.stop()


class Site:
    """Where agents run: one folder each, with a short name (a Unix socket's path holds 107 bytes)."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house, self.folder, self.agents = house, folder, []

    def enrol(self, name: str) -> Path:
        """Make a device of a new folder; returns it."""
        folder = self.folder / name
        enroll_over_https(
            folder / "identity",
            url=self.house.url,
            token=self.house.token(),
            server_ca_pem=self.house.server_ca,
            name=name,
        )
        (folder / "root.json").write_bytes(self.house.root)
        return folder

    def run(self, folder: Path, clock: SteadyClock | None = None, **settings) -> Agent:
        """Run the agent of ``folder`` in this process."""
        settings = {"hardware": "cam-a", "runtimes": ("none",), "heartbeat_s": 0.5, "poll_s": 0.5, **settings}
        agent = Agent(folder, AgentConfig(**settings), clock)
        self.agents.append(agent)
        agent.start()
        return agent

    def stop(self, agent: Agent) -> None:
        """Stop an agent, so that its folder is free."""
        self.agents.remove(agent)
        agent.stop()


@pytest.fixture
def site(house, monkeypatch):
    """A place for agents; they come back to a broker within moments, so that tests do not wait for backoffs."""
    monkeypatch.setattr(route, "RECONNECT", link.Backoff(base_s=0.1, cap_s=0.5))
    monkeypatch.setattr(link, "POLL_AGAIN", link.Backoff(base_s=0.1, cap_s=0.5))
    with tempfile.TemporaryDirectory(prefix="wg-") as folder:
        made = Site(house, Path(folder))
        yield made
        for agent in list(made.agents):
            made.stop(agent)


@pytest.fixture
def until():
    return wait_until
