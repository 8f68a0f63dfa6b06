"""What the owner of the device may ask of the running agent: one JSON line in, one JSON line out, on a private socket.

Apart from the local door, which is open to applications (0660): this socket is 0600, because a roll back is not an
application's business. Leaves what a request does to the function handed in, which runs on the server's thread.
"""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from agent.errors import DaemonUnreachable, SocketRefused
from bundles.errors import Refused, WavegateError

MAX_LINE_BYTES = 64 * 1024
TIMEOUT_S = 10.0
LOOK_S = 60.0
"""Between looks at whether it is to end; its end wakes it by itself, so it need not look often."""

Answer = Callable[[dict[str, Any]], dict[str, Any]]
"""request -> answer; what it raises of the family is sent back as ``error``."""


class ControlServer:
    """Serves the control socket on a thread.

    Args:
        path: where the socket appears; a stale one is replaced.
        answer: carries out requests.

    Raises:
        SocketRefused: it cannot be opened there.
    """

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path = path

        class Handler(socketserver.StreamRequestHandler):
            timeout = TIMEOUT_S

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    self.wfile.write(_answer(answer, self.rfile.readline(MAX_LINE_BYTES)) + b"\n")

        try:
            path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                self._server = socketserver.UnixStreamServer(str(path), Handler)
            finally:
                os.umask(before)
        except OSError as error:
            raise SocketRefused(
                f"The control socket {str(path)!r} cannot be opened: {error}.",
                remedy="Use a folder with a short path that the agent may write to.",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": LOOK_S}, name="control", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and remove the socket."""
        if self._thread.is_alive():
            with contextlib.suppress(OSError):
                self._server.socket.shutdown(socket.SHUT_RDWR)  # it wakes by this
            self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


def ask(path: Path, request: dict[str, Any], timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Send one request to the agent running in the folder of ``path``.

    Raises:
        DaemonUnreachable: no agent answers there.
        Refused: the agent refused the request.
    """
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            sock.sendall(msgspec.json.encode(request) + b"\n")
            with sock.makefile("rb") as stream:
                answer = msgspec.json.decode(stream.readline(MAX_LINE_BYTES), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DaemonUnreachable(
            f"No agent answers on {str(path)!r}.", remedy="Start it with 'wavegate-agent run --dir DIR'."
        ) from error
    if isinstance(problem := answer.get("error"), dict):
        raise Refused(
            str(problem.get("message", "The agent refused.")),
            code=str(problem.get("code", "REFUSED")),
            remedy=str(problem.get("remedy", "")),
        )
    return answer


def _answer(answer: Answer, line: bytes) -> bytes:
    try:
        return msgspec.json.encode(answer(msgspec.json.decode(line, type=dict[str, Any])))
    except WavegateError as error:
        return msgspec.json.encode({"error": error.as_dict()})
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        refused = Refused(f"The request cannot be read: {error}.", code="CONTROL_REQUEST")
        return msgspec.json.encode({"error": refused.as_dict()})
