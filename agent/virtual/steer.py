"""Steering a running fleet from another process: commands on standard input, answers on standard output.

One command a line, words by spaces; one JSON object a line back, in the same order, with ``"ok"`` and the command.
``DEVICE`` is an id, a comma-separated list of ids, or ``all``::

    blur DEVICE             put a blurred lens before the camera
    sharp DEVICE            take it away
    offline DEVICE SECONDS  cut the network for so long
    online DEVICE           mend it
    status                  what each device runs and how many reports wait
    stop                    stop the fleet; so does the end of the input
"""

from __future__ import annotations

from typing import Any, TextIO

import msgspec

from agent.virtual.fleet import Fleet
from bundles.errors import Refused, WavegateError


def steer(fleet: Fleet, lines: TextIO, answers: TextIO) -> None:
    """Carry out commands until ``stop`` or the end of the input."""
    for line in lines:
        words = line.split()
        if not words:
            continue
        try:
            answer = {"ok": True, "command": words[0], **carry_out(fleet, words)}
        except WavegateError as error:
            answer = {"ok": False, "command": words[0], "error": error.as_dict()}
        answer_with(answers, answer)
        if words[0] == "stop":
            return


def answer_with(answers: TextIO, answer: dict[str, Any]) -> None:
    """Write one JSON line."""
    answers.write(msgspec.json.encode(answer).decode() + "\n")
    answers.flush()


def carry_out(fleet: Fleet, words: list[str]) -> dict[str, Any]:
    """Carry out one command and return what it says beside ``ok``.

    Raises:
        Refused: ``STEER_COMMAND`` or ``DEVICE_UNKNOWN``.
    """
    match words:
        case ["blur" | "sharp" as word, names]:
            devices = _devices(fleet, names)
            fleet.blur(devices, is_blurred=word == "blur")
            return {"devices": devices}
        case ["offline", names, seconds] if _is_number(seconds):
            devices = _devices(fleet, names)
            fleet.cut(devices, float(seconds))
            return {"devices": devices, "seconds": float(seconds)}
        case ["online", names]:
            devices = _devices(fleet, names)
            fleet.cut(devices, 0)
            return {"devices": devices}
        case ["status"]:
            return {"devices": fleet.status()}
        case ["stop"]:
            return {}
        case _:
            raise Refused(
                f"{' '.join(words)!r} is no command.",
                code="STEER_COMMAND",
                remedy="Use: blur DEVICE, sharp DEVICE, offline DEVICE SECONDS, online DEVICE, status, stop.",
            )


def _devices(fleet: Fleet, names: str) -> list[str]:
    devices = list(fleet.devices) if names == "all" else [name for name in names.split(",") if name]
    unknown = [device for device in devices if device not in fleet.devices]
    if unknown or not devices:
        raise Refused(
            f"This fleet has no device {', '.join(unknown) or names!r}.",
            code="DEVICE_UNKNOWN",
            remedy=f"It has {next(iter(fleet.devices))} to {next(reversed(fleet.devices))}.",
        )
    return devices


def _is_number(text: str) -> bool:
    try:
        return 0 <= float(text) < 1e6
    except ValueError:
        return False
