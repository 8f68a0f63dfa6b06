"""Operator tokens: only their hash is kept; they end by time and by revocation."""

from __future__ import annotations

import os

import pytest
from sqlmodel import select

from control_plane.auth import Principal, Role
from control_plane.db.tables import OperatorToken
from control_plane.errors import NotFound, RequestRefused, Unauthenticated
from control_plane.services import tokens

NOW = 1_700_000_000_000


def _make(database, **more):
    given = {"principal": "ada", "role": Role.OPERATOR, "teams": ("vision",), "life_s": 60, **more}
    with database.write() as session:
        return tokens.create(session, actor="root", now_ms=NOW, random_bytes=os.urandom, **given)


def test_whoever_comes_with_the_token_is_its_principal(database):
    made = _make(database)
    with database.read() as session:
        assert tokens.authenticate(session, made.token, NOW + 59_999) == Principal(
            name="ada", role=Role.OPERATOR, teams=("vision",), token_id=made.view.id
        )


def test_the_secret_is_nowhere_in_the_database(database):
    made = _make(database)
    with database.read() as session:
        row = session.exec(select(OperatorToken)).one()
    assert made.token not in repr(row.model_dump())


def test_an_unknown_an_expired_and_a_revoked_token_are_told_apart(database):
    made = _make(database)
    with database.read() as session:
        with pytest.raises(Unauthenticated) as unknown:
            tokens.authenticate(session, made.token + "x", NOW)
        with pytest.raises(Unauthenticated) as expired:
            tokens.authenticate(session, made.token, NOW + 60_000)
    with database.write() as session:
        first = tokens.revoke(session, made.view.id, actor="root", now_ms=NOW + 1)
    with database.write() as session:
        assert tokens.revoke(session, made.view.id, actor="root", now_ms=NOW + 2) == first
    with database.read() as session, pytest.raises(Unauthenticated) as revoked:
        tokens.authenticate(session, made.token, NOW + 3)
    assert [error.value.code for error in (unknown, expired, revoked)] == [
        "TOKEN_UNKNOWN",
        "TOKEN_EXPIRED",
        "TOKEN_REVOKED",
    ]


@pytest.mark.parametrize(
    ("more", "code"),
    [({"life_s": 0}, "TOKEN_LIFE"), ({"life_s": 10**9}, "TOKEN_LIFE"), ({"principal": " "}, "TOKEN_PRINCIPAL"),
     ({"teams": ()}, "TOKEN_PRINCIPAL")],
)  # fmt: skip
def test_a_token_without_an_end_or_an_owner_is_refused(database, more, code):
    with pytest.raises(RequestRefused) as caught:
        _make(database, **more)
    assert caught.value.code == code


def test_revoking_what_never_was_is_an_error(database):
    with database.write() as session, pytest.raises(NotFound):
        tokens.revoke(session, "nope", actor="root", now_ms=NOW)
