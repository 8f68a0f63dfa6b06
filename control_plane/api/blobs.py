"""``GET /v1/blobs/sha256/{digest}``: a blob or its rest, from here or, where it lies in an object store, from there.

A device that says it follows redirects (``WG-Redirect``) gets a 307 to a URL that the store signed, valid for a few
minutes: its bytes then do not pass through this process. Every other one, and every store that cannot sign, is answered
with the bytes. A device that cannot reach the store asks again without the header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from control_plane.storage import Blobs

REDIRECT_HEADER = "WG-Redirect"
SIGNED_S = 900
"""Life of a signed URL: it is checked when a request begins, so this bounds a device's wait, not its download."""
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{1,15})?\Z")


def add_blob_route(router: APIRouter, blobs: Blobs, authenticate: Callable[[Request], object]) -> None:
    """Add the route to ``router``.

    Args:
        router: of the devices' doors.
        blobs: content-addressed files.
        authenticate: checks a request's proof; raises where it has none.
    """

    @router.get("/v1/blobs/sha256/{digest}")
    def get_blob(digest: str, request: Request) -> Response:
        """Return a blob, or the part named by ``Range``; or say where it can be had."""
        authenticate(request)
        total = blobs.length(digest)
        if request.headers.get(REDIRECT_HEADER) and (url := blobs.signed_url(digest, SIGNED_S)) is not None:
            return Response(status_code=307, headers={"Location": url, "Cache-Control": "no-store"})
        return _answer(blobs, digest, total, request)


def _answer(blobs: Blobs, digest: str, total: int, request: Request) -> Response:
    etag = f'"{digest}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes"}
    start, end, status = 0, total, 200
    asked = request.headers.get("Range")
    if asked and request.headers.get("If-Range", etag) == etag:
        match = _RANGE.match(asked)
        if match is None or int(match[1]) >= total:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{total}"})
        start = int(match[1])
        end = min(total, int(match[2]) + 1) if match[2] else total
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
    headers["Content-Length"] = str(end - start)
    chunks: Iterator[bytes] = blobs.open(digest, start, end - start)
    return StreamingResponse(chunks, status_code=status, media_type="application/octet-stream", headers=headers)
