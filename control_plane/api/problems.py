"""Errors as RFC 9457 problem+json, in one place: every status, 404, 405 and 422 included, has a code and a remedy.

``type`` is a relative URI naming the code, ``title`` the kind, ``detail`` the sentence for people.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from bundles.errors import AskPerson, Refused, TryAgain, WavegateError
from control_plane import errors as e

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
_STATUS: dict[type[WavegateError], int] = {
    e.Unauthenticated: 401,
    e.NotAllowed: 403,
    e.NotFound: 404,
    e.Conflict: 409,
    e.PreconditionFailed: 412,
    e.TooLarge: 413,
    e.PreconditionMissing: 428,
    Refused: 422,
    TryAgain: 503,
    AskPerson: 503,
    WavegateError: 500,
}
_HTTP: dict[int, tuple[str, str]] = {
    400: ("REQUEST_MALFORMED", "Check the request against /openapi.json."),
    404: ("PATH_UNKNOWN", "See /openapi.json for the paths this server answers."),
    405: ("METHOD_NOT_ALLOWED", "See /openapi.json for the methods of this path."),
    415: ("MEDIA_TYPE", "Send the media type named in /openapi.json."),
}


@dataclass(frozen=True)
class Problem:
    """The body of every error answer.

    Attributes:
        type: ``/problems/<CODE>``.
        title: the HTTP status in words.
        status: HTTP status.
        detail: one sentence.
        code: stable identifier; programs may match on it.
        remedy: what the reader can do.
        details: plain values that explain the case.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    remedy: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def status_of(error: WavegateError) -> int:
    """Return the HTTP status of ``error``: that of its nearest named ancestor."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def answer(error: WavegateError, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer that tells ``error``."""
    status = status_of(error)
    extra = dict(headers or {})
    if status == 503:
        extra["Retry-After"] = str(RETRY_AFTER_S)
    if status == 401:
        extra.setdefault("WWW-Authenticate", "Bearer")
    return _response(status, error.code, error.sentence, error.remedy, error.details, extra)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's ``responses`` argument documenting problems of ``statuses``."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    """Map every error of ``app`` to a problem."""
    app.add_exception_handler(WavegateError, _wavegate)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(OperationalError, _operational)
    app.add_exception_handler(OSError, _os_error)
    app.add_exception_handler(Exception, _unexpected)


def _wavegate(_request: Request, error: Exception) -> Response:
    assert isinstance(error, WavegateError)
    return answer(error)


def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, remedy = _HTTP.get(error.status_code, (f"HTTP_{error.status_code}", ""))
    phrase = HTTPStatus(error.status_code).phrase
    detail = error.detail if error.detail and error.detail != phrase else f"{phrase}."
    return _response(error.status_code, code, detail, remedy, {}, dict(error.headers or {}))


def _validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Only where and what: the rejected value is not sent back, it may be a secret typed into the wrong field.
    places = [{"at": ".".join(map(str, item["loc"])), "problem": item["msg"]} for item in error.errors()]
    first = places[0] if places else {"at": "request", "problem": "is not valid"}
    sentence = f"{first['at']}: {first['problem']}."
    return _response(422, "REQUEST_INVALID", sentence, _HTTP[400][1], {"places": places}, {})


def _operational(_request: Request, error: Exception) -> Response:
    structlog.get_logger(__name__).warning("database did not answer", error=str(error))
    if "disk is full" in str(error):
        return _os_error(_request, OSError(errno.ENOSPC, "full"))
    return answer(e.DatabaseBusy("The database did not answer in time.", remedy="Try again in a moment."))


def _os_error(_request: Request, error: Exception) -> Response:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _response(
            507, "DISK_FULL", "The server's disk is full; nothing was changed.", "Free space on the server.", {}, {}
        )
    return _unexpected(_request, error)


def _unexpected(request: Request, error: Exception) -> Response:
    structlog.get_logger(__name__).error("unexpected error", path=request.url.path, exc_info=error)
    return _response(500, "INTERNAL", "The server met an unexpected error.", "See the server's log.", {}, {})


def _response(
    status: int, code: str, sentence: str, remedy: str, details: dict[str, Any], headers: dict[str, str]
) -> Response:
    problem = Problem(
        type=f"/problems/{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=sentence,
        code=code,
        remedy=remedy,
        details=details,
    )
    body = msgspec.json.encode(problem, enc_hook=str)
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)
