"""Damage with a sense of form: bytes, and JSON documents whose keys and values are changed one by one.

Documents are kept as lists of pairs, so that a key can stand twice, and numbers as the text they are written in, so
that ``1e999`` and a hundred digits survive. All choices come from the ``random.Random`` handed in.
"""

from __future__ import annotations

import json
import random
from typing import Any

INTERESTING: tuple[Any, ...] = (
    *(0, -1, 1, 2**31, 2**53 - 1, 2**53, 2**63, 2**64, -(2**63), 0.5, 1.0, 1e16),
    *("", ".", "..", "a/../b", "/", "a//b", "%2e%2e", "A", "\x00", "é", "\ud800", "\u202e", "a" * 300, "0" * 64),
    *("vision", "prod", "model", "bundle.json", "metadata/1.root.json", "2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
    *(None, True, False),
)
_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 40, "-" + "9" * 40, "9" * 5000, "1.0", "1e3", "-0")


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, in order, keys possibly twice."""


class Literal(str):
    """A JSON token as written."""


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` with a few bytes flipped, cut, doubled, moved or inserted."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 4, 16, 64))
        match rng.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = rng.randbytes(length)
            case 3:
                changed[at:at] = changed[at : at + length]
            case 4:
                start = rng.randrange(len(changed) + 1)
                changed[at : at + length] = changed[start : start + length]
            case _:
                value = rng.choice((0, 1, 0x7F, 0xFF, 0xFFFF, 0xFFFFFFFF, 2**63))
                changed[at : at + length] = value.to_bytes(8, rng.choice(("little", "big")))[:length]
    return bytes(changed)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Return the JSON document ``data`` with some of its parts changed; bytes that are no JSON are damaged as bytes."""
    tree = read_tree(data)
    if tree is None or rng.random() < 0.1:
        return mutate_bytes(data, rng)
    try:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            tree = mutate_tree(tree, rng)
        return write_tree(tree)
    except RecursionError:  # nested too deeply even for this; as bytes it can still be damaged
        return mutate_bytes(data, rng)


def read_tree(data: bytes) -> Any:
    """Return the JSON document as a tree, None where it is none."""
    try:
        return json.loads(data, object_pairs_hook=Pairs, parse_int=Literal, parse_float=Literal, parse_constant=Literal)
    except (ValueError, RecursionError):
        return None


def write_tree(tree: Any) -> bytes:
    """Return the tree as a JSON document; surrogates are written as escapes."""
    if isinstance(tree, Pairs):
        return b"{" + b",".join(json.dumps(key).encode() + b":" + write_tree(value) for key, value in tree) + b"}"
    if isinstance(tree, list):
        return b"[" + b",".join(map(write_tree, tree)) + b"]"
    return tree.encode() if isinstance(tree, Literal) else json.dumps(tree).encode()


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """Return the tree with one of its parts changed."""
    every = _containers(tree)
    if every and rng.random() < 0.1:
        grown, value = rng.choice(every), _anything("", rng)
        grown.append(("x-unknown", value) if isinstance(grown, Pairs) else value)
        return tree
    holders = [holder for holder in every if holder]
    if not holders or rng.random() < 0.02:
        return _anything(tree, rng)
    holder = rng.choice(holders)
    at = rng.randrange(len(holder))
    keyed = isinstance(holder, Pairs)
    key, value = holder[at] if keyed else ("", holder[at])
    match rng.randrange(8):
        case 0:
            del holder[at]
        case 1:
            holder.insert(rng.randrange(len(holder) + 1), _copied(holder[at]))  # twice
        case 2 if keyed:
            holder[at] = (str(rng.choice([v for v in INTERESTING if isinstance(v, str)])), value)
        case 3 if keyed:
            other = _copied(rng.choice(rng.choice(holders)))
            holder.insert(at, other if isinstance(other, tuple) else ("x-unknown", other))
        case 4:
            other = rng.choice(rng.choice(holders))
            _put(holder, at, key, other[1] if isinstance(other, tuple) else other)
        case _:
            _put(holder, at, key, _anything(value, rng))
    return tree


def _put(holder: list[Any], at: int, key: str, value: Any) -> None:
    # A copy, so that no part of the tree ever holds itself.
    holder[at] = (key, _copied(value)) if isinstance(holder, Pairs) else _copied(value)


def _copied(tree: Any) -> Any:
    if isinstance(tree, Pairs):
        return Pairs((key, _copied(value)) for key, value in tree)
    if isinstance(tree, tuple):
        return tree[0], _copied(tree[1])
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree


def _anything(value: Any, rng: random.Random) -> Any:
    match rng.randrange(7):
        case 0:
            return Literal(rng.choice(_NUMBERS))
        case 1:
            return Literal("[" * (depth := rng.choice((17, 100, 2000))) + "]" * depth)
        case 2 if isinstance(value, str) and not isinstance(value, Literal) and value:
            at = rng.randrange(len(value))
            return value[:at] + rng.choice(("", "/", "..", "\x00", "A", "é", "%2e", " ")) + value[at + 1 :]
        case 3 if isinstance(value, Literal) and value.removeprefix("-").isdigit():
            return Literal(int(value[:40]) + rng.choice((-1, 1, 10, -(2**53), 2**53)))
        case 4:
            return rng.choice((Pairs(), [], Pairs([("a", 1)]), [value] * 3))
        case _:
            return rng.choice(INTERESTING)


def _containers(tree: Any) -> list[list[Any]]:
    found: list[list[Any]] = []
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            found.append(part)
            waiting += [value for _, value in part] if isinstance(part, Pairs) else part
    return found
