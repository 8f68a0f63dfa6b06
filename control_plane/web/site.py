"""What every handler of the pages shares: the parts handed in, the renderer, and who is asking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fastapi import Request
from sqlmodel import Session

from control_plane.auth import Principal, Role
from control_plane.db.engine import Database
from control_plane.errors import Unauthenticated
from control_plane.services import tokens
from control_plane.services.changes import Change
from control_plane.services.trust_view import TrustView
from control_plane.web.render import Renderer

COOKIE = "wavegate_session"


@dataclass(frozen=True)
class WebParts:
    """What the composition root hands the pages.

    Attributes:
        db: the database.
        now_ms: the server's clock, UTC epoch milliseconds.
        listen: yields changes from now on, None while nothing changes, until it is cancelled (``Fanout.listen``).
        trust: returns what the trust metadata says now.
    """

    db: Database
    now_ms: Callable[[], int]
    listen: Callable[[], AsyncIterator[Change | None]]
    trust: Callable[[], TrustView]


@dataclass(frozen=True)
class Site:
    """The parts and the renderer."""

    parts: WebParts
    renderer: Renderer

    def caller(self, session: Session, request: Request) -> Principal:
        """Return who is signed in; the token in the cookie is checked on every request, as the API checks its own.

        Raises:
            Unauthenticated: ``SESSION_MISSING``, or as ``services.tokens.authenticate``.
        """
        token = request.cookies.get(COOKIE, "")
        if not token or not token.isascii():
            raise Unauthenticated("Nobody is signed in.", code="SESSION_MISSING", remedy="Sign in with a token.")
        principal = tokens.authenticate(session, token, self.parts.now_ms())
        principal.require(Role.VIEWER)
        return principal
