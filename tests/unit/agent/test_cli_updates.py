"""The commands about updates: the status in words, retry and roll back over the control socket, the lock."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from agent.cli import CONFLICT, NOT_ALLOWED, NOT_FOUND, USAGE, main
from agent.core.policy import Policy
from agent.core.state import Passage, Release, Step, Tried, UpdaterState
from agent.lock import held, is_held
from agent.runner.control import ControlServer
from agent.runner.story import story
from bundles.errors import Refused

A, B = (Release(f"vision/digits/{n}.0.0/bundle.json", letter * 64, 100, n) for n, letter in ((1, "a"), (2, "b")))
DEFERRED = UpdaterState(
    "vision/digits",
    Step.DEFERRED,
    gen=3,
    target=B,
    committed=A,
    reason="window",
    code="CONDITION_WINDOW",
    detail="The maintenance window is closed.",
    asks="activate",
    since_ms=1_795_521_600_000,
    retry_ms=1_795_521_630_000,
    tried=(Tried("d" * 64, 2, 1, "r0", "health"),),
    history=(Passage(1_795_521_600_000, "deferred", B.sha256, "window", "CONDITION_WINDOW"),),
)


def write_status(folder, state=DEFERRED, progress=(0, 0)):
    model = {
        "version": "1.0.0", "variant": "a", "runtime": "fake", "phase": state.phase, "reason": state.reason,
        "detail": state.detail,
    }  # fmt: skip
    status = {
        "device": "cam-1", "state": "running", "route": "mqtt", "gen": 3, "labelled": {},
        "models": {"vision/digits": model}, "updates": {"vision/digits": story(state, Policy(), progress)},
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps(status))


def test_the_status_tells_the_whole_story(capsys, tmp_path):
    write_status(tmp_path)
    (tmp_path / "config.toml").write_text('[[maintenance]]\nstart = "0 0 30 2 *"\nhours = 1\n')
    with held(tmp_path / "update.lock"):
        assert main(["status", "--dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for words in (
        "vision/digits: 1.0.0 (a, fake), deferred since 2026-11-24 12:00:00Z",
        "window: The maintenance window is closed.",
        "active 1.0.0, committed 1.0.0, target 2.0.0",
        "waits for the end of: window, looked at again 2026-11-24 12:00:30Z",
        "attempts 0 of 2, recoveries 0 of 10, transitions 0 of 30",
        "denied here: dddddddddddd (health, 2 attempts); see: retry",
        "2026-11-24 12:00:00Z  deferred     bbbbbbbbbbbb window CONDITION_WINDOW",
        "no activate now: CONDITION_WINDOW: The maintenance window is closed; it opens next: never.",
        "no activate now: CONDITION_LOCK: The update lock is held by",
    ):
        assert words in told


def test_the_status_for_programs_holds_the_same(capsys, tmp_path):
    write_status(tmp_path)
    with held(tmp_path / "update.lock"):
        assert main(["status", "--dir", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["updates"]["vision/digits"]["waits_for"] == "the end of: window"
    assert [(c["stage"], c["code"]) for c in told["conditions"]] == [("activate", "CONDITION_LOCK")]


def test_a_download_under_way_is_told_in_bytes(capsys, tmp_path):
    write_status(tmp_path, UpdaterState("vision/digits", Step.DOWNLOADING, target=B), (12_100_000, 20_000_000))
    assert main(["status", "--dir", str(tmp_path)]) == 0
    assert "12.1 of 20.0 MB are here" in capsys.readouterr().out


def test_settings_that_cannot_be_read_do_not_hide_the_status(capsys, tmp_path):
    write_status(tmp_path)
    (tmp_path / "config.toml").write_text("mistake = 1\n")
    assert main(["status", "--dir", str(tmp_path)]) == 0
    assert "CONFIG_INVALID" in capsys.readouterr().out


@pytest.mark.parametrize("do", ["retry", "rollback"])
def test_the_running_agent_is_asked_over_the_control_socket(capsys, tmp_path, do):
    asked = []

    def answer(request):
        asked.append(request)
        return {"ok": True, "model": "vision/digits"}

    server = ControlServer(tmp_path / "control", answer)
    server.start()
    try:
        assert main([do, "--dir", str(tmp_path), "--model", "vision/digits"]) == 0
    finally:
        server.close()
    assert (asked[0]["do"], asked[0]["model"]) == (do, "vision/digits")
    assert asked[0]["actor"]
    assert "vision/digits" in capsys.readouterr().err


def test_what_the_agent_refuses_has_its_exit_code(capsys, tmp_path):
    def answer(request):
        raise Refused("Nothing was put off.", code="NOTHING_TO_RETRY", remedy="See the status.")

    server = ControlServer(tmp_path / "control", answer)
    server.start()
    try:
        assert main(["retry", "--dir", str(tmp_path)]) == CONFLICT
    finally:
        server.close()
    assert "NOTHING_TO_RETRY" in capsys.readouterr().err


def lock(folder, *command):
    arguments = [sys.executable, "-m", "agent.cli", "lock", "--dir", str(folder), *command]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_a_command_runs_with_the_lock_held_and_its_exit_code_is_the_commands(tmp_path):
    program = "import sys, pathlib, agent.lock; sys.exit(40 + agent.lock.is_held(pathlib.Path(sys.argv[1])))"
    done = lock(tmp_path, "--", sys.executable, "-c", program, str(tmp_path / "update.lock"))
    assert (done.returncode, done.stderr) == (41, "")
    assert not is_held(tmp_path / "update.lock")


def test_the_lock_lasts_as_long_as_anything_the_command_started(tmp_path):
    """A shell that leaves a process behind: the lock is that one's until it ends too."""
    done = lock(tmp_path, "--", "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
    left = int(done.stdout)
    assert is_held(tmp_path / "update.lock")
    os.kill(left, signal.SIGKILL)
    limit = time.monotonic() + 20
    while is_held(tmp_path / "update.lock"):
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("command", "code", "word"),
    [
        (["--", "/no/such/program"], NOT_FOUND, "cannot be run"),
        ([], USAGE, "no command"),
        (["--"], USAGE, "no command"),
    ],
)
def test_a_command_that_cannot_be_run_says_so(tmp_path, command, code, word):
    done = lock(tmp_path, *command)
    assert done.returncode == code
    assert word in done.stderr


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path):
    done = lock(tmp_path / "none", "--", "true")
    assert done.returncode == NOT_ALLOWED
    assert "LOCK_FORBIDDEN" in done.stderr
