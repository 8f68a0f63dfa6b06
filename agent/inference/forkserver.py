"""Forks workers from a process that has imported one runtime already, so that a restart takes milliseconds.

Importing a runtime takes 100 to 600 ms, a fork 5. One fork server a runtime, without threads and without a model of
its own: a fork copies neither. It takes one MessagePack message a record over a ``SOCK_SEQPACKET`` pair, the socket of
the new worker attached to ``Spawn``; being the parent, it can kill and collect a worker without mistaking its pid.
It ends when its socket closes, and the kernel ends its workers with it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import platform
import signal
import socket
import sys

import msgspec

from agent.inference.backend import open_backend
from agent.inference.frames import Channel
from agent.inference.messages import PROTOCOL_VERSION, End, Ended, Failed, Hello, Message, Spawn, Spawned
from agent.inference.worker import confine, serve
from bundles.errors import WavegateError

MAX_RECORD = 4096


def main() -> None:
    """Preload the runtime the command line names and serve its descriptor."""
    parser = argparse.ArgumentParser(prog="agent.inference.forkserver")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--backend", required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the agent
    with socket.socket(fileno=arguments.fd) as control:
        try:
            open_backend(arguments.backend)
        except WavegateError as error:
            failed = Failed(type(error).__name__, error.code, error.sentence, error.remedy)
            with contextlib.suppress(OSError):
                control.send(msgspec.msgpack.encode(failed))
            sys.exit(1)
        gc.collect()
        gc.freeze()  # what is alive now stays shared with the workers: collections will not touch its pages
        _serve(control)


def _serve(control: socket.socket) -> None:
    decoder = msgspec.msgpack.Decoder(Message)
    with contextlib.suppress(OSError):  # the agent is gone: so are we
        control.send(msgspec.msgpack.encode(Hello(PROTOCOL_VERSION, os.getpid(), platform.python_version())))
        while True:
            data, descriptors, _, _ = socket.recv_fds(control, MAX_RECORD, 1)
            if not data:
                return
            message = decoder.decode(data)
            answer: Message
            if isinstance(message, Spawn) and descriptors:
                answer = Spawned(_fork(control, descriptors[0]))
            elif isinstance(message, End):
                answer = Ended(_end(message.pid))
            else:
                return
            control.send(msgspec.msgpack.encode(answer))


def _fork(control: socket.socket, descriptor: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            control.close()  # or the agent would not see the fork server's end while this worker lives
            confine(parent)
            serve(Channel(socket.socket(fileno=descriptor)))
            status = 0
        finally:
            os._exit(status)
    os.close(descriptor)
    return pid


def _end(pid: int) -> int:
    try:
        os.kill(pid, signal.SIGKILL)  # a zombie takes it and keeps the status it died with
        _, status = os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return 0
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main()
