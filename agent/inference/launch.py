"""Starts the processes that hold models; the agent's side of ``worker`` and ``forkserver``.

Two ways to get one: ``spawn`` a throwaway child from nothing (trials, probes), or ``Launcher.launch`` a worker forked
from its runtime's fork server, which takes milliseconds. Leaves talking to them to ``process``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import msgspec

import agent
from agent.errors import BackendUnavailable, WorkerLost
from agent.inference.forkserver import MAX_RECORD
from agent.inference.frames import Channel
from agent.inference.messages import (
    PROTOCOL_VERSION,
    End,
    Ended,
    Failed,
    Hello,
    Message,
    Spawn,
    Spawned,
)
from agent.inference.process import START_TIMEOUT_S, ModelProcess, exit_text
from bundles.errors import WavegateError

COLLECT_TIMEOUT_S = 5.0


def spawn(stderr: IO[bytes] | None = None, *, start_timeout_s: float = START_TIMEOUT_S) -> ModelProcess:
    """Start a throwaway child that has imported no runtime yet.

    The calling thread must outlive the child: the kernel ends the child with the thread that started it.

    Args:
        stderr: where the runtime's chatter goes; None = nowhere.
        start_timeout_s: for the child to say hello.

    Raises:
        WorkerLost: the child did not come up.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = ["agent.inference.worker", "--fd", str(theirs.fileno()), "--parent", str(os.getpid())]
        process = _popen(arguments, theirs, stderr)
    return ModelProcess(Channel(ours), lambda: _end_popen(process), start_timeout_s)


class Launcher:
    """Forks workers, with one fork server a runtime, started when first needed. Thread-safe."""

    def __init__(self) -> None:
        self._servers: dict[str, _ForkServer] = {}
        self._lock = threading.Lock()

    def launch(self, backend: str) -> ModelProcess:
        """Fork a worker that has ``backend`` imported.

        Raises:
            BackendUnavailable: the runtime cannot be imported.
            WorkerLost: the fork server or the worker did not come up.
        """
        with self._lock:
            server = self._servers.get(backend)
            if server is not None:
                try:
                    return server.fork()
                except (WorkerLost, OSError):
                    self._servers.pop(backend).close()  # it died: one more try with a new one
            server = self._servers[backend] = _ForkServer(backend)
            return server.fork()

    def close(self) -> None:
        """End the fork servers, and with them their workers."""
        with self._lock:
            while self._servers:
                self._servers.popitem()[1].close()


class _ForkServer:
    def __init__(self, backend: str) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
        with theirs:
            arguments = ["agent.inference.forkserver", "--fd", str(theirs.fileno()), "--backend", backend]
            self._process = _popen(arguments, theirs, None)
        try:
            hello = self._answer(START_TIMEOUT_S)
            if not isinstance(hello, Hello) or hello.protocol != PROTOCOL_VERSION:
                raise WorkerLost("The fork server speaks another version.", code="WORKER_PROTOCOL")
        except (WavegateError, OSError):
            self.close()
            raise

    def fork(self) -> ModelProcess:
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._lock:
                socket.send_fds(self._control, [msgspec.msgpack.encode(Spawn())], [theirs.fileno()])
                spawned = self._answer(COLLECT_TIMEOUT_S)
            if not isinstance(spawned, Spawned):
                raise WorkerLost("The fork server could not fork.", remedy="Free memory on the device.")
        except (WavegateError, OSError):
            ours.close()
            raise
        return ModelProcess(Channel(ours), lambda: self._end(spawned.pid))

    def close(self) -> None:
        self._control.close()
        _end_popen(self._process)

    def _end(self, pid: int) -> int:
        try:
            with self._lock:
                self._control.send(msgspec.msgpack.encode(End(pid)))
                ended = self._answer(COLLECT_TIMEOUT_S)
        except (WorkerLost, OSError):
            return -signal.SIGKILL  # the fork server is gone, and the kernel has ended its workers with it
        return ended.returncode if isinstance(ended, Ended) else -signal.SIGKILL

    def _answer(self, timeout_s: float) -> Message:
        self._control.settimeout(timeout_s)
        data = self._control.recv(MAX_RECORD)
        if not data:
            raise WorkerLost(
                f"The fork server died ({exit_text(_end_popen(self._process))}).",
                remedy="It is started again; if that fails again, run 'wavegate-agent selftest'.",
            )
        answer = self._decoder.decode(data)
        if isinstance(answer, Failed):
            raise BackendUnavailable(answer.sentence, code=answer.code, remedy=answer.remedy)
        return answer


def _popen(arguments: list[str], theirs: socket.socket, stderr: IO[bytes] | None) -> subprocess.Popen[bytes]:
    here = str(Path(agent.__file__).resolve().parent.parent)
    environment = dict(os.environ)
    # The child must find this very agent, installed or in a checkout, and not one in its working directory (-P).
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [here, environment.get("PYTHONPATH")]))
    # One thread each: numpy's would outnumber the model's.
    environment.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr if stderr is not None else subprocess.DEVNULL,
        pass_fds=(theirs.fileno(),),
        env=environment,
        start_new_session=True,
    )


def _end_popen(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.kill()
    return process.wait(COLLECT_TIMEOUT_S)
