"""Bulk enrolment by a list of serial numbers, and enrolment by approval: the commands, against a real server."""

from __future__ import annotations

import csv
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

LIST = "serial,device,hardware,site\nSN-1,gate-1,cam-a,north\nSN-2,,cam-a,south\n"


@pytest.fixture
def running(house):
    house.start(WAVEGATE_SERVER_ENROLMENT="approval")
    return house


def enrol(house, folder, *more):
    """Run ``wavegate-agent enroll``; returns the finished process."""
    line = ["--dir", folder, "--url", house.url, "--ca", "data/keys/server-ca.pem", "--root", "ceremony/root.json"]
    return house.call("enroll", *line, *more, program="wavegate-agent")


def tokens(house):
    with (house.home / "tokens.csv").open(newline="") as stream:
        return {row["serial"]: row for row in csv.DictReader(stream)}


def test_a_list_of_serial_numbers_becomes_tokens_and_each_token_its_device(running, site):
    house = running
    (house.home / "list.csv").write_text(LIST)
    told = house.call("device", "enroll-csv", "list.csv", "--out", "tokens.csv")
    assert (told.returncode, "2 made, 0 there before, 0 enrolled" in told.stderr) == (0, True), told.stderr
    made = tokens(house)
    assert stat.S_IMODE((house.home / "tokens.csv").stat().st_mode) == 0o600
    assert all(len(row["token"]) >= 22 for row in made.values())
    told = house.call("device", "enroll-csv", "list.csv", "--out", "tokens.csv")
    assert "0 made, 2 there before, 0 enrolled" in told.stderr
    assert tokens(house).keys() == made.keys()
    assert [row["token"] for row in tokens(house).values()] == [row["token"] for row in made.values()]

    first = made["SN-1"]["token"]
    wrong = enrol(house, site.folder / "x", "--token", first, "--serial", "SN-2")
    assert "[ENROL_TOKEN]" in wrong.stderr, "a token is for its own hardware"
    done = enrol(house, site.folder / "a", "--token", first, "--serial", "SN-1")
    assert (done.returncode, done.stdout.strip()) == (0, "gate-1"), done.stderr
    again = enrol(house, site.folder / "b", "--token", first, "--serial", "SN-1")
    assert "[ENROL_TOKEN]" in again.stderr, "and for one key"
    device = house.device("gate-1")
    assert (device["hardware"], device["labels"]) == ("cam-a", {"site": "north"})

    (house.home / "list.csv").write_text(LIST + "SN-3,gate-3,cam-a,south\n")
    told = house.call("device", "enroll-csv", "list.csv", "--out", "tokens.csv")
    assert "1 made, 1 there before, 1 enrolled" in told.stderr
    assert tokens(house)["SN-2"]["token"] == made["SN-2"]["token"]
    assert tokens(house)["SN-1"]["token"] == "", "a spent token is no secret worth keeping"
    (house.home / "tokens.csv").unlink()
    told = house.call("device", "enroll-csv", "list.csv", "--out", "tokens.csv")
    assert "No token is known here for SN-2, SN-3" in told.stderr
    house.do("device", "enroll-csv", "list.csv", "--out", "tokens.csv", "--replace")
    fresh = tokens(house)["SN-2"]["token"]
    assert fresh not in ("", made["SN-2"]["token"])
    old = enrol(house, site.folder / "c", "--token", made["SN-2"]["token"], "--serial", "SN-2")
    assert "[ENROL_TOKEN]" in old.stderr, "what was replaced is over"
    assert enrol(house, site.folder / "c", "--token", fresh, "--serial", "SN-2").returncode == 0


BAD = [
    ("serial\nSN-1\n\n ,\n", "ENROL_ROW", "Line 4"),
    ("serial,device\nSN-1,a\nSN-2,b\nSN-1,c\n", "ENROL_ROW", "ow 3"),
    ("serial,device\nSN-1,a\nSN-2,a\n", "ENROL_ROW", "ow 2"),
    ("serial,device\nSN-1,cp.ingest\n", "ENROL_ROW", "ow 1"),
    ("serial,device\nSN-1,gate-1\nSN-2,Gate 2\n", "ENROL_ROW", "ow 2"),
    ("number\nSN-1\n", "CSV_HEADER", "serial"),
    ("serial\n", "ENROL_ROWS", "this one has 0"),
]


def test_a_bad_row_is_named_and_nothing_is_made(running):
    for text, code, words in BAD:
        (running.home / "list.csv").write_text(text)
        said = running.fail(code, "device", "enroll-csv", "list.csv", "--out", "tokens.csv")
        assert words in said, (text, said)
        assert not (running.home / "tokens.csv").exists(), text
    (running.home / "list.csv").write_text(LIST)
    made = running.call("device", "enroll-csv", "list.csv", "--out", "tokens.csv")
    assert "2 made, 0 there before" in made.stderr, "the good rows of bad lists were not made either"


def test_a_device_without_a_token_waits_until_a_person_says_yes(running, site, until):
    house, folder = running, site.folder / "cam"
    once = enrol(house, folder, "--token", "", "--serial", "SN-9")
    assert "[ENROL_PENDING]" in once.stderr, once.stderr
    shown = re.search(r"begins with ([0-9a-f]{16})", once.stderr)[1]
    command = [
        *("--dir", folder, "--url", house.url, "--ca", "data/keys/server-ca.pem", "--root", "ceremony/root.json"),
        *("--token", "", "--serial", "SN-9", "--wait"),
    ]
    log = (house.home / "enroll.log").open("w+")
    waiting = subprocess.Popen(
        [Path(sys.executable).parent / "wavegate-agent", "enroll", *map(str, command)],
        cwd=house.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True,
    )  # fmt: skip
    try:
        until(lambda: shown in (house.home / "enroll.log").read_text(), "it says whom to approve")
        listed = house.do("device", "pending")
        assert shown in listed
        assert "SN-9" in listed
        assert waiting.poll() is None, "it waits"
        house.do("device", "approve", shown, "--device", "gate-9")
        assert waiting.wait(60) == 0
    finally:
        waiting.kill()
        waiting.wait()
        log.close()
    assert (house.home / "enroll.log").read_text().splitlines()[-1] == "gate-9"
    agent = site.run(folder)
    until(lambda: agent.device.link.route == "mqtt" and house.device("gate-9")["online"], "it is a device")


def test_a_device_that_is_denied_is_told_so(running, site):
    once = enrol(running, site.folder / "cam", "--token", "")
    shown = re.search(r"begins with ([0-9a-f]{16})", once.stderr)[1]
    running.do("device", "deny", shown)
    again = enrol(running, site.folder / "cam", "--token", "", "--wait")
    assert "[ENROL_DENIED]" in again.stderr
