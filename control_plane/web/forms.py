"""Forms people send: read with a limit, and only from our own pages.

A cookie is sent by the browser whoever made the form. ``SameSite=Strict`` keeps other sites' forms without it; the
check of ``Origin`` here also stops other origins of the same site (another port of this machine, a sibling name).
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request

from control_plane.errors import NotAllowed, RequestRefused, TooLarge

MAX_BYTES = 16 * 1024
MAX_FIELDS = 20
_TYPE = "application/x-www-form-urlencoded"


def is_own(request: Request) -> bool:
    """Whether a page of this very origin sent ``request``. Browsers say so with every POST."""
    origin = request.headers.get("origin", "")
    # The host alone: behind a proxy that ends TLS the scheme seen here is not the one the browser used.
    return bool(origin) and urlsplit(origin).netloc == request.headers.get("host", "")


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form, the last of each name.

    Raises:
        NotAllowed: ``ORIGIN``: another site sent it.
        RequestRefused: ``FORM``: it is no form.
        TooLarge: ``FORM_TOO_LARGE``.
    """
    if not is_own(request):
        raise NotAllowed(
            "The form was not sent by a page of this server.",
            code="ORIGIN",
            remedy="Open the page here and send it again.",
        )
    if not request.headers.get("content-type", "").startswith(_TYPE):
        raise _no_form()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise TooLarge("The form is too large.", code="FORM_TOO_LARGE", remedy="Shorten what you wrote.")
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise _no_form() from error
    if not all(value.isprintable() for _, value in fields):
        raise _no_form()
    return {name: value.strip() for name, value in fields}


Form = Annotated[dict[str, str], Depends(read_form)]


def _no_form() -> RequestRefused:
    return RequestRefused("This is not a form.", code="FORM", remedy="Use the form on the page.")
