"""Keeps one private mosquitto running for as long as the control plane runs.

A broker that dies is started again at once, then with growing pauses; whoever must re-publish is told. Its messages
are a cache: the database is the truth, so nothing here tries to save them. A broker left behind by a control plane
that was killed is ended first, by the process id in its own folder and only if it runs on our configuration.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from bundles.errors import AskPerson, TryAgain
from control_plane.broker.configuration import BrokerFiles, acl_text, configuration_text

PROGRAM = "mosquitto"
START_TIMEOUT_S = 10.0
MAX_PAUSE_S = 5.0

log = structlog.get_logger()


def find_mosquitto(named: str = "") -> str | None:
    """Return the path of mosquitto, or None; Debian puts it into /usr/sbin, off an ordinary user's PATH.

    Args:
        named: the one to use, where somebody said so.
    """
    if named:
        return shutil.which(named)
    return shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


class Broker:
    """A supervised mosquitto.

    Args:
        program: path of mosquitto.
        files: its folder; certificates and revocation list must be there before ``start``.
        host: address to listen on.
        port: TCP port.
        on_restart: called (from the supervising thread) after the broker came back by itself.
        websocket_port: TCP port for WebSocket; 0 = none.
        introduce: makes mosquitto know that listener (``control_plane.broker.introduction``).
    """

    def __init__(
        self,
        program: str,
        files: BrokerFiles,
        host: str,
        port: int,
        on_restart: Callable[[], None],
        websocket_port: int = 0,
        introduce: Callable[[], None] = lambda: None,
    ) -> None:
        self._program, self._introduce = program, introduce
        self._files = files
        self._host, self._port, self._websocket_port = host, port, websocket_port
        self._on_restart = on_restart
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="broker-supervisor", daemon=True)
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Process id of the running broker, None while there is none."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def start(self) -> None:
        """Write the configuration, start the broker and wait until it accepts connections.

        Raises:
            AskPerson: ``PORT_IN_USE``, or ``BROKER_START`` with the broker's own last words.
        """
        text = configuration_text(self._files, self._host, self._port, self._websocket_port)
        self._files.configuration.write_text(text)
        self._files.acl.write_text(acl_text())
        self._files.acl.chmod(0o600)
        self._end_leftover()
        for port, flag in (self._port, "--mqtt-port"), (self._websocket_port, "--mqtt-ws-port"):
            if port and _accepts(self._host, port):
                raise AskPerson(
                    f"Port {port} for the broker is in use by another program.",
                    code="PORT_IN_USE",
                    remedy=f"Choose another with {flag}, or stop that program.",
                )
        self._spawn()
        try:
            self._until_it_refuses_the_revoked()
        except TryAgain as error:
            raise AskPerson(
                f"The broker did not start: {self._last_words()}",
                code="BROKER_START",
                remedy=f"See {self._files.log}.",
            ) from error
        self._thread.start()

    def stop(self) -> None:
        """End the broker and stop supervising it."""
        self._stopping.set()
        process = self._process
        if process and process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._thread.is_alive():
            self._thread.join(5)
        self._files.pid.unlink(missing_ok=True)

    def reload(self) -> None:
        """Make the broker read its revocation list and access list again (SIGHUP).

        Raises:
            TryAgain: ``BROKER_WEBSOCKET``: the list would not be read for every listener.
        """
        if self.pid is not None and self._websocket_port:
            self._introduce()
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGHUP)

    def _until_it_refuses_the_revoked(self) -> None:
        """Wait until the broker accepts connections, and holds its revocation list against every one of them."""
        self._wait_ready()
        if self._websocket_port:
            self.reload()

    def _spawn(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._files.configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._files.pid.write_text(str(self._process.pid))

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            if all(_accepts(self._host, port) for port in (self._port, self._websocket_port) if port):
                return
            time.sleep(0.02)
        raise TryAgain("The broker does not accept connections.", code="BROKER_DOWN")

    def _supervise(self) -> None:
        pause_s = 0.0
        while not self._stopping.is_set():
            process = self._process
            if process is not None and process.poll() is None:
                self._stopping.wait(0.1)
                continue
            self.restarts += 1
            code = process.returncode if process else None
            log.warning("broker_died", code=code, restarts=self.restarts)
            if self._stopping.wait(pause_s):
                return
            pause_s = min(MAX_PAUSE_S, pause_s * 2 + 0.1)
            self._spawn()
            try:
                self._until_it_refuses_the_revoked()
            except TryAgain as error:
                log.warning("broker_not_ready", reason=str(error))
                if self._process and self._process.poll() is None:
                    self._process.kill()  # it may let revoked devices in
                    self._process.wait()
                continue
            pause_s = 0.0
            self._on_restart()

    def _end_leftover(self) -> None:
        try:
            pid = int(self._files.pid.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return
        if str(self._files.configuration).encode() not in command:
            return
        log.info("broker_leftover_ended", pid=pid)
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while _accepts(self._host, self._port) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _last_words(self) -> str:
        try:
            lines = self._files.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it said nothing."


def _accepts(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0
