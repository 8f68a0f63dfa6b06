"""A list of hardware as people write it, and the file of tokens that running it again must not lose."""

from __future__ import annotations

import stat

import pytest

from bundles.errors import AskPerson, Refused
from control_plane.cli.hardware_list import read_list, read_tokens, write_tokens


def test_a_list_names_fixed_columns_and_the_rest_are_labels(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("\ufeffserial, device,site\nSN-1,cam-1,north\nSN-2,,\n", "utf-8")
    assert read_list(path) == [
        {"serial": "SN-1", "device": "cam-1", "hardware": "", "labels": {"site": "north"}},
        {"serial": "SN-2", "device": "", "hardware": "", "labels": {}},
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [("serial\nSN-1\n\"\"\n", "Line 3"), ("serial\nSN-1,more\n", "Line 2"), ("device\ncam-1\n", "header"),
     ("serial,serial\nSN-1,SN-1\n", "header"), ("", "header"), ('serial\n"SN', "Line")],
)  # fmt: skip
def test_what_is_wrong_is_named_by_its_line(tmp_path, text, word):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(Refused) as caught:
        read_list(path)
    assert word in str(caught.value)


def test_tokens_made_before_are_kept_and_lost_ones_are_told(tmp_path):
    out = tmp_path / "tokens.csv"
    first = [{"serial": "SN-1", "state": "made", "token": "t1", "device": "", "expires_ms": 5}]
    assert write_tokens(out, first, read_tokens(out)) == []
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    again = [
        {"serial": "SN-1", "state": "exists", "token": "", "device": "", "expires_ms": 5},
        {"serial": "SN-2", "state": "exists", "token": "", "device": "", "expires_ms": 5},
    ]
    assert write_tokens(out, again, read_tokens(out)) == ["SN-2"]
    assert read_tokens(out)["SN-1"]["token"] == "t1"
    enrolled = [{"serial": "SN-1", "state": "enrolled", "token": "", "device": "cam-1", "expires_ms": 0}]
    write_tokens(out, enrolled, read_tokens(out))
    assert read_tokens(out) == {}, "a spent token is not worth keeping"


def test_a_missing_list_and_a_foreign_file_are_told(tmp_path):
    with pytest.raises(AskPerson):
        read_list(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(AskPerson):
        read_tokens(tmp_path / "x.csv")
