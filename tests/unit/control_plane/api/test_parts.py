"""Cursors, ETags, roles and problems: the small rules every handler leans on."""

from __future__ import annotations

import pytest

from bundles.errors import AskPerson, BundleRefused, TrustRefused, TryAgain, WavegateError
from control_plane import errors as e
from control_plane.api.json import make_cursor, read_cursor
from control_plane.api.preconditions import expected_version
from control_plane.api.problems import status_of
from control_plane.auth import Principal, Role, new_token, token_hash


@pytest.mark.parametrize(("key", "form"), [((5, "ä/b"), tuple[int, str]), (7, int), ("cam-1", str)])
def test_a_cursor_comes_back_as_it_went(key, form):
    assert read_cursor(make_cursor(key), form) == key


def test_no_next_page_is_an_empty_cursor():
    assert make_cursor(None) == ""
    assert read_cursor("", int) is None


@pytest.mark.parametrize(
    ("cursor", "form"),
    [
        ("%%%", int),
        ("é", int),
        (make_cursor("text"), int),
        (make_cursor(2**70), int),
        (make_cursor((2**64, "x")), tuple[int, str]),
        (make_cursor("nul\0"), str),
        (make_cursor((1, "nul\0")), tuple[int, str]),
    ],
)
def test_a_cursor_of_another_kind_leads_nowhere(cursor, form):
    with pytest.raises(e.NotFound) as caught:
        read_cursor(cursor, form)
    assert caught.value.code == "CURSOR_INVALID"


@pytest.mark.parametrize(("header", "version"), [('"3.17"', 3), ('"3"', 3), ('W/"3.17"', 3), ("*", None)])
def test_if_match_names_a_version(header, version):
    assert expected_version(header) == version


@pytest.mark.parametrize("header", ["3", '"x"', '"3.17', '"3", "4"', '"1e9"', f'"{"9" * 30}"'])
def test_anything_else_is_no_version(header):
    with pytest.raises(e.PreconditionFailed):
        expected_version(header)


def test_saying_nothing_is_not_enough():
    with pytest.raises(e.PreconditionMissing):
        expected_version("")


def test_roles_include_those_below_and_teams_are_kept_apart():
    caller = Principal("ada", Role.OPERATOR, ("vision",))
    caller.require(Role.VIEWER, "vision")
    caller.require(Role.OPERATOR)
    for role, team, code in ((Role.APPROVER, "vision", "ROLE_REQUIRED"), (Role.VIEWER, "audio", "TEAM_REQUIRED")):
        with pytest.raises(e.NotAllowed) as caught:
            caller.require(role, team)
        assert caught.value.code == code
    Principal("root", Role.ADMIN).require(Role.ADMIN, "anything")
    with pytest.raises(e.NotAllowed):
        Role.of("emperor")
    assert [Role.of(role.label) for role in Role] == list(Role)


def test_a_token_is_random_and_only_its_hash_is_kept():
    token = new_token(lambda n: b"\xff" * n)
    assert token == "wgo_" + "_" * 42 + "8"
    assert len(token_hash(token)) == 64
    assert token not in token_hash(token)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (e.NotFound(""), 404),
        (e.PolicyRefused(""), 422),
        (BundleRefused(""), 422),
        (TrustRefused(""), 422),
        (e.DatabaseBusy(""), 503),
        (TryAgain(""), 503),
        (AskPerson(""), 503),
        (e.PreconditionMissing(""), 428),
        (WavegateError(""), 500),
    ],
)
def test_an_error_has_the_status_of_its_nearest_family(error, status):
    assert status_of(error) == status
