"""The local door: the Open Inference Protocol V2 over HTTP on a Unix socket, so that existing clients work.

A model is called ``team/model``; in a path it may be written with a plain slash (``/v2/models/shop/digits/infer``, as
clients that do not quote it send it) or quoted (``shop%2Fdigits``). Names have exactly those two parts, so both read
alike. ``/versions/<version>`` may follow, and must then be the version that answers.
The socket is 0660: who may ask is a matter of its group. Each connection's process and user are logged. Leaves
parsing to ``v2`` and everything about models to the engine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import socketserver
import struct
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from agent.errors import ModelUnknown, NotReady, RunFailed, SocketRefused, WorkerLost
from agent.inference import v2
from agent.inference.engine import Engine, ModelStatus
from bundles import __version__
from bundles.errors import AskPerson, InputRefused, Refused, WavegateError

_log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 << 20
MAX_CONNECTIONS = 32
"""Each is a thread; a device's applications are few, and more is a leak or a flood."""
IDLE_TIMEOUT_S = 60.0
SOCKET_MODE = 0o660
LOOK_S = 60.0
"""Between looks at whether the server is to end; its end wakes it by itself, so an idle device is left asleep."""
_MAX_PATH_BYTES = 107  # sun_path holds 108 with its final zero
_NEW = ".new"
_PEERCRED = struct.Struct("3i")  # pid, uid, gid of struct ucred

_STATUS: tuple[tuple[type[WavegateError], int], ...] = (
    (InputRefused, 400),
    (ModelUnknown, 404),
    (NotReady, 503),
    (WorkerLost, 503),
    (RunFailed, 500),
    (Refused, 400),
    (AskPerson, 500),
    (WavegateError, 500),
)


