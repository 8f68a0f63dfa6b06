"""For applications: a thin client of the daemon's local socket. It never holds a model.

One connection, kept open, used by one request at a time; give each thread its own client to ask in parallel.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from agent.errors import DaemonUnreachable, ModelUnknown, NotReady, RunFailed, SafeMode, WorkerLost
from agent.inference.prediction import Prediction
from agent.lock import NAME, held
from bundles.errors import AskPerson, InputRefused, Refused, WavegateError

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import ArrayLike

_FAMILIES: Mapping[str, type[WavegateError]] = {
    "MODEL_UNKNOWN": ModelUnknown,
    "NOT_READY": NotReady,
    "SAFE_MODE": SafeMode,
    "RUN_FAILED": RunFailed,
    "OUTPUT_NONFINITE": RunFailed,
    "WORKER_CRASHED": WorkerLost,
    "RUN_DEADLINE": WorkerLost,
}


class Client:
    """Asks the agent on this device.

    Args:
        socket_path: the agent's socket.
        timeout_s: for one answer.
    """

    def __init__(self, socket_path: str | Path, *, timeout_s: float = 30.0) -> None:
        self._path = str(socket_path)
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()
        self._metadata: dict[str, dict[str, Any]] = {}

    def infer(self, model: str, inputs: Mapping[str, ArrayLike]) -> Prediction:
        """Ask a model.

        Args:
            model: ``team/model``.
            inputs: tensor name -> array, of the dtype and shape of the model's contract. What is no array yet (a list,
                a number) is converted to the dtype the model's metadata names.

        Raises:
            DaemonUnreachable: nobody answers on the socket.
            ModelUnknown: no such model is loaded.
            InputRefused: the request breaks the model's contract.
            TryAgain: the model could not answer this time.
        """
        import numpy as np

        from agent.inference import v2

        arrays = {
            name: value if isinstance(value, np.ndarray) else self._converted(model, name, value)
            for name, value in inputs.items()
        }
        request = {"inputs": [v2.write_tensor(name, array) for name, array in arrays.items()]}
        answer = self._ask("POST", f"{_path_of(model)}/infer", msgspec.json.encode(request))
        parameters = answer["parameters"]
        return Prediction(
            outputs=v2.read_outputs(answer["outputs"]),
            model=answer["model_name"],
            version=answer["model_version"],
            sha256=parameters["sha256"],
            latency_ms=parameters["latency_ms"],
            id=parameters["prediction_id"],
        )

    def models(self) -> list[dict[str, str]]:
        """Return name, version and state of each loaded model.

        Raises:
            DaemonUnreachable: nobody answers on the socket.
        """
        answer: list[dict[str, str]] = self._ask("POST", "/v2/repository/index", b"{}")
        return answer

    def metadata(self, model: str) -> dict[str, Any]:
        """Return a model's inputs and outputs as the Open Inference Protocol describes them.

        Raises:
            DaemonUnreachable: nobody answers on the socket.
            ModelUnknown: no such model is loaded.
        """
        answer: dict[str, Any] = self._ask("GET", _path_of(model), b"")
        return answer

    def ready(self, model: str | None = None) -> bool:
        """Return True when the model (every model, when none is named) could answer now; False without an agent."""
        path = "/v2/health/ready" if model is None else f"{_path_of(model)}/ready"
        try:
            return bool(self._ask("GET", path, b"")["ready"])
        except (DaemonUnreachable, ModelUnknown):
            return False

    @contextlib.contextmanager
    def update_lock(self) -> Iterator[None]:
        """Hold the update lock: while this lasts, no other release begins to answer. One that has begun goes on.

        Needs no running agent, and asks it nothing: the lock is a file beside the socket.

        Raises:
            AskPerson: ``LOCK_FORBIDDEN``.
        """
        path = Path(self._path).with_name(NAME)
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(held(path))
            except OSError as error:
                raise AskPerson(
                    f"The update lock {str(path)!r} cannot be taken: {error.strerror}.",
                    code="LOCK_FORBIDDEN",
                    remedy="Run the application as a member of the agent's group.",
                ) from error
            yield

    def close(self) -> None:
        """Close the connection. Being told twice is normal."""
        with self._lock:
            self._disconnect()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _converted(self, model: str, name: str, value: ArrayLike) -> Any:
        import numpy as np

        from agent.inference import v2

        if model not in self._metadata:
            self._metadata[model] = self.metadata(model)
        for tensor in self._metadata[model]["inputs"]:
            if tensor["name"] == name:
                return np.asarray(value, dtype=v2.DATATYPES[tensor["datatype"]])
        return np.asarray(value)  # the agent will refuse the name, and says so better

    def _ask(self, method: str, path: str, body: bytes) -> Any:
        with self._lock:
            status, data = self._exchange(method, path, body)
        try:
            answer = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DaemonUnreachable(
                f"What answers on {self._path!r} is not the agent.", remedy="Check the socket's path."
            ) from error
        if status == 200 or (isinstance(answer, dict) and "ready" in answer):
            return answer
        self._metadata.clear()  # the model may have been replaced by one with another contract
        raise _error(status, answer)

    def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        was_open = self._connection is not None
        try:
            return self._try(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            self._disconnect()
            if not was_open or isinstance(error, TimeoutError):
                raise self._unreachable(error) from error
        try:
            return self._try(method, path, body)  # a kept connection that the agent had closed: once more
        except (OSError, http.client.HTTPException) as error:
            self._disconnect()
            raise self._unreachable(error) from error

    def _try(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = _UnixConnection(self._path, self._timeout_s)
        headers = {"Content-Type": "application/json"} if body else {}
        self._connection.request(method, path, body=body or None, headers=headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _unreachable(self, error: Exception) -> DaemonUnreachable:
        if isinstance(error, TimeoutError):
            return DaemonUnreachable(
                f"The agent did not answer within {self._timeout_s:g} s.", remedy="Send the request again later."
            )
        return DaemonUnreachable(
            f"No agent answers on {self._path!r}: {error}.",
            remedy="Start it with 'wavegate-agent run', and check that you may use its socket.",
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _path_of(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _error(status: int, answer: Any) -> WavegateError:
    fields = answer if isinstance(answer, dict) else {}
    code = str(fields.get("code", "DAEMON_ANSWER"))
    family = _FAMILIES.get(code) or (InputRefused if code.startswith("INPUT_") else None)
    if family is None:
        family = Refused if status < 500 else RunFailed
    sentence = str(fields.get("error", f"The agent answered with HTTP status {status}."))
    return family(sentence, code=code, remedy=str(fields.get("remedy", "")))
