"""Where words go: data to stdout, everything else to stderr."""

from __future__ import annotations

import sys


def say(text: object) -> None:
    """Write data, one line."""
    sys.stdout.write(f"{text}\n")


def tell(text: object) -> None:
    """Write chatter, one line."""
    sys.stderr.write(f"{text}\n")
