"""What a fuzz target is, and what counts as a finding.

A target takes bytes from a stranger and hands them to the product. Refusing them with our family of errors is right.
Everything else is a finding: another exception, a hang, too much memory, or accepting what must not be accepted
(``WrongAcceptance``), such as content that is not the same after being written and read again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bundles.errors import Refused

ROOT = Path(__file__).resolve().parents[2]
RELEASED = ROOT / "tests" / "compat"
"""What released versions wrote: real honest samples."""

T = TypeVar("T")


class WrongAcceptance(AssertionError):
    """The product took what it must refuse, or changed what it read."""


@dataclass(frozen=True)
class Target:
    """Something of the product that reads what strangers write.

    Attributes:
        name: as named on the command line.
        modules: dotted names of the modules it is meant to exercise; their lines are counted.
        samples: returns honest inputs by name, to start from.
        try_one: hands one input to the product; whatever it raises is a finding.
        mutate: returns a damaged or forged copy of an input, keeping enough of its form to get past the first check.
    """

    name: str
    modules: tuple[str, ...]
    samples: Callable[[], Mapping[str, bytes]]
    try_one: Callable[[bytes], None]
    mutate: Callable[[bytes, random.Random], bytes]


def unless_refused(read: Callable[[], T]) -> T | None:
    """Return what ``read`` returns, or None where it refuses its input; every other exception is a finding."""
    try:
        return read()
    except Refused as refusal:
        require(bool(refusal.code and refusal.sentence), "a refusal without a code or a sentence")
        str(refusal).encode()  # what is shown to people must be text
        return None


def require(holds: bool, what: str) -> None:
    """Check a promise of the product.

    Raises:
        WrongAcceptance: it is broken.
    """
    if not holds:
        raise WrongAcceptance(what)


def released(pattern: str) -> dict[str, bytes]:
    """Return the released samples whose path below a version's folder matches ``pattern``, by that path."""
    return {path.relative_to(RELEASED).as_posix(): path.read_bytes() for path in sorted(RELEASED.glob(f"*/{pattern}"))}
