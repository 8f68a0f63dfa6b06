"""A real control plane as a process, with its real broker on both its ports."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx

from control_plane.identity.authority import Authority, write_private

BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
LIMIT_S = 40.0
SETTINGS = """
publish_s = 0.1
mqtt_ws_port = {ws}
[profile]
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
    """Return a port that nothing listens on, below those that connections get from the system."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, random.randrange(20_000, 32_000)))
            return probe.getsockname()[1]


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def write_pair(folder: Path, authority: Authority, name: str, names=(HOST, "localhost")) -> tuple[Path, Path]:
    """Write a server's certificate and key, issued by ``authority``."""
    issued = authority.issue_server(name, list(names), now_ms())
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(issued.certificate_pem)
    write_private(key, issued.key_pem)
    return certificate, key


class House:
    """The server, always at the same ports."""

    def __init__(self, home: Path) -> None:
        self.home, self.data, self.process = home, home / "data", None
        self.environment = {**os.environ, "WAVEGATE_KEY_PASSPHRASE": "correct horse battery"}
        self.ports = {"--port": free_port(), "--device-port": free_port(), "--mqtt-port": free_port()}
        self.https, self.mqtt, self.websocket = self.ports["--device-port"], self.ports["--mqtt-port"], free_port()
        self.url = f"https://{HOST}:{self.https}"
        self._do("trust", "init", "--dir", "ceremony", "--server", "data", "--team", "vision")
        (self.data / "settings.toml").write_text(SETTINGS.format(ws=self.websocket))
        token = self._do("server", "create-admin", "ada", "--dir", self.data).strip()
        self.api = httpx.Client(
            base_url=f"http://{HOST}:{self.ports['--port']}", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )

    @property
    def server_ca(self) -> str:
        return (self.data / "keys" / "server-ca.pem").read_text()

    @property
    def broker_pid(self) -> int | None:
        """None while a starting mosquitto has not yet made the file, or made it and not yet written into it."""
        try:
            return int((self.data / "broker" / "mosquitto.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def start(self) -> None:
        ready = self.home / "ready.json"
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

    def stop(self) -> None:
        self.api.close()
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def token(self) -> str:
        made = self.api.post("/api/v1/devices/enroll-tokens", json={"uses": 1, "life_s": 3600})
        assert made.is_success, made.text
        return made.json()["token"]

    def stored(self, device: str) -> list[str]:
        """Return the details of a device's events as they are in the database."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'wavegate.db'}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT detail FROM device_event WHERE device = ? AND kind = 'note'", (device,))
            return [row[0] for row in rows.fetchall()]

    def authority(self, name: str) -> Authority:
        return Authority.open_or_create(self.data / "keys", name, now_ms())

    def _do(self, *line: object) -> str:
        done = subprocess.run(
            [str(BIN / "wavegate"), *map(str, line)], cwd=self.home, env=self.environment, capture_output=True,
            text=True, timeout=60, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout
