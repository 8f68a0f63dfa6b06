"""``wavegate-agent``: what a person types on a device. Starts fast: a command's module is imported when it runs.

Data goes to stdout, everything else to stderr. Exit codes: 0 ok · 1 error · 2 usage · 3 not found · 4 not allowed ·
5 conflict or precondition · 6 verification failed · 8 timeout · 130 interrupted.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from agent.cli.parser import build_parser
from agent.cli.words import tell
from bundles.errors import TrustRefused, WavegateError

OK, ERROR, USAGE, NOT_FOUND, NOT_ALLOWED, CONFLICT, UNVERIFIED, TIMEOUT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 8, 130
_EXIT_CODES = {
    "USAGE": USAGE,
    "MODEL_UNKNOWN": NOT_FOUND,
    "NOT_FOUND": NOT_FOUND,
    "NOT_ENROLLED": CONFLICT,
    "AGENT_RUNNING": CONFLICT,
    "NO_PREVIOUS": CONFLICT,
    "NOTHING_TO_RETRY": CONFLICT,
    "LOCK_FORBIDDEN": NOT_ALLOWED,
    "CONFLICT": CONFLICT,
    "DEVICE_FORBIDDEN": NOT_ALLOWED,
    "DEVICE_UNAUTHORIZED": NOT_ALLOWED,
    "RUN_DEADLINE": TIMEOUT,
}
_STATUS_EXIT_CODES = {401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: NOT_FOUND, 409: CONFLICT}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = build_parser().parse_args(arguments)
    module, _, function = options.target.partition(":")
    try:
        return int(getattr(importlib.import_module(module), function)(options))
    except WavegateError as error:
        tell(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return OK


def exit_code(error: WavegateError) -> int:
    """Return the exit code of an error."""
    if isinstance(error, TrustRefused):
        return UNVERIFIED
    status = error.details.get("status")
    return _EXIT_CODES.get(error.code) or (_STATUS_EXIT_CODES.get(status, ERROR) if isinstance(status, int) else ERROR)
