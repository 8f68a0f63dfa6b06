"""Where the agent's log goes: to stderr as text or as JSON lines, or to systemd's journal with its fields; and always
to a small ring of files in the agent's folder, which diagnoses take their tail from.

Fields come with a record as ``extra`` (``model``, ``bundle``, ``reason``, ``code``, ``kind``); the code of an error of
the family among a record's arguments is found by itself. What is secret is taken out of every form (``agent.redact``),
texts of exceptions included. A log that cannot be written (a full disk, a journal that is restarting) is lost, and
nothing else is: no handler here raises.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import sys
from collections.abc import Collection, Mapping
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from agent.config import LogForm
from agent.redact import redact
from bundles.errors import WavegateError

JOURNAL = Path("/run/systemd/journal/socket")
RING_BYTES = 256 * 1024
RING_FILES = 2
"""Older files beside the newest: at most 768 KiB altogether."""
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FIELDS = ("kind", "model", "bundle", "reason", "code")
MESSAGE_IDS = {
    "phase": "6fd3a0b4c1ce4c0c8d5a51a2cb4fa8e1",
    "refused": "2a0c6f1f4b7f4c5bb1a5c0f3d1a9e772",
    "rolled_back": "a1b7e09a4cf24f7ab2f5ad0b53d9b6c3",
    "crash": "d0f8f3f7b3cd4e25a2a3c7f8b1c1a954",
    "degraded": "58e2a1b49d0f4b4f9c86b5d3e2f7a605",
    "safe_mode": "c4d2b6a8e1f04a3d8b97f5e6a3c2d186",
    "identity_conflict": "97e3c5d1a2b84f6c9e0d4b5a6c7f8237",
}
"""``MESSAGE_ID=`` of each kind of event, fixed for good: `journalctl MESSAGE_ID=...` finds every one."""
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def set_up_logging(
    form: LogForm,
    *,
    is_verbose: bool,
    ring: Path | None = None,
    journal: Path = JOURNAL,
    secrets: Collection[str] = (),
) -> None:
    """Send this process's log where it belongs; replaces what was set up before.

    Args:
        form: of the lines that people and collectors see; a journal that is not there means text on stderr.
        is_verbose: whether those tell what the agent does, and not only what goes wrong. The ring always does.
        ring: newest file of the ring, such as ``DIR/log/agent.log``; None = none.
        journal: socket of systemd's journal.
        secrets: values known to be secret; other secrets are found by where they stand.
    """
    shown = _shown(form, journal, secrets)
    shown.setLevel(logging.INFO if is_verbose else logging.WARNING)
    handlers: list[logging.Handler] = [shown]
    if ring is not None and (kept := _ring(ring, secrets)) is not None:
        handlers.append(kept)
    logging.basicConfig(level=min(handler.level for handler in handlers), handlers=handlers, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """Return the fields a record carries, those that are not empty."""
    found = {name: str(value) for name in FIELDS if (value := getattr(record, name, ""))}
    if "code" not in found and isinstance(record.args, tuple):
        error = next((one for one in record.args if isinstance(one, WavegateError)), None)
        if error is not None:
            found["code"] = error.code
    return found


def is_of_the_journal(environ: Mapping[str, str], descriptor: int) -> bool:
    """Whether what is written to ``descriptor`` goes to systemd's journal (``$JOURNAL_STREAM``, systemd.exec(5))."""
    with contextlib.suppress(OSError):
        found = os.fstat(descriptor)
        return environ.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"
    return False


class TextForm(logging.Formatter):
    """Lines for people.

    Args:
        secrets: as for ``set_up_logging``.
    """

    def __init__(self, secrets: Collection[str] = ()) -> None:
        super().__init__(TEXT)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``."""
        return redact(super().format(record), self._secrets)


class JsonForm(logging.Formatter):
    """One JSON object a line: ``at_ms``, ``level``, ``logger``, ``message``, and the fields.

    Args:
        secrets: as for ``set_up_logging``.
    """

    def __init__(self, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``."""
        line = {
            "at_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(_message(record), self._secrets),
            **fields_of(record),
        }
        return json.dumps(line, ensure_ascii=False)


class JournalHandler(logging.Handler):
    """Sends records to systemd's journal by its native protocol: one datagram of fields.

    What no datagram can carry goes in a sealed file of memory whose descriptor is sent.

    Args:
        path: of the journal's socket.
        secrets: as for ``set_up_logging``.
    """

    def __init__(self, path: Path, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self._path, self._secrets = str(path), secrets
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Send ``record``; where nobody takes it, it is lost."""
        with contextlib.suppress(OSError):
            data = journal_message(record, self._secrets)
            try:
                self._socket.sendto(data, socket.MSG_DONTWAIT, self._path)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                self._send_file(data)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _send_file(self, data: bytes) -> None:
        descriptor = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            # The journal reads no file that somebody could still change.
            fcntl.fcntl(
                descriptor,
                fcntl.F_ADD_SEALS,
                fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL,
            )
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder))
            self._socket.sendmsg([b""], [rights], socket.MSG_DONTWAIT, self._path)
        finally:
            os.close(descriptor)


def journal_message(record: logging.LogRecord, secrets: Collection[str] = ()) -> bytes:
    """Return ``record`` as the journal's native protocol has it: ``NAME=value``, or a length where lines break."""
    fields = {
        "MESSAGE": redact(_message(record), secrets),
        "PRIORITY": str(priority_of(record.levelno)),
        "SYSLOG_IDENTIFIER": "wavegate-agent",
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
        **{name.upper(): value for name, value in fields_of(record).items()},
    }
    if message_id := MESSAGE_IDS.get(fields.get("KIND", "")):
        fields["MESSAGE_ID"] = message_id
    return b"".join(_field(name, value.encode("utf-8", "replace")) for name, value in fields.items() if value)


def priority_of(level: int) -> int:
    """Return the syslog priority of a level of ``logging``."""
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


class _Ring(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Keep still: the disk is full or the folder is gone, which the agent tells by other ways."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return TextIOWrapper(os.fdopen(descriptor, "ab"), encoding="utf-8")


def _ring(path: Path, secrets: Collection[str]) -> logging.Handler | None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = _Ring(path, maxBytes=RING_BYTES, backupCount=RING_FILES, encoding="utf-8")
    except OSError:
        return None  # a full or read-only disk is no reason not to run
    handler.setFormatter(TextForm(secrets))
    handler.setLevel(logging.INFO)
    return handler


def _shown(form: LogForm, journal: Path, secrets: Collection[str]) -> logging.Handler:
    if form == "auto":
        form = "journal" if is_of_the_journal(os.environ, 2) else "text"
    if form == "journal" and journal.exists():
        return JournalHandler(journal, secrets)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonForm(secrets) if form == "json" else TextForm(secrets))
    return handler


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit: the words alone are better than nothing
        text = str(record.msg)
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
