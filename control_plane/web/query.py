"""Parameters of an address, read leniently: what is not understood filters nothing, and names nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from control_plane.errors import NotFound

MAX_DIGITS = 15
"""More would not fit the database's integers."""


def filters(query: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters without those that hold control characters, which no stored name does."""
    return {name: value.strip() for name, value in query.items() if value.isprintable()}


def names(path: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a path.

    Raises:
        NotFound: ``PATH_UNKNOWN``: one holds control characters.
    """
    if not all(value.isprintable() for value in path.values()):
        raise NotFound("There is no such page.", code="PATH_UNKNOWN", remedy="Check the address.")
    return dict(path)


def choice(query: Mapping[str, str], name: str, known: Sequence[str]) -> str:
    """Return the parameter ``name`` if it is one of ``known``, else an empty string."""
    value = query.get(name, "")
    return value if value in known else ""


def whole_number(query: Mapping[str, str], name: str) -> int:
    """Return the parameter ``name`` as a number, 0 where it is none."""
    return number_of(query.get(name, ""))


def number_of(text: str) -> int:
    """Return ``text`` as a number, 0 where it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else 0
