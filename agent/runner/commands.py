"""Commands of the control plane, carried out at most once each: ``diagnose``, ``selftest``, ``status``, ``rollback``.

Commands are not trust: there is no word here that makes the device run what it does not hold already, open a shell, or
read a file that the command names. Rules kept: what has expired is not begun; an id is written down before its work
begins, so that a command that comes again is answered with what it led to and not done twice; one at a time, a few
waiting, and what is too much is refused. What only looks (``LOOKING``) is begun once more where the agent stopped in
its middle, and is begun on a full disk, too: that is when it is asked for. Runs on the schedule's line; the work itself
in the background. Leaves what the words do to the table handed in.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agent.runner.schedule import Schedule
from bundles.errors import WavegateError
from bundles.trust.durable import write_durably
from bundles.wire.commands import DIAGNOSE, SELFTEST, STATUS, Command, CommandResult, decode_command

_log = logging.getLogger(__name__)

REMEMBERED = 64
"""Commands whose outcome is kept. A control plane has a few under way at a device, never so many."""
WAITING = 4
LOOKING = frozenset({DIAGNOSE, SELFTEST, STATUS})
"""Words that change nothing."""
MAX_BEGINNINGS = 2
"""A diagnosis that ends the agent twice (it may be out of memory) is not what it needs."""
QUIET_MS = 5_000
"""A result that was just handed over is not handed over again for a message that came twice."""
ATTACHMENT_MS = 3_600_000
"""A support bundle is held in memory for as long, in case the control plane did not get all of it."""
INTERRUPTED = "COMMAND_INTERRUPTED"
MEMORY_VERSION = 1


@dataclass(frozen=True)
class Done:
    """What doing a command led to.

    Attributes:
        data: for the result.
        attachment: a support bundle to be handed over before the result.
        is_ok: whether what was asked for is so.
        code: of the reason where it is not.
        detail: one sentence.
    """

    data: dict[str, Any] = field(default_factory=dict)
    attachment: bytes = b""
    is_ok: bool = True
    code: str = ""
    detail: str = ""


Doing = Callable[[Command], Done]
"""Carries out one word, on a background thread; what it raises of the family becomes the result's code."""
Send = Callable[[CommandResult, bytes], None]
"""Hands over a result, and the attachment before it; on a background thread. Raises of the family where it cannot."""


class _Memory(msgspec.Struct):
    done: list[tuple[str, CommandResult]]
    v: int = MEMORY_VERSION