class LocalServer:
    """Serves an engine on a Unix socket, on threads of its own.

    Args:
        engine: answers the requests; it is not closed by the server.
        path: where the socket appears.

    Raises:
        SocketRefused: ``SOCKET_IN_USE``, ``SOCKET_PATH_TOO_LONG`` or ``SOCKET_REFUSED``.
    """

    def __init__(self, engine: Engine, path: Path) -> None:
        self.path = path
        self._server = _Server(engine, path)
        self._inode = path.stat().st_ino
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": LOOK_S}, name="local-server", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering, close every connection and remove the socket. Being told twice is normal."""
        if self._thread.is_alive():
            with contextlib.suppress(OSError):
                self._server.socket.shutdown(socket.SHUT_RDWR)  # it wakes by this
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.drop_connections()
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine = engine
        self._path = path
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        super().__init__(str(path), _Handler)

    def server_bind(self) -> None:
        path = self._path
        new = path.with_name(path.name + _NEW)
        if len(os.fsencode(new)) > _MAX_PATH_BYTES:
            raise SocketRefused(
                f"The socket path {str(path)!r} is too long; {_MAX_PATH_BYTES - len(_NEW)} bytes is the limit.",
                code="SOCKET_PATH_TOO_LONG",
                remedy="Set a shorter socket path in the agent's configuration.",
            )
        if _is_answered(path):
            raise SocketRefused(
                f"Another agent answers on {str(path)!r}.",
                code="SOCKET_IN_USE",
                remedy="Stop the other agent, or give this one a directory of its own.",
            )
        try:
            new.unlink(missing_ok=True)
            self.socket.bind(str(new))
            new.chmod(SOCKET_MODE)
            new.rename(path)  # nobody sees it with other permissions, and a stale one is replaced in the same step
        except OSError as error:
            raise SocketRefused(
                f"The socket {str(path)!r} cannot be opened: {error.strerror}.",
                remedy="Check that its directory exists and that the agent may write there.",
            ) from error
        self.server_address = str(path)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            is_full = len(self._connections) >= MAX_CONNECTIONS
            if not is_full:
                self._connections.add(request)
        if is_full:
            with contextlib.suppress(OSError):
                request.sendall(_TOO_MANY)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._connections.discard(request)
                self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a connection ended badly", exc_info=True)  # the caller went away in the middle

    def drop_connections(self) -> None:
        """Close what is open and wait until each handler has noticed."""
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, timeout=5.0)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = f"wavegate/{__version__}"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    wbufsize = -1  # head and body leave in one piece

    def setup(self) -> None:
        super().setup()
        if hasattr(socket, "SO_PEERCRED"):
            raw = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
            pid, uid, gid = _PEERCRED.unpack(raw)
            _log.info("a local client connected: pid %d, uid %d, gid %d", pid, uid, gid)

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self.close_connection = True
            self._send_error(411, "The request has no Content-Length.", "HTTP_LENGTH", "Send the length of the body.")
            return
        if int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            self._send_error(
                413, f"The body has {length} bytes.", "HTTP_TOO_LARGE", f"{MAX_BODY_BYTES} bytes is the limit."
            )
            return
        self._answer(self.rfile.read(int(length)))

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what ``http.server`` itself refuses in our form."""
        self.close_connection = True
        self._send_error(code, message or "The request cannot be read.", "HTTP_REFUSED", "Send plain HTTP/1.1.")

    def _answer(self, body: bytes) -> None:
        try:
            status, answer = _route(self.server.engine, self.command, self.path, body)
        except WavegateError as error:
            status = next(code for family, code in _STATUS if isinstance(error, family))
            self._send_error(status, error.sentence, error.code, error.remedy)
            return
        except Exception:  # the outermost loop of this connection; the caller learns no more than that
            _log.exception("a local request failed")
            self._send_error(500, "The agent failed on this request.", "INTERNAL", "See the agent's log.")
            return
        self._send(status, answer)

    def _send_error(self, status: int, sentence: str, code: str, remedy: str) -> None:
        self._send(status, msgspec.json.encode({"error": sentence, "code": code, "remedy": remedy}))

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _route(engine: Engine, method: str, target: str, body: bytes) -> tuple[int, bytes]:
    path = urlsplit(target).path
    parts = [unquote(part) for part in path.strip("/").split("/")]
    match method, parts:
        case "GET", ["v2"]:
            return 200, msgspec.json.encode({"name": "wavegate", "version": __version__, "extensions": []})
        case "GET", ["v2", "health", "live"]:
            return 200, msgspec.json.encode({"live": True})
        case "GET", ["v2", "health", "ready"]:
            statuses = engine.models()
            ready = bool(statuses) and all(status.ready for status in statuses)
            return (200 if ready else 503), msgspec.json.encode({"ready": ready})
        case "POST", ["v2", "repository", "index"]:
            return 200, msgspec.json.encode([_indexed(status) for status in engine.models()])
        case _, ["v2", "models", *rest]:
            return _route_model(engine, method, rest, body)
    raise _nothing_at(method, path)


def _route_model(engine: Engine, method: str, parts: list[str], body: bytes) -> tuple[int, bytes]:
    if parts and "/" in parts[0]:
        parts = [*parts[0].split("/"), *parts[1:]]
    if len(parts) < 2:
        raise _nothing_at(method, f"/v2/models/{'/'.join(parts)}")
    model, rest = "/".join(parts[:2]), parts[2:]
    if len(rest) >= 2 and rest[0] == "versions":
        loaded = engine.status(model).spec.version
        if rest[1] != loaded:
            raise ModelUnknown(
                f"The model {model!r} is loaded in version {loaded}, not {rest[1]}.",
                remedy="Leave the version out to get the one that answers.",
            )
        rest = rest[2:]
    match method, rest:
        case "GET", []:
            spec = engine.status(model).spec
            platform = f"{spec.backend}_{spec.model_path.suffix.removeprefix('.')}"
            return 200, msgspec.json.encode(v2.metadata(model, spec.version, platform, spec.contract))
        case "GET", ["ready"]:
            ready = engine.status(model).ready
            return (200 if ready else 503), msgspec.json.encode({"name": model, "ready": ready})
        case "POST", ["infer"]:
            return 200, _infer(engine, model, body)
    raise _nothing_at(method, f"/v2/models/{'/'.join(parts)}")


def _infer(engine: Engine, model: str, body: bytes) -> bytes:
    contract = engine.contract(model)
    try:
        request = v2.read_request(body)
        inputs = v2.arrays(request)
        v2.check_wanted(request, contract)
    except InputRefused as error:
        engine.count_reject(error.code, model)
        raise
    return v2.write_response(engine.infer(inputs, model), request)


def _nothing_at(method: str, path: str) -> ModelUnknown:
    return ModelUnknown(
        f"There is nothing at {method} {path}.",
        code="HTTP_NOT_FOUND",
        remedy="A model answers to GET (metadata), GET ready and POST infer under /v2/models/<team>/<model>.",
    )


def _indexed(status: ModelStatus) -> dict[str, str]:
    return {
        "name": status.spec.model,
        "version": status.spec.version,
        "state": "READY" if status.ready else "UNAVAILABLE",
        "reason": ", ".join(status.stats.unhealthy),
    }


def _is_answered(path: Path) -> bool:
    if not path.exists():
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


_TOO_MANY_BODY = msgspec.json.encode(
    {
        "error": f"The agent serves {MAX_CONNECTIONS} local connections at a time.",
        "code": "HTTP_TOO_MANY_CONNECTIONS",
        "remedy": "Close connections that are not needed, and keep one open instead of opening many.",
    }
)
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    + f"Content-Length: {len(_TOO_MANY_BODY)}\r\n\r\n".encode()
    + _TOO_MANY_BODY
)
