"""Two doors, one application, one event loop: plain HTTP for operators, TLS for devices.

Sockets are bound before anything else starts, so that a port in use is told at once. Leaves what is served to ``app``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from bundles.errors import AskPerson

GRACE_S = 5


@dataclass(frozen=True)
class Door:
    """A listening socket, with a certificate where it speaks TLS."""

    listener: socket.socket
    certificate: Path | None = None
    key: Path | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.listener.getsockname()[1])


def bind(host: str, port: int, flag: str) -> socket.socket:
    """Bind and return a TCP socket.

    Args:
        host: address.
        port: 0 = any free one.
        flag: the option a person would change.

    Raises:
        AskPerson: ``PORT_IN_USE``, or ``ADDRESS`` where it cannot be bound at all.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AskPerson(
                f"Port {port} on {host} is in use by another program.",
                code="PORT_IN_USE",
                remedy=f"Choose another with {flag}, or stop that program.",
                details={"port": port},
            ) from error
        raise AskPerson(
            f"Cannot listen on {host}:{port}: {error.strerror}.", code="ADDRESS", remedy=f"Check {flag}."
        ) from error
    return listener


def serve(app: Any, doors: Sequence[Door], *, started: Callable[[], None]) -> None:
    """Serve ``app`` on all ``doors`` until SIGINT or SIGTERM.

    Args:
        app: the ASGI application.
        doors: bound sockets.
        started: called once when every door answers.
    """
    asyncio.run(_serve(app, doors, started))


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its owner: two of them would take them from one another."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def _serve(app: Any, doors: Sequence[Door], started: Callable[[], None]) -> None:
    servers = [_Server(_config(app, door)) for door in doors]

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop)
    tasks = [
        asyncio.create_task(server.serve(sockets=[door.listener])) for server, door in zip(servers, doors, strict=True)
    ]
    while not all(server.started for server in servers) and not any(task.done() for task in tasks):
        await asyncio.sleep(0.01)
    started()
    await asyncio.gather(*tasks)


def _config(app: Any, door: Door) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=door.certificate,
        ssl_keyfile=str(door.key) if door.key else None,
    )
