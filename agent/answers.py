"""What an HTTP answer says of itself: a blob's length and place, a page for people, a compression nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from bundles.errors import TryAgain


@dataclass(frozen=True)
class BlobAnswer:
    """A server's answer to a request for a blob.

    Attributes:
        status: HTTP status: 200 whole, 206 from the offset asked for.
        chunks: the body as it arrives, at most 64 KiB a piece.
        length: bytes announced for this body, None if not said.
        offset: first byte of a 206, None if not said.
        retry_after_s: what the server asked for, None if nothing.
        is_page: it calls itself a page for people.
        location: where the server says the blob is to be had; empty = here.
    """

    status: int
    chunks: Iterator[bytes]
    length: int | None
    offset: int | None
    retry_after_s: int | None
    is_page: bool = False
    location: str = ""


def blob_answer(answer: httpx.Response, pieces: Iterator[bytes]) -> BlobAnswer:
    """Return what a response's head says of a blob.

    Args:
        answer: the response, not read yet.
        pieces: reads it.
    """
    headers = answer.headers
    return BlobAnswer(
        status=answer.status_code,
        chunks=pieces,
        length=number(headers.get("Content-Length", "")),
        offset=number(headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]),
        retry_after_s=number(headers.get("Retry-After", "")),
        is_page=is_page(answer),
        location=headers.get("Location", ""),
    )


def is_page(answer: httpx.Response) -> bool:
    """Whether an answer calls itself a page for people: nothing that a server of ours says to a device is one."""
    return str(answer.headers.get("Content-Type", "")).startswith("text/html")


def check_no_page(answer: httpx.Response) -> None:
    """Check that it was the server who answered, and not a sign-in page.

    Raises:
        TryAgain: ``CAPTIVE_PORTAL``.
    """
    if is_page(answer):
        raise TryAgain(
            "Something else than the server answered (a sign-in page?).",
            code="CAPTIVE_PORTAL",
            remedy="Check the network's sign-in page or proxy.",
        )


def check_plain(answer: httpx.Response) -> None:
    """Check that an answer is not compressed: nobody asked for that, and it may swell without bound.

    Raises:
        TryAgain: ``ANSWER_COMPRESSED``.
    """
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise TryAgain(
            "The server's answer is compressed, which was not asked for.",
            code="ANSWER_COMPRESSED",
            remedy="Check who answers at the server's address; switch compression off in a proxy before it.",
        )


def number(text: str) -> int | None:
    """Return a header's number, None where it is none that makes sense."""
    return int(text) if text.isdecimal() and len(text) < 16 else None
