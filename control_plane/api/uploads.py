"""A large request body on its way to disk, chunk by chunk, within the limit."""

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


async def spooled(request: Request, deps: DepsNow) -> AsyncIterator[Path]:
    """Yield the file that holds the request's body; it is gone when the answer is.

    Raises:
        TooLarge: ``BODY_TOO_LARGE``.
        HTTPException: 415 for another media type.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise HTTPException(415, f"The body must be {MEDIA_TYPE}.")
    limit, length = deps.settings.max_publish_bytes, 0
    with tempfile.NamedTemporaryFile(dir=deps.settings.scratch, prefix="upload-", suffix=".wgb") as scratch:
        async for chunk in request.stream():
            length += len(chunk)
            if length > limit:
                raise TooLarge(
                    f"The bundle is larger than {limit} bytes.",
                    code="BODY_TOO_LARGE",
                    remedy="Raise max_publish_bytes of the server, or make the bundle smaller.",
                )
            scratch.write(chunk)
        scratch.flush()
        yield Path(scratch.name)


Upload = Annotated[Path, Depends(spooled)]
BODY = {"requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}}
