"""A running worker as the agent sees it: ask, and get an answer, an error of the family, or ``WorkerLost``.

When ``WorkerLost`` comes, the process has been killed and collected already. Leaves starting processes to ``launch``,
restarts and retries to ``lane``.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import Any, NoReturn

from agent import errors
from agent.errors import WorkerLost
from agent.inference.backend import Tensors
from agent.inference.frames import Channel, PeerGone, PeerLate, describe, unpack
from agent.inference.messages import (
    PROTOCOL_VERSION,
    Failed,
    Hello,
    Load,
    Loaded,
    Message,
    Ran,
    Run,
)
from bundles.errors import InputRefused, Refused, WavegateError

START_TIMEOUT_S = 30.0
"""For a cold import of a runtime on a slow device."""
_FAMILIES: dict[str, type[WavegateError]] = {
    cls.__name__: cls for cls in (errors.ModelRefused, errors.RunFailed, errors.BackendUnavailable, InputRefused)
}


class ModelProcess:
    """A running worker and the channel to it. Not thread-safe.

    Args:
        channel: the connected channel, before ``Hello``.
        collect: kills the process if it lives, waits for it, and returns its code (negative = signal).
        start_timeout_s: for ``Hello``.

    Raises:
        WorkerLost: it did not come up, or speaks another version of the protocol (``WORKER_PROTOCOL``).
    """

    def __init__(self, channel: Channel, collect: Callable[[], int], start_timeout_s: float = START_TIMEOUT_S) -> None:
        self._channel = channel
        self._collect = collect
        self._returncode: int | None = None
        self._io_names: tuple[list[str], list[str]] = ([], [])
        hello, _ = self._receive(start_timeout_s)
        if not isinstance(hello, Hello) or hello.protocol != PROTOCOL_VERSION:
            self.end()
            raise WorkerLost(
                "The worker speaks another version of the worker protocol.",
                code="WORKER_PROTOCOL",
                remedy="Install agent and worker from the same release.",
            )
        self.pid = hello.pid

    @property
    def returncode(self) -> int | None:
        """How the process ended (negative = signal), or None while it is not known to have ended."""
        return self._returncode

    def ask(self, message: Message, tensors: list[Any], timeout_s: float) -> tuple[Message, memoryview]:
        """Send a request and wait for its answer.

        Raises:
            WorkerLost: the process died (``WORKER_CRASHED``) or was late and was killed (``RUN_DEADLINE``).
            WavegateError: the error the worker answered with.
        """
        try:
            self._channel.send(message, tensors)
        except (PeerGone, PeerLate):
            self._lost()
        answer, body = self._receive(timeout_s)
        if isinstance(answer, Failed):
            family = _FAMILIES.get(answer.family, Refused)
            raise family(answer.sentence, code=answer.code, remedy=answer.remedy)
        return answer, body

    def load(self, message: Load, timeout_s: float) -> Loaded:
        """Load a model.

        Raises:
            ModelRefused: the file, the accelerator or the promised tensors do not fit.
            BackendUnavailable: the runtime cannot be imported.
            WorkerLost: the process died or was late.
        """
        answer, _ = self.ask(message, [], timeout_s)
        if not isinstance(answer, Loaded):
            self._lost()
        self._io_names = ([p.name for p in answer.io.inputs], [p.name for p in answer.io.outputs])
        return answer

    def run(self, inputs: Tensors, timeout_s: float) -> tuple[dict[str, Any], int]:
        """Run the loaded model once.

        Returns:
            Outputs by name (copies), and the session's own latency in nanoseconds.

        Raises:
            InputRefused: a tensor the model cannot take.
            RunFailed: the runtime reported an error.
            WorkerLost: the process died or was late.
        """
        names_in, names_out = self._io_names
        try:
            arrays = [inputs[name] for name in names_in]
        except KeyError as error:
            raise InputRefused(
                f"The input {error} is missing.", code="INPUT_NAME", remedy="Send every input of the model."
            ) from error
        arrays = [array if array.flags.c_contiguous else array.copy(order="C") for array in arrays]
        answer, body = self.ask(Run(describe(arrays)), arrays, timeout_s)
        if not isinstance(answer, Ran):
            self._lost()
        try:
            outputs = [array.copy() for array in unpack(answer.tensors, body)]
            return dict(zip(names_out, outputs, strict=True)), answer.latency_ns
        except (PeerGone, ValueError):
            self._lost()

    def is_alive(self) -> bool:
        """Return False when the process has closed its end; costs one system call. Ask between requests only."""
        return self._returncode is None and self._channel.is_open()

    def end(self) -> int:
        """Kill the process if it lives and collect it. Being told twice is normal.

        Returns:
            Its return code, negative for a signal.
        """
        if self._returncode is None:
            self._channel.close()
            self._returncode = self._collect()
        return self._returncode

    def _receive(self, timeout_s: float) -> tuple[Message, memoryview]:
        try:
            return self._channel.receive(timeout_s)
        except PeerLate as error:
            self.end()
            raise WorkerLost(
                f"The model did not answer within {timeout_s:g} s and its worker was ended.",
                code="RUN_DEADLINE",
                remedy="The worker is started again; send the request again.",
            ) from error
        except PeerGone:
            self._lost()

    def _lost(self) -> NoReturn:
        returncode = self.end()
        raise WorkerLost(
            f"The worker holding the model died ({exit_text(returncode)}).",
            remedy="The worker is started again; send the request again.",
            details={"returncode": returncode},
        )


def exit_text(returncode: int) -> str:
    """Return how a process ended in words, such as ``signal SIGSEGV`` or ``exit status 1``."""
    if returncode >= 0:
        return f"exit status {returncode}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-returncode).name}"
    return f"signal {-returncode}"
