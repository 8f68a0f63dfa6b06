"""Whether a long word looks drawn at random, as keys and tokens do, or is one that people or hashes made. Pure.

In base64 two neighbours are of different kinds (small, capital, digit) with a probability of
1 - (26² + 26² + 10²) / 62² = 0.62; in a word of 36 signs, with 0.40; in paths, names and camel case with less than 0.2.
Digests are kept, by their exact lengths: without them a diagnosis says nothing. A key written in hexadecimal is
therefore found by its name or by its value only.
"""

from __future__ import annotations

import re
from itertools import pairwise

_DIGEST = re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})\Z")
_UUID = re.compile(r"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_PARTS = re.compile(r"[/_+=-]+")
LONG_PART = 20
CHANGES_IN_LETTERS = 0.4
"""Of a part without digits: camel case of short words has about as many."""
CHANGES_IN_LONG = 0.24
CHANGES = 0.4
"""Of a word of several short parts, such as a path with versions in it."""


def is_random(word: str) -> bool:
    """Return whether ``word`` looks drawn at random.

    Args:
        word: of letters, digits, ``+ / _ - =``; 32 of them or more for the answer to mean anything.
    """
    if _UUID.match(word):
        return False
    parts = [part for part in _PARTS.split(word) if part and not part.isdecimal() and not _DIGEST.match(part)]
    if not parts:
        return False
    longest = max(parts, key=len)
    if len(longest) >= LONG_PART:
        most = CHANGES_IN_LETTERS if longest.isalpha() else CHANGES_IN_LONG
        is_base32 = longest.isupper() and sum(map(str.isdigit, longest)) > 1
        if is_base32 or _changes(longest) / (len(longest) - 1) >= most:
            return True
    pairs = sum(len(part) - 1 for part in parts)
    return pairs >= LONG_PART and sum(map(_changes, parts)) / pairs >= CHANGES


def _changes(part: str) -> int:
    kinds = [_kind(sign) for sign in part]
    return sum(one != other for one, other in pairwise(kinds))


def _kind(sign: str) -> int:
    return 0 if sign.islower() else 1 if sign.isupper() else 2
