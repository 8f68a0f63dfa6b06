"""One-shot commands to a device (``down/cmd/{id}``), what it answers (``up/cmd/{id}/result`` and ``.../part/{n}``).

A command is not trust. It may make a device tell something about itself, or go back to a release that it holds
already; nothing that a command says makes it run anything else. A support bundle too large for one message goes up in
parts, numbered from 0, before the result that names their count and the sha256 of the whole. Over HTTPS the same
documents travel by ``GET /v1/device/commands``, ``POST /v1/device/commands/{id}/result`` and
``POST /v1/device/diagnosis/{id}``. Leaves expiry, and that each is carried out once, to the agent.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from bundles.errors import MessageRefused
from bundles.wire import topics

COMMAND_VERSION = 1
DIAGNOSE, SELFTEST, STATUS, ROLLBACK = "diagnose", "selftest", "status", "rollback"
DOINGS = (DIAGNOSE, SELFTEST, STATUS, ROLLBACK)
"""What a control plane of this release asks for. A device answers another word with ``COMMAND_UNKNOWN``."""
DOWN_COMMAND = "down/cmd/"
UP_COMMAND = "up/cmd/"
UP_FILTERS = ("up/cmd/+/result", "up/cmd/+/part/+")
"""What the control plane subscribes to, below each device's prefix."""
MAX_COMMAND_BYTES = 16 * 1024
MAX_RESULT_BYTES = 128 * 1024
MAX_BUNDLE_BYTES = 1 << 20
"""A support bundle, compressed."""
PART_BYTES = 128 * 1024
"""Bytes of one part; half of the broker's ``max_packet_size``."""
MAX_PARTS = MAX_BUNDLE_BYTES // PART_BYTES
_ID = re.compile(r"[a-z0-9]{8,32}\Z")
_UP = re.compile(r"up/cmd/([a-z0-9]{8,32})/(?:result|part/(\d))\Z")
T = TypeVar("T")


class Command(msgspec.Struct, frozen=True):
    """One thing asked of one device.

    Attributes:
        id: 8 to 32 of ``a-z`` and ``0-9``, new for each command; the last level of its topic.
        do: what; see ``DOINGS``.
        args: plain values; what each doing takes is told in ``agent.runner.commands``.
        issued_ms: server clock.
        expires_ms: server clock; not begun later than this.
        v: version of this form.
    """

    id: str
    do: str
    issued_ms: int
    expires_ms: int
    args: dict[str, Any] = {}
    v: int = 1


class CommandResult(msgspec.Struct, frozen=True):
    """What became of a command.

    Attributes:
        id: of the command.
        ok: whether it was done.
        code: stable code of the reason where it was not.
        detail: one sentence.
        data: plain values; of a diagnosis ``sha256``, ``bytes`` and ``parts`` of the support bundle.
        v: version of this form.
    """

    id: str
    ok: bool
    code: str = ""
    detail: str = ""
    data: dict[str, Any] = {}
    v: int = 1


def is_command_id(text: str) -> bool:
    """Whether ``text`` may name a command."""
    return _ID.match(text) is not None


def down_leaf(command: str) -> str:
    """Return the leaf a command comes down on."""
    return f"{DOWN_COMMAND}{command}"


def result_leaf(command: str) -> str:
    """Return the leaf a command's result goes up on."""
    return f"{UP_COMMAND}{command}/result"


def part_leaf(command: str, number: int) -> str:
    """Return the leaf that part ``number`` of a command's support bundle goes up on."""
    return f"{UP_COMMAND}{command}/part/{number}"


def split_leaf(leaf: str) -> tuple[str, int | None] | None:
    """Split an upward leaf into (command, part number), the number None for a result; None where it is no such leaf."""
    match = _UP.match(leaf)
    if match is None:
        return None
    return match[1], int(match[2]) if match[2] else None


def split_up_topic(name: str) -> tuple[str, str] | None:
    """Split an upward topic of a command into (device, leaf); None where it is none."""
    head, _, rest = name.partition(topics.PREFIX + "/")
    device, _, leaf = rest.partition("/")
    if head or not topics.is_device_id(device) or split_leaf(leaf) is None:
        return None
    return device, leaf


def encode(message: Command | CommandResult | list[Command]) -> bytes:
    """Return the JSON of a command, a result, or the list that ``GET /v1/device/commands`` answers with."""
    return msgspec.json.encode(message)


def decode_command(payload: bytes) -> Command:
    """Read a command.

    Raises:
        MessageRefused: ``MESSAGE_TOO_LARGE``, ``MESSAGE_VERSION`` or ``MESSAGE_INVALID``.
    """
    command = _decode(payload, Command, MAX_COMMAND_BYTES)
    if not is_command_id(command.id):
        raise MessageRefused("The command's id has a form no command's has.", remedy="Check who wrote to this topic.")
    return command


def decode_commands(payload: bytes) -> list[bytes]:
    """Return the commands of a list as their own bytes, so that one that cannot be read hides no other.

    Raises:
        MessageRefused: as ``decode_command``.
    """
    _check_size(payload, 64 * MAX_COMMAND_BYTES)
    try:
        return [bytes(raw) for raw in msgspec.json.decode(payload, type=list[msgspec.Raw])]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(error) from error


def decode_result(payload: bytes) -> CommandResult:
    """Read a result.

    Raises:
        MessageRefused: as ``decode_command``.
    """
    return _decode(payload, CommandResult, MAX_RESULT_BYTES)


class _Version(msgspec.Struct):
    v: int = 1


def _decode(payload: bytes, kind: type[T], limit: int) -> T:
    _check_size(payload, limit)
    try:
        if (v := msgspec.json.decode(payload, type=_Version).v) != COMMAND_VERSION:
            raise MessageRefused(
                f"The message has version {v}; this program reads {COMMAND_VERSION}.",
                code="MESSAGE_VERSION",
                remedy="Update this program.",
                details={"v": v},
            )
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(error) from error


def _check_size(payload: bytes, limit: int) -> None:
    if len(payload) > limit:
        raise MessageRefused(
            f"The message has {len(payload)} bytes; {limit} is the limit.",
            code="MESSAGE_TOO_LARGE",
            remedy="Check the sender's release.",
        )


def _invalid(error: Exception) -> MessageRefused:
    return MessageRefused(f"The message cannot be read: {error}.", remedy="Check the sender's release.")
