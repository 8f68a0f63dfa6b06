"""Request bodies that are files, within limits: a bundle goes to disk chunk by chunk, a small one into memory."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from control_plane.api.deps import DepsNow
from control_plane.errors import TooLarge

MEDIA_TYPE = "application/octet-stream"
MAX_SMALL_BYTES = 16 * 1024**2


async def spooled(request: Request, deps: DepsNow) -> AsyncIterator[Path]:
    """Yield the file that holds the request's body; it is gone when the answer is.

    Raises:
        TooLarge: ``BODY_TOO_LARGE``.
        HTTPException: 415 for another media type.
    """
    remedy = "Raise max_publish_bytes of the server, or make the bundle smaller."
    with tempfile.NamedTemporaryFile(dir=deps.settings.scratch, prefix="upload-", suffix=".wgb") as scratch:
        async for chunk in _chunks(request, "bundle", deps.settings.max_publish_bytes, remedy):
            scratch.write(chunk)
        scratch.flush()
        yield Path(scratch.name)


async def small(request: Request) -> bytes:
    """Return the request's body.

    Raises:
        TooLarge: ``BODY_TOO_LARGE``.
        HTTPException: 415 for another media type.
    """
    chunks = [chunk async for chunk in _chunks(request, "file", MAX_SMALL_BYTES, "Send it in several parts.")]
    return b"".join(chunks)


async def _chunks(request: Request, what: str, limit: int, remedy: str) -> AsyncIterator[bytes]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise HTTPException(415, f"The body must be {MEDIA_TYPE}.")
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > limit:
            raise TooLarge(f"The {what} is larger than {limit} bytes.", code="BODY_TOO_LARGE", remedy=remedy)
        yield chunk


Upload = Annotated[Path, Depends(spooled)]
SmallFile = Annotated[bytes, Depends(small)]
BODY = {"requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}}
