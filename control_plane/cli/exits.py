"""Exit codes, and which error leaves with which."""

from __future__ import annotations

from bundles.errors import BundleRefused, TrustRefused, WavegateError
from control_plane.errors import (
    Conflict,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    PreconditionMissing,
    Unauthenticated,
)

OK, ERROR, USAGE, NOT_FOUND, NOT_ALLOWED, CONFLICT, VERIFICATION, STOPPED, TIMEOUT, INTERRUPTED = (
    *range(9),
    130,
)
"""``STOPPED``: a rollout that was waited for is halted or rolled back."""

_BY_KIND: tuple[tuple[type[WavegateError], int], ...] = (
    (NotFound, NOT_FOUND),
    (Unauthenticated, NOT_ALLOWED),
    (NotAllowed, NOT_ALLOWED),
    (Conflict, CONFLICT),
    (PreconditionFailed, CONFLICT),
    (PreconditionMissing, CONFLICT),
    (BundleRefused, VERIFICATION),
    (TrustRefused, VERIFICATION),
)


class TimedOut(WavegateError):
    """What was waited for did not happen in time."""

    default_code = "TIMEOUT"


def exit_code(error: WavegateError) -> int:
    """Return the exit code that tells ``error``."""
    if isinstance(error, TimedOut):
        return TIMEOUT
    return next((code for kind, code in _BY_KIND if isinstance(error, kind)), ERROR)
