"""Who is calling: the bearer token of a request, as a ``Principal`` with at least the role a handler asks for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from control_plane.api.deps import DepsNow
from control_plane.auth import Principal, Role
from control_plane.errors import Unauthenticated
from control_plane.services import tokens

BEARER = HTTPBearer(auto_error=False, scheme_name="operatorToken", description="A token of `wavegate token create`.")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]


def principal(deps: DepsNow, credentials: _Credentials) -> Principal:
    """Return who calls.

    Raises:
        Unauthenticated: ``TOKEN_MISSING``, or as ``services.tokens.authenticate``.
    """
    if credentials is None or not credentials.credentials.isascii():
        raise Unauthenticated(
            "The request carries no operator token.",
            code="TOKEN_MISSING",
            remedy="Send `Authorization: Bearer TOKEN`; `wavegate profile set` keeps one for the command line.",
        )
    with deps.db.read() as session:
        return tokens.authenticate(session, credentials.credentials, deps.clock.now_ms())


_Caller = Annotated[Principal, Depends(principal)]


def _viewer(caller: _Caller) -> Principal:
    caller.require(Role.VIEWER)
    return caller


def _operator(caller: _Caller) -> Principal:
    caller.require(Role.OPERATOR)
    return caller


def _approver(caller: _Caller) -> Principal:
    caller.require(Role.APPROVER)
    return caller


def _admin(caller: _Caller) -> Principal:
    caller.require(Role.ADMIN)
    return caller


Viewer = Annotated[Principal, Depends(_viewer)]
Operator = Annotated[Principal, Depends(_operator)]
Approver = Annotated[Principal, Depends(_approver)]
Admin = Annotated[Principal, Depends(_admin)]
