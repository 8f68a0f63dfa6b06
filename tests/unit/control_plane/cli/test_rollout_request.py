"""What ``rollout create`` sends: flags lie over the file, and a flag that cannot be read is told."""

from __future__ import annotations

import pytest

from control_plane.cli.rollout_request import build, read_document
from control_plane.errors import RequestRefused, SetUpWrong


def test_flags_alone():
    assert build(
        {}, release="vision/digits@1.0.0", everything=True, exclude=["cam-9"], waves=["16:60", "25%", "rest"],
        soak_s=30.0, timing=["heartbeat_s=1"], seed="s",
    ) == {
        "release": "vision/digits@1.0.0",
        "selector": {"exclude": ["cam-9"], "all": True},
        "waves": [{"count": 16, "soak_s": 60.0}, {"percent": 25.0, "soak_s": 30.0}, {"rest": True, "soak_s": 30.0}],
        "profile": {"heartbeat_s": 1.0},
        "seed": "s",
    }  # fmt: skip


def test_flags_lie_over_the_file():
    document = {
        "release": "a/b@1",
        "waves": [{"rest": True}],
        "policy": {"quorum": 0.9, "looks": 2},
        "selector": {"all": True},
    }
    body = build(document, release="a/b@2", soak_s=5.0, policy={"looks": 3}, labels=["site=north"])
    assert body == {
        "release": "a/b@2",
        "waves": [{"soak_s": 5.0, "rest": True}],
        "policy": {"quorum": 0.9, "looks": 3},
        "selector": {"labels": {"site": "north"}},
    }
    assert document["release"] == "a/b@1"


@pytest.mark.parametrize(
    "flags",
    [
        {"waves": ["many"]},
        {"waves": ["x%"]},
        {"waves": ["5:long"]},
        {"labels": ["site"]},
        {"timing": ["heartbeat_s=fast"]},
    ],
)
def test_a_flag_that_cannot_be_read_is_refused(flags):
    with pytest.raises(RequestRefused) as caught:
        build({}, **flags)
    assert caught.value.code == "FLAG_FORM"
    assert caught.value.remedy


def test_a_file_is_yaml_or_json_with_a_mapping(tmp_path):
    path = tmp_path / "rollout.yaml"
    path.write_text("release: a/b@1\nwaves:\n- {rest: true, soak_s: 5}\n")
    assert read_document(path) == {"release": "a/b@1", "waves": [{"rest": True, "soak_s": 5}]}
    for text in ("- a list", "a: [", "'text'"):
        path.write_text(text)
        with pytest.raises(RequestRefused) as caught:
            read_document(path)
        assert caught.value.code == "FILE_FORM"
    with pytest.raises(SetUpWrong):
        read_document(tmp_path / "absent.yaml")
