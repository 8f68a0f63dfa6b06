"""``wavegate trust`` against a server that runs: status, events, its next keys, over HTTP with an operator's token."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control_plane.identity.authority import CA_LIFE, Authority

PROGRAM = str(Path(sys.executable).parent / "wavegate")
LIMIT_S = 60.0
AGE_MS = int((CA_LIFE.total_seconds() - 20 * 86_400) * 1000)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def shell(line: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *line.split()], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)


@pytest.fixture
def ada(person, monkeypatch):
    """A release manager with the address and a token of a running server."""
    ada = person("ada")
    ada.do("trust init --dir ceremony --server data --team vision --plain")
    # A device CA made long ago, so that something beside the metadata is about to expire.
    Authority.open_or_create(ada.home / "data/keys", "device-ca", int(time.time() * 1000) - AGE_MS)
    made = shell("server create-admin ada@example.com --dir data", cwd=ada.home)
    assert made.returncode == 0, made.stderr
    ports = f"--port {free_port()} --device-port {free_port()} --no-broker"
    line = f"server run --dir data {ports} --ready-file ready.json"
    log = ada.home / "log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            [PROGRAM, *line.split()], cwd=ada.home, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )
    try:
        deadline = time.monotonic() + LIMIT_S
        while not (ada.home / "ready.json").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        monkeypatch.setenv("WAVEGATE_URL", json.loads((ada.home / "ready.json").read_text())["operators"])
        monkeypatch.setenv("WAVEGATE_TOKEN", made.stdout.strip())
        monkeypatch.setenv("WAVEGATE_ROOT", str(ada.home / "ceremony/root.json"))
        yield ada
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def test_events_and_rotations_go_over_the_wire(ada, monkeypatch):
    url = os.environ["WAVEGATE_URL"]
    root_key = "--signer ceremony/keys/root-1.pem"
    ada.fail("trust publish ceremony --server data", "SERVER_RUNNING")

    # A new team; the server is what --url says, the base is read from it and checked with the ceremony's root.
    ada.do("trust key new audio.pem --plain")
    made = ada.do(f"trust delegate add audio --team-key audio.pem {root_key} --out audio.zip")
    assert made["complete"]
    assert ada.do("trust publish audio.zip")["published"] == made["files"]
    assert ada.do(f"trust publish audio.zip --server {url}")["published"] == []

    # Too few signatures are found out here, before anything is sent.
    ada.do("trust renew --role targets --out unsigned")
    err = ada.fail("trust publish unsigned", "TRUST_UNSIGNED_TARGETS")
    assert "Checking it as a new device" in err

    # The server makes its next keys; they sign once they are published.
    before = {role["role"]: role["keys"] for role in ada.do("trust status")["roles"]}
    ada.do(f"trust rotate online {root_key} --out online")
    ada.do(f"trust rotate online {root_key} --out again")
    ada.do("trust publish online")
    ada.do(f"trust rotate director {root_key} --out director")
    ada.do("trust publish director")
    told = ada.do("trust status")
    checked = ada.do(f"trust status {url}")
    after = {role["role"]: role["keys"] for role in checked["roles"]}
    assert after == {role["role"]: role["keys"] for role in told["roles"]}
    assert all(before[role] != after[role] for role in ("snapshot", "timestamp", "director"))
    assert "team-audio" in after
    advanced = ada.do("trust advance --to 700")
    assert advanced["timestamp_version"] >= 700
    assert ada.do("trust verify")["timestamp_version"] >= 700
    monkeypatch.delenv("WAVEGATE_ROOT")
    assert "As the server says" in ada.call("trust status")[2]
    ada.fail("trust renew --role targets", "TRUST_ROOT_NEEDED")


def test_a_server_that_runs_says_what_else_is_about_to_expire(ada, monkeypatch):
    code, out, err = ada.call("trust expiry --json")
    assert code == 1, err
    [due] = json.loads(out)
    assert (due["role"], due["days_left"] in (19, 20), due["level"]) == ("device-ca", True, "30d")
    assert "wavegate server run" in due["command"]
    code, out, err = ada.call("trust expiry --warn 10d")
    assert code == 0
    assert "Nothing expires within 10d" in err
    # The metadata alone, from its folder or without a token, says nothing of it; and that is said.
    code, _, err = ada.call("trust expiry --metadata data")
    assert (code, "Metadata only." in err) == (0, True)
    monkeypatch.delenv("WAVEGATE_TOKEN")
    assert ada.call("trust expiry")[0] == 0
