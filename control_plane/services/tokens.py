"""Operator tokens: made once and shown once, listed without their secret, revoked at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from sqlmodel import Session, col, select

from control_plane.auth import ALL_TEAMS, Principal, Role, new_token, token_hash
from control_plane.db.tables import OperatorToken
from control_plane.errors import NotFound, RequestRefused, Unauthenticated
from control_plane.services import audit

MAX_LIFE_S = 366 * 24 * 3600


@dataclass(frozen=True)
class TokenView:
    """A token without its secret."""

    id: str
    principal: str
    role: str
    teams: tuple[str, ...]
    created_ms: int
    expires_ms: int
    revoked_ms: int | None


@dataclass(frozen=True)
class NewToken:
    """A token as it is shown once."""

    token: str
    view: TokenView


def create(
    session: Session,
    *,
    principal: str,
    role: Role,
    teams: Sequence[str] = (ALL_TEAMS,),
    life_s: int,
    actor: str,
    now_ms: int,
    random_bytes: Callable[[int], bytes],
) -> NewToken:
    """Make a token for ``principal``.

    Raises:
        RequestRefused: ``TOKEN_LIFE`` where ``life_s`` is not within a year, ``TOKEN_PRINCIPAL`` where nobody is named.
    """
    if not 0 < life_s <= MAX_LIFE_S:
        raise RequestRefused(
            f"A token lives for 1 to {MAX_LIFE_S} seconds.", code="TOKEN_LIFE", remedy="Ask for a shorter life."
        )
    if not principal.strip() or not teams:
        raise RequestRefused(
            "A token names a principal and at least one team.", code="TOKEN_PRINCIPAL", remedy="Name who will use it."
        )
    secret = new_token(random_bytes)
    row = OperatorToken(
        id=random_bytes(8).hex(),
        token_sha256=token_hash(secret),
        principal=principal,
        role=role.label,
        teams_json=msgspec.json.encode(sorted(set(teams))).decode(),
        created_ms=now_ms,
        expires_ms=now_ms + life_s * 1000,
    )
    session.add(row)
    body = {"principal": principal, "role": role.label, "expires_ms": row.expires_ms}
    audit.record(session, "audit", actor, "token.create", f"token:{row.id}", body, now_ms)
    return NewToken(token=secret, view=_view(row))


def authenticate(session: Session, token: str, now_ms: int) -> Principal:
    """Return who comes with ``token``.

    Raises:
        Unauthenticated: ``TOKEN_UNKNOWN``, ``TOKEN_EXPIRED`` or ``TOKEN_REVOKED``.
    """
    row = session.exec(select(OperatorToken).where(OperatorToken.token_sha256 == token_hash(token))).first()
    remedy = "Ask an administrator for a new token, or make one on the server with `wavegate server create-admin`."
    if row is None:
        raise Unauthenticated("The token is not known.", code="TOKEN_UNKNOWN", remedy=remedy)
    if row.revoked_ms is not None:
        raise Unauthenticated("The token was revoked.", code="TOKEN_REVOKED", remedy=remedy)
    if row.expires_ms <= now_ms:
        raise Unauthenticated("The token has expired.", code="TOKEN_EXPIRED", remedy=remedy)
    view = _view(row)
    return Principal(name=view.principal, role=Role.of(view.role), teams=view.teams, token_id=view.id)


def list_tokens(session: Session) -> list[TokenView]:
    """Return every token, newest first."""
    statement = select(OperatorToken).order_by(col(OperatorToken.created_ms).desc(), col(OperatorToken.id))
    return [_view(row) for row in session.exec(statement)]


def revoke(session: Session, token_id: str, *, actor: str, now_ms: int) -> TokenView:
    """Revoke a token; revoking it again changes nothing.

    Raises:
        NotFound: ``TOKEN_UNKNOWN``.
    """
    row = session.get(OperatorToken, token_id, with_for_update=True)
    if row is None:
        raise NotFound(f"No token has the id {token_id!r}.", code="TOKEN_UNKNOWN", remedy="See `wavegate token list`.")
    if row.revoked_ms is None:
        row.revoked_ms = now_ms
        session.add(row)
        audit.record(session, "audit", actor, "token.revoke", f"token:{row.id}", {"principal": row.principal}, now_ms)
    return _view(row)


def _view(row: OperatorToken) -> TokenView:
    return TokenView(
        id=row.id,
        principal=row.principal,
        role=row.role,
        teams=tuple(msgspec.json.decode(row.teams_json, type=list[str])),
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        revoked_ms=row.revoked_ms,
    )
