"""Makes what is told of a device bounded before it is packed, and notes what was left out. Pure.

Values stay values (a status of ten thousand models is JSON afterwards, too), texts keep their newest lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_ITEMS = 200
MAX_TEXT = 4096
MAX_DEPTH = 12
MAX_LINE = 2048
MORE = "..."


def shortened(value: Any, left_out: list[str], where: str = "", depth: int = 0) -> Any:
    """Return plain values with at most ``MAX_ITEMS`` in each list and mapping, and ``MAX_TEXT`` signs in each text.

    Args:
        value: plain values.
        left_out: a line is added for each thing cut.
        where: the path to ``value``, for those lines.
        depth: of ``value``.
    """
    match value:
        case Mapping() | list() | tuple() if depth == MAX_DEPTH:
            left_out.append(f"{where or 'it'}: too deep, {len(value)} left out")
            return MORE
        case Mapping():
            kept = {
                str(name): shortened(one, left_out, f"{where}.{name}".lstrip("."), depth + 1)
                for name, one in list(value.items())[:MAX_ITEMS]
            }
            return kept | _more(len(value), left_out, where)
        case list() | tuple():
            items = [shortened(one, left_out, where, depth + 1) for one in value[:MAX_ITEMS]]
            return [*items, *_more(len(value), left_out, where).values()]
        case str() if len(value) > MAX_TEXT:
            left_out.append(f"{where or 'it'}: {len(value) - MAX_TEXT} signs of {len(value)} left out")
            return value[:MAX_TEXT] + MORE
        case _:
            return value


def newest_lines(text: str, most: int, left_out: list[str]) -> str:
    """Return the newest lines of ``text``, at most ``most`` signs; lines longer than ``MAX_LINE`` lose their middle.

    Args:
        text: lines, the newest last.
        most: signs.
        left_out: a line is added where something was cut.
    """
    kept: list[str] = []
    size = cut = 0
    lines = text.splitlines()
    for line in reversed(lines):
        if len(line) > MAX_LINE:
            line = f"{line[: MAX_LINE // 2]} {MORE} {line[-MAX_LINE // 2 :]}"
            cut += 1
        if size + len(line) + 1 > most:
            break
        kept.append(line)
        size += len(line) + 1
    if len(kept) < len(lines):
        left_out.append(f"{len(lines) - len(kept)} older lines left out")
    if cut:
        left_out.append(f"{cut} lines longer than {MAX_LINE} signs cut in their middle")
    return "".join(f"{line}\n" for line in reversed(kept))


def _more(length: int, left_out: list[str], where: str) -> dict[str, str]:
    if length <= MAX_ITEMS:
        return {}
    left_out.append(f"{where or 'it'}: {length - MAX_ITEMS} of {length} left out")
    return {MORE: f"{length - MAX_ITEMS} more"}
