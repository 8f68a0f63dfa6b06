"""``/api/v1/tokens``: operator tokens, for administrators; and who the caller is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from control_plane.api.deps import DepsNow
from control_plane.api.json import Name, answer
from control_plane.api.operators.rollouts import TEXT
from control_plane.api.problems import responses
from control_plane.api.security import Admin, Viewer
from control_plane.auth import Role
from control_plane.services import tokens

router = APIRouter(tags=["tokens"])


class CreateToken(BaseModel):
    """A token for somebody."""

    model_config = ConfigDict(extra="forbid")

    principal: str = Field(min_length=1, max_length=100, pattern=TEXT)
    role: Literal["viewer", "operator", "approver", "admin"]
    teams: list[str] = Field(default=["*"], min_length=1, max_length=100)
    life_s: int = Field(default=90 * 24 * 3600, ge=1, le=tokens.MAX_LIFE_S)


@dataclass(frozen=True)
class TokenList:
    """Every token, newest first."""

    items: list[tokens.TokenView]


@dataclass(frozen=True)
class Me:
    """Who the caller is."""

    principal: str
    role: str
    teams: list[str]


@router.get("/me", response_model=Me)
def me(caller: Viewer) -> Response:
    """Say who the token belongs to."""
    return answer(Me(caller.name, caller.role.label, list(caller.teams)))


@router.get("/tokens", response_model=TokenList)
def list_all(deps: DepsNow, caller: Admin) -> Response:
    """List tokens, without their secrets."""
    with deps.db.read() as session:
        return answer(TokenList(tokens.list_tokens(session)))


@router.post("/tokens", status_code=201, response_model=tokens.NewToken)
def create(deps: DepsNow, caller: Admin, body: CreateToken) -> Response:
    """Make a token. It is shown once; the database keeps its hash."""
    with deps.db.write() as session:
        made = tokens.create(
            session,
            principal=body.principal,
            role=Role.of(body.role),
            teams=body.teams,
            life_s=body.life_s,
            actor=caller.name,
            now_ms=deps.clock.now_ms(),
            random_bytes=deps.random_bytes,
        )
    return answer(made, status=201)


@router.post("/tokens/{token}/revoke", response_model=tokens.TokenView, responses=responses(404))
def revoke(deps: DepsNow, caller: Admin, token: Name) -> Response:
    """Revoke a token at once."""
    with deps.db.write() as session:
        return answer(tokens.revoke(session, token, actor=caller.name, now_ms=deps.clock.now_ms()))
