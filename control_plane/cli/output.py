"""Answers on stdout as a table for people, or as JSON or YAML for programs; chatter goes to stderr.

A table is aligned plain text: it reads the same on a terminal, in a pipe and in a golden test.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer


class Format(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[
    Format,
    typer.Option("-o", "--output", envvar="WAVEGATE_OUTPUT", help="How to write the answer.", case_sensitive=False),
]
Json = Annotated[bool, typer.Option("--json", help="The same as -o json.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="Most items to list.")]
Columns = Mapping[str, str]
"""Heading -> dotted path of the value, such as ``{"VERSION": "release.version"}``."""


def show(value: Any, output: Format, columns: Columns) -> None:
    """Write ``value``, a mapping or a list of mappings, on stdout."""
    match output:
        case Format.JSON:
            text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        case Format.YAML:
            import yaml

            text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip("\n")
        case Format.TABLE:
            text = table(value, columns) if isinstance(value, list) else card(value, columns)
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """Write chatter on stderr."""
    sys.stderr.write(text + "\n")


def table(rows: Sequence[Mapping[str, Any]], columns: Columns) -> str:
    """Return ``rows`` as aligned columns under their headings."""
    cells = [list(columns), *([cell(dig(row, path)) for path in columns.values()] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells)
    return "\n".join(lines)


def card(value: Mapping[str, Any], columns: Columns) -> str:
    """Return one thing as aligned ``name  value`` lines."""
    width = max((len(name) for name in columns), default=0)
    return "\n".join(
        f"{name.lower().ljust(width)}  {cell(dig(value, path))}".rstrip() for name, path in columns.items()
    )


def dig(value: Any, path: str) -> Any:
    """Return what a dotted ``path`` leads to, None where it leads nowhere."""
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def cell(value: Any) -> str:
    """Return ``value`` as one line of text."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ",".join(f"{key}={cell(item)}" for key, item in value.items()) or "-"
        case list():
            return ",".join(cell(item) for item in value) or "-"
        case int() if value > 1_000_000_000_000:  # a time: no count here comes near
            return datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        case _:
            # Much of it was said by devices: nothing of that steers a terminal.
            return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(str(value).split()))
