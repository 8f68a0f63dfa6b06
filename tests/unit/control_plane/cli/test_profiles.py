"""Profiles: private to the user, kept whole, never shown with their tokens."""

from __future__ import annotations

import json
import stat

import pytest

from control_plane.cli.profiles import Profile, Profiles, load, path, save
from control_plane.cli.root import run
from control_plane.errors import NotFound, SetUpWrong


@pytest.fixture(autouse=True)
def _own_file(monkeypatch, tmp_path):
    monkeypatch.setenv("WAVEGATE_CONFIG", str(tmp_path / "config" / "profiles.json"))
    for name in ("WAVEGATE_TOKEN", "WAVEGATE_URL", "WAVEGATE_PROFILE"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_there_at_first():
    assert load() == Profiles()
    assert load().named("") == Profile()


def test_what_is_saved_is_read_again_and_only_by_its_owner():
    profiles = (
        Profiles().with_profile("home", url="http://a", token="t").with_profile("work", url="http://b", token="u")
    )
    save(profiles)
    assert load() == profiles
    assert load().current == "home"
    assert stat.S_IMODE(path().stat().st_mode) == 0o600
    save(profiles.with_profile("home", url="", token="t2"))
    assert load().named("home") == Profile("http://a", "t2")


def test_an_unknown_name_and_a_broken_file_are_told():
    with pytest.raises(NotFound):
        Profiles().named("nowhere")
    save(Profiles())
    path().write_text("{")
    with pytest.raises(SetUpWrong):
        load()


def test_the_commands_show_no_token(capsys):
    assert run(["profile", "set", "home", "--url", "http://a", "--token", "secret-token"]) == 0
    assert run(["profile", "set", "work", "--url", "http://b"]) == 0
    assert run(["profile", "use", "work"]) == 0
    capsys.readouterr()
    assert run(["profile", "list", "-o", "json"]) == 0
    told = capsys.readouterr().out
    assert "secret-token" not in told
    assert json.loads(told) == [
        {"name": "home", "url": "http://a", "token": "set", "is_current": False},
        {"name": "work", "url": "http://b", "token": "", "is_current": True},
    ]
    assert run(["profile", "use", "nowhere"]) == 3
