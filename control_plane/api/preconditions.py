"""Which version a request means: ETags of rollouts, and If-Match on every verb that changes one.

An ETag is ``"version.revision"``: the whole changes with every report, so that a cached page is never stale; only the
version, which rises when a person's picture of the rollout changes, is compared by If-Match.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header

from control_plane.db.queries.rollouts import RolloutView
from control_plane.errors import PreconditionFailed, PreconditionMissing

IfMatch = Annotated[
    str, Header(alias="If-Match", max_length=200, description="The rollout's ETag, or `*` for whatever it is.")
]
_ETAG = re.compile(r'(?:W/)?"(\d{1,18})(?:\.\d{1,18})?"\Z')


def etag(view: RolloutView) -> str:
    """Return the ETag of a rollout."""
    return f'"{view.version}.{view.revision}"'


def expected_version(if_match: str) -> int | None:
    """Return the version that If-Match names; None for ``*``.

    Raises:
        PreconditionMissing: ``IF_MATCH_MISSING``.
        PreconditionFailed: ``IF_MATCH_INVALID``.
    """
    if not if_match:
        raise PreconditionMissing(
            "This changes a rollout and must say which version it means.",
            code="IF_MATCH_MISSING",
            remedy="Send If-Match with the ETag of GET /api/v1/rollouts/{id}, or * for whatever it is.",
        )
    if if_match == "*":
        return None
    match = _ETAG.match(if_match)
    if match is None:
        raise PreconditionFailed(
            "If-Match names no version of this rollout.",
            code="IF_MATCH_INVALID",
            remedy="Send the ETag of GET /api/v1/rollouts/{id} as it came.",
        )
    return int(match[1])
