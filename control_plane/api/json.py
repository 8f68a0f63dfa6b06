"""Answers and pages: dataclasses straight to JSON bytes (msgspec), and the keyset cursor of every list.

Handlers declare ``response_model`` for the OpenAPI document and return ``answer(...)``: encoding a page this way is
several times cheaper than validating it again on the way out.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Path, Query, Response

from control_plane.errors import NotFound

MAX_PAGE = 500
T = TypeVar("T")

Word = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]
Name = Annotated[str, Path(max_length=200, pattern=r"^[A-Za-z0-9._@:-]+$")]
RowId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most items to return.")]
Cursor = Annotated[str, Query(max_length=512, description="`next` of the page before; empty for the first page.")]


def answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return ``value`` (dataclasses, structs, plain values) as JSON."""
    return Response(
        msgspec.json.encode(value), status_code=status, media_type="application/json", headers=dict(headers or {})
    )


def is_storable(value: object) -> bool:
    """Whether both databases can compare with ``value``: 64-bit integers, and text without NUL."""
    return -(2**63) <= value < 2**63 if isinstance(value, int) else "\0" not in str(value)


def make_cursor(key: tuple[str | int, ...] | str | int | None) -> str:
    """Return the opaque cursor for the keyset position ``key``; empty where there is no next page."""
    return "" if key is None else base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def read_cursor(cursor: str, form: type[T]) -> T | None:
    """Return the keyset position in ``cursor``; None for the first page.

    Raises:
        NotFound: ``CURSOR_INVALID``: no page is there.
    """
    if not cursor:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key = msgspec.json.decode(raw, type=form)
        if any(not is_storable(part) for part in (key if isinstance(key, tuple) else (key,))):
            raise ValueError("out of bounds")
        return key
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise NotFound(
            "The cursor was not made by this list.", code="CURSOR_INVALID", remedy="Start again without a cursor."
        ) from error
