"""How answers look: aligned tables, cards, one line a cell; JSON and YAML as they are."""

from __future__ import annotations

import json

import pytest

from control_plane.cli.output import Format, card, cell, show, table

ROWS = [
    {"id": "cam-1", "online": True, "seen": 1_700_000_000_000, "model": {"sha256": "aa"}},
    {"id": "camera-long", "online": False, "seen": None, "model": {}},
]
COLUMNS = {"DEVICE": "id", "ONLINE": "online", "SEEN": "seen", "BUNDLE": "model.sha256"}


def test_a_table_is_aligned_and_ends_in_no_blanks():
    assert table(ROWS, COLUMNS) == (
        "DEVICE       ONLINE  SEEN                  BUNDLE\n"
        "cam-1        yes     2023-11-14 22:13:20Z  aa\n"
        "camera-long  no      -                     -"
    )


def test_an_empty_table_is_its_headings():
    assert table([], COLUMNS) == "DEVICE  ONLINE  SEEN  BUNDLE"


def test_one_thing_is_a_card():
    assert card(ROWS[0], {"DEVICE": "id", "LAST SEEN": "seen"}) == ("device     cam-1\nlast seen  2023-11-14 22:13:20Z")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        (0, "0"),
        (True, "yes"),
        ({}, "-"),
        ({"a": 1, "b": None}, "a=1,b=-"),
        ([], "-"),
        (["x", "y"], "x,y"),
        ("two\nlines  here", "two lines here"),
        (1.5, "1.5"),
    ],
)
def test_a_cell_is_one_line(value, text):
    assert cell(value) == text


def test_json_and_yaml_hold_everything(capsys):
    import yaml

    show(ROWS, Format.JSON, COLUMNS)
    assert json.loads(capsys.readouterr().out) == ROWS
    show(ROWS, Format.YAML, COLUMNS)
    assert yaml.safe_load(capsys.readouterr().out) == ROWS
