"""Tells the service manager how the agent stands: one datagram to ``$NOTIFY_SOCKET`` (sd_notify(3)), nothing more.

Where no socket is named there is nobody to tell, and nothing happens. A manager that does not listen is never waited
for: a full socket loses the message, and the next one says the same.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

MAX_STATUS = 200


class Notifier:
    """The way to the service manager.

    Args:
        address: of its socket: a path, or an abstract name that begins with ``@``; empty = nobody to tell.
    """

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @property
    def is_heard(self) -> bool:
        """Whether there is somebody to tell."""
        return bool(self._address)

    def send(self, *assignments: str) -> bool:
        """Send lines such as ``READY=1`` in one message; False where it could not be handed over."""
        if not self._address:
            return False
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            s.setblocking(False)
            s.sendto("\n".join(assignments).encode(), self._address)
            return True
        return False


def status_line(text: str) -> str:
    """Return the assignment that shows ``text`` in ``systemctl status``: one line, of bounded length."""
    return f"STATUS={' '.join(text.split())[:MAX_STATUS]}"


def watchdog_period_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return how often the watchdog wants to hear of us, a third of its patience; None where there is none.

    Args:
        environ: of this process: ``WATCHDOG_USEC`` and, where it is meant for one process only, ``WATCHDOG_PID``.
        pid: of this process.
    """
    patience, whose = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not patience.isdecimal() or not int(patience) or (whose and whose != str(pid)):
        return None
    return int(patience) / 3_000_000
