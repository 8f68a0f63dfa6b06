"""Starts the demo's programs, keeps what they say in files, and ends them all whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bundles.errors import AskPerson

STOP_TIMEOUT_S = 8.0


def program(name: str) -> str:
    """Return the path of one of our programs, beside the Python that runs this.

    Raises:
        AskPerson: ``PROGRAM_MISSING``.
    """
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise AskPerson(
            f"The program {name} is not installed beside {sys.executable}.",
            code="PROGRAM_MISSING",
            remedy='Install the project with: pip install -e ".[agent,control-plane,cli]"',
        )
    return str(path)


def free_port() -> int:
    """Return a TCP port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Processes:
    """Programs started here, by name. Use as a context manager: leaving it ends them all.

    Args:
        logs: folder their output goes to, a file each.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        pipes: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start ``command`` in the background.

        Args:
            name: of the process and of its log file.
            command: program and arguments.
            environment: added to ours.
            pipes: whether its standard input and output are ours; otherwise output goes to the log.
        """
        log = (self._logs / f"{name}.log").open("ab")
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is ours to pass on, in the right order
            )
        finally:
            log.close()
        self._running[name] = process
        return process

    def pid(self, name: str) -> int:
        """Return the process id of ``name``."""
        return self._running[name].pid

    def is_running(self, name: str) -> bool:
        """Whether ``name`` was started and has not ended."""
        process = self._running.get(name)
        return process is not None and process.poll() is None

    def require(self, name: str) -> None:
        """Check that ``name`` still runs.

        Raises:
            AskPerson: ``PROCESS_ENDED`` with its last words.
        """
        if not self.is_running(name):
            raise AskPerson(
                f"{name} ended: {self.last_words(name)}",
                code="PROCESS_ENDED",
                remedy=f"See {self._logs / (name + '.log')}.",
            )

    def last_words(self, name: str) -> str:
        """Return the last line of the log of ``name``."""
        try:
            lines = (self._logs / f"{name}.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it said nothing."

    def kill(self, name: str) -> int:
        """End ``name`` as a power cut would (SIGKILL); return the process id it had."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _close_pipes(process)
        return process.pid

    def stop_all(self) -> None:
        """End every process, agents first: they were started last. Asks politely, then insists."""
        for process in reversed(list(self._running.values())):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in reversed(list(self._running.values())):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close_pipes(process)
        self._running.clear()


def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> str:
    """Run ``command`` to its end; return what it printed.

    Raises:
        AskPerson: ``COMMAND_FAILED`` with its last words.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["it said nothing."]
        raise AskPerson(
            f"`{Path(command[0]).name} {' '.join(command[1:3])} ...` failed with {done.returncode}: {words[-1]}",
            code="COMMAND_FAILED",
            remedy="Run it by hand to see all of its output.",
        )
    return done.stdout


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