class Commands:
    """The commands of one device.

    Args:
        schedule: the line.
        doings: word -> what does it.
        send: hands results over.
        path: where outcomes are kept.
        now_ms: UTC epoch ms, the best this device has.
        told: told of each command as it begins: (do, id, args).
    """

    def __init__(
        self,
        schedule: Schedule,
        doings: Mapping[str, Doing],
        send: Send,
        path: Path,
        now_ms: Callable[[], int],
        told: Callable[[Command], None] = lambda _command: None,
    ) -> None:
        self._schedule, self._doings, self._send, self._path = schedule, doings, send, path
        self._now_ms, self._told = now_ms, told
        self._outcomes = _recall(path)
        self._waiting: deque[Command] = deque()
        self._running = ""
        self._attachment: tuple[str, bytes] = ("", b"")
        self._handed_ms: dict[tuple[str, str], int] = {}

    def take(self, payload: bytes) -> None:
        """Take a command as it came, by whichever way. On the line; being told twice is normal."""
        try:
            command = decode_command(payload)
        except WavegateError as error:
            _log.warning("a command cannot be read: %s", error)
            return
        if command.id == self._running or any(one.id == command.id for one in self._waiting):
            return
        known = self._outcomes.get(command.id)
        if known is not None and not self._is_to_begin_again(command, known):
            self._hand_over(known)
        elif self._now_ms() > command.expires_ms:
            self._refuse(command, "COMMAND_EXPIRED", "It came too late to be begun.")
        elif command.do not in self._doings:
            self._refuse(command, "COMMAND_UNKNOWN", f"This agent knows no command {command.do[:40]!r}.")
        elif len(self._waiting) >= WAITING:
            self._refuse(command, "COMMAND_BUSY", "Too many commands wait already.", is_kept=False)
        else:
            self._waiting.append(command)
            self._next()

    def _is_to_begin_again(self, command: Command, outcome: CommandResult) -> bool:
        """Whether there is nothing to tell: it was interrupted, or its support bundle is gone."""
        if outcome.code == INTERRUPTED:
            return command.do in LOOKING and int(outcome.data.get("begun", 0)) < MAX_BEGINNINGS
        return "sha256" in outcome.data and self._attachment[0] != outcome.id

    def _next(self) -> None:
        if self._running or not self._waiting:
            return
        command = self._waiting.popleft()
        known = self._outcomes.get(command.id)
        begun = int(known.data.get("begun", 0)) + 1 if known is not None and known.code == INTERRUPTED else 1
        if not self._keep(command.id, _interrupted(command, begun)) and command.do not in LOOKING:
            self._refuse(command, "COMMAND_MEMORY", "It cannot be noted that it was begun.", is_kept=False)
            del self._outcomes[command.id]
            self._next()
            return
        self._running = command.id
        self._told(command)
        self._schedule.background(lambda: self._doings[command.do](command), lambda done: self._done(command, done))

    def _done(self, command: Command, done: Done | BaseException) -> None:
        self._running = ""
        if isinstance(done, WavegateError):
            result = CommandResult(command.id, False, done.code, str(done))
        elif isinstance(done, BaseException):
            _log.error("the command %s failed", command.do, exc_info=done)
            result = CommandResult(command.id, False, "COMMAND_FAILED", f"It failed: {type(done).__name__}.")
        else:
            result = CommandResult(command.id, done.is_ok, done.code, done.detail, done.data)
            if done.attachment:
                self._attachment = (command.id, done.attachment)
                due_ms = self._schedule.now_ms() + ATTACHMENT_MS
                self._schedule.at("attachment", due_ms, self._forget_attachment)
        self._keep(command.id, result)
        self._hand_over(result)
        self._next()

    def _refuse(self, command: Command, code: str, detail: str, *, is_kept: bool = True) -> None:
        result = CommandResult(command.id, False, code, detail)
        if is_kept:
            self._keep(command.id, result)
        self._hand_over(result)

    def _forget_attachment(self) -> None:
        self._attachment = ("", b"")

    def _hand_over(self, result: CommandResult) -> None:
        now_ms = self._schedule.now_ms()
        self._handed_ms = {one: at for one, at in self._handed_ms.items() if now_ms - at < QUIET_MS}
        if (result.id, result.code) in self._handed_ms:
            return
        self._handed_ms[result.id, result.code] = now_ms
        attachment = self._attachment[1] if self._attachment[0] == result.id else b""

        def done(error: BaseException | None) -> None:
            if error is not None:  # the control plane asks again, and is told what is kept
                _log.info("the result of a command could not be handed over: %s", error)
                self._handed_ms.pop((result.id, result.code), None)

        self._schedule.background(lambda: self._send(result, attachment), done)

    def _keep(self, command: str, result: CommandResult) -> bool:
        self._outcomes[command] = result
        while len(self._outcomes) > REMEMBERED:
            del self._outcomes[next(iter(self._outcomes))]
        try:
            write_durably(self._path, msgspec.json.encode(_Memory(list(self._outcomes.items()))), mode=0o600)
        except OSError as error:
            _log.warning("the outcome of a command cannot be kept: %s", error)
            return False
        return True


def _interrupted(command: Command, begun: int) -> CommandResult:
    """Return what is known of a command that was begun and whose end nobody saw."""
    return CommandResult(
        command.id, False, INTERRUPTED, "The agent stopped while it was carried out.", {"begun": begun}
    )


def _recall(path: Path) -> dict[str, CommandResult]:
    try:
        return dict(msgspec.json.decode(path.read_bytes(), type=_Memory).done)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}  # never begun, or damaged: commands expire, so little can be done twice
