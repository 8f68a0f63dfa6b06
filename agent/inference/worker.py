"""The process that holds a model: it serves one channel until the agent closes it.

Run as ``python -m agent.inference.worker`` for a throwaway child (trial, probe), or forked by ``forkserver``. It ends
when its channel closes, so it never outlives the agent; while native code hangs it cannot notice, and then the kernel
ends it with its parent (``PR_SET_PDEATHSIG``). Leaves deadlines, restarts and every judgement to the agent's side.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import resource
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import ModelRefused, RunFailed
from agent.inference.backend import Session, open_backend
from agent.inference.frames import Channel, PeerGone, describe, unpack
from agent.inference.messages import (
    PROTOCOL_VERSION,
    Examine,
    Examined,
    Failed,
    Hello,
    Limits,
    Load,
    Loaded,
    Message,
    Ran,
    Run,
)
from bundles.errors import WavegateError

_PR_SET_PDEATHSIG = 1
OUT_OF_MEMORY = "MODEL_MEMORY"
"""Code of an allocation that failed, so that a trial can tell it from a damaged file."""


def main() -> None:
    """Serve the channel whose descriptor the command line names."""
    parser = argparse.ArgumentParser(prog="agent.inference.worker")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    confine(arguments.parent)
    serve(Channel(socket.socket(fileno=arguments.fd)))


def confine(parent: int) -> None:
    """Tie this process's life to its parent's, and keep a crash from filling the disk with a core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the agent, which ends its workers
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def serve(channel: Channel) -> None:
    """Answer requests until the other side closes."""
    worker = Worker()
    try:
        channel.send(Hello(PROTOCOL_VERSION, os.getpid(), platform.python_version()))
        while True:
            message, body = channel.receive()
            answer, tensors = worker.answer(message, body)
            channel.send(answer, tensors)
    except PeerGone:
        return
    finally:
        channel.close()


class Worker:
    """Holds at most one session, and turns each request into an answer."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._inputs: list[str] = []
        self._outputs: list[str] = []

    def answer(self, message: Message, body: memoryview) -> tuple[Message, list[Any]]:
        """Carry out one request; errors become ``Failed``."""
        try:
            match message:
                case Run():
                    return self._run(message, body)
                case Load():
                    return self._load(message), []
                case Examine():
                    return Examined(open_backend(message.backend).probe()), []
                case Limits():
                    _limit(message)
                    return Limits(), []
                case _:
                    raise PeerGone(f"a worker takes no {type(message).__name__}")
        except WavegateError as error:
            return Failed(type(error).__name__, error.code, error.sentence, error.remedy), []
        except PeerGone:
            raise
        except Exception as error:  # the outermost loop of this process: a runtime may raise anything
            return _unexpected(message, error), []

    def _load(self, message: Load) -> Loaded:
        if self._session is not None:
            self._session.close()
            self._session = None
        started = time.perf_counter()
        session = open_backend(message.backend).load(Path(message.path), message.accelerator, message.options)
        io = session.io()
        self._inputs = [port.name for port in io.inputs]
        self._outputs = [port.name for port in io.outputs]
        self._session = session
        return Loaded(io, session.placement(), (time.perf_counter() - started) * 1000)

    def _run(self, message: Run, body: memoryview) -> tuple[Message, list[Any]]:
        if self._session is None:
            raise RunFailed("No model is loaded.", remedy="Load one first.")
        inputs = dict(zip(self._inputs, unpack(message.tensors, body), strict=True))
        started = time.perf_counter_ns()
        outputs = self._session.run(inputs)
        latency_ns = time.perf_counter_ns() - started
        arrays = [np.ascontiguousarray(outputs[name]) for name in self._outputs]
        return Ran(latency_ns, describe(arrays)), arrays


def _limit(limits: Limits) -> None:
    if limits.address_space_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (limits.address_space_bytes, limits.address_space_bytes))
    if limits.cpu_s:
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))


def _unexpected(message: Message, error: Exception) -> Failed:
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if isinstance(error, MemoryError) or "bad_alloc" in text:
        return Failed(
            "ModelRefused", OUT_OF_MEMORY, "The runtime ran out of memory.", "Give it more, or shrink the model."
        )
    if isinstance(message, Run):
        return Failed(
            RunFailed.__name__,
            RunFailed.default_code,
            f"The runtime could not run the model: {text}.",
            "Send the request again; if it fails again, this input cannot be served.",
        )
    return Failed(
        ModelRefused.__name__,
        ModelRefused.default_code,
        f"The runtime could not take the model: {text}.",
        "The file is damaged or needs another runtime; build the bundle again.",
    )


if __name__ == "__main__":
    main()
