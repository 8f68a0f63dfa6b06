"""The command line against a real server on a loopback port: the whole path from a bundle to a watched rollout."""

from __future__ import annotations

import json
import threading
import time

import pytest
import uvicorn
from sqlalchemy import text

from bundles.wire import codec
from bundles.wire.messages import Reported
from control_plane.auth import Role
from control_plane.cli.root import run
from control_plane.db.tables import Device
from control_plane.services import diagnoses, rollouts


@pytest.fixture
def served(sqlite_api, tmp_path, monkeypatch):
    """The server's address in the environment, and one profile for each person."""
    server = uvicorn.Server(uvicorn.Config(sqlite_api.app, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    for name in ("WAVEGATE_TOKEN", "WAVEGATE_PROFILE", "WAVEGATE_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WAVEGATE_CONFIG", str(tmp_path / "profiles.json"))
    monkeypatch.setenv("WAVEGATE_URL", f"http://127.0.0.1:{port}")
    people = {"ada": Role.OPERATOR, "bob": Role.APPROVER, "vera": Role.VIEWER, "root": Role.ADMIN}
    for person, role in people.items():
        assert run(["profile", "set", person, "--token", sqlite_api.token(person, role)]) == 0
    yield sqlite_api
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def wavegate(served, capsys):
    """Runs a command as somebody; returns (exit code, stdout, stderr)."""

    def call(person: str, *arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["--profile", person, *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def _json(answer: tuple[int, str, str]):
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)


def test_from_a_bundle_to_a_halted_rollout(served, wavegate):
    served.enrol("cam-1", "cam-2", "cam-3")
    path = served.bundle("1.0.0", 1)
    release = _json(wavegate("ada", "publish", str(path), "-o", "json"))
    code, out, _ = wavegate("ada", "model", "list")
    assert code == 0
    assert out.splitlines()[0].split()[:4] == ["TEAM", "MODEL", "VERSION", "COUNTER"]
    assert out.splitlines()[1].split()[:5] == ["vision", "digits", "1.0.0", "1", "registered"]
    code, _, err = wavegate("ada", "model", "approve", "vision/digits@1.0.0")
    assert (code, err.startswith("[ROLE_REQUIRED]")) == (4, True)
    assert _json(wavegate("bob", "model", "approve", release["sha256"][:12], "-o", "json"))["stage"] == "approved"
    wanted = ["--release", "vision/digits@1.0.0", "--all", "--wave", "1", "--wave", "rest", "--soak", "8"]
    code, out, err = wavegate("vera", "rollout", "plan", *wanted)
    assert code == 0
    assert "no_incumbent" in out
    assert "The install gate" in err
    made = _json(wavegate("ada", "rollout", "create", *wanted, "-o", "json"))
    assert made["phase"] == "pending_approval"
    assert _json(wavegate("bob", "rollout", "approve", made["id"], "-o", "json"))["phase"] == "running"
    status = _json(wavegate("vera", "rollout", "status", made["id"], "--devices", "-o", "json"))
    assert [row["state"] for row in status["devices"]].count("offered") == 1
    code, out, _ = wavegate("vera", "rollout", "status", made["id"])
    assert code == 0
    assert "offering" in out
    code, out, _ = wavegate("vera", "rollout", "explain", made["id"])
    assert out.startswith("It runs: wave 1 of 2 is offering.")
    code, _, err = wavegate("vera", "rollout", "watch", made["id"], "--timeout", "0.01")
    assert (code, err.startswith("[TIMEOUT]")) == (8, True)
    halted = _json(wavegate("ada", "rollout", "rollback", made["id"], "--reason", "enough", "-o", "json"))
    assert halted["phase"] in ("rolling_back", "rolled_back")
    served.clock.now += 3_700_000
    rollouts.tick(served.db, served.clock.now)
    served.clock.now -= 3_700_000
    code, out, _ = wavegate("vera", "rollout", "watch", made["id"])
    assert code == 7
    assert json.loads(out.splitlines()[-1])["phase"] in ("rolled_back", "rollback_incomplete")
    rows = _json(wavegate("vera", "audit", "list", "--actor", "ada", "-o", "json"))
    assert {"rollout.create", "rollout.rollback", "rollout.halt"} <= {row["action"] for row in rows}
    assert _json(wavegate("vera", "audit", "verify", "-o", "json"))["is_whole"]


def test_a_plan_says_which_devices_cannot_hold_two_copies(served, wavegate):
    def beat(device: str, free: int) -> None:
        said = Reported(
            device, "ab" * 8, 1, 1, served.clock.now, 1, 0, {}, hardware="cam-a", runtimes=["onnxruntime"],
            disk_free_bytes=free, disk_reserve_bytes=64 * 1024, memory_available_bytes=10**9,
        )  # fmt: skip
        with served.db.write() as session:
            session.get(Device, device).reported_json = codec.encode(said).decode()

    served.enrol("cam-1", "cam-2", "cam-3")
    beat("cam-1", 10**9)
    beat("cam-2", 64 * 1024)
    assert wavegate("ada", "publish", str(served.bundle("1.0.0", 1)))[0] == 0
    assert wavegate("bob", "model", "approve", "vision/digits@1.0.0")[0] == 0
    wanted = ["rollout", "plan", "--release", "vision/digits@1.0.0", "--all", "--wave", "rest", "--soak", "8"]
    code, out, err = wavegate("vera", *wanted)
    assert code == 0
    assert "No room: cam-2 cannot store this release" in err
    assert "1 device (cam-2) cannot hold two copies" in err
    assert "Whether 1 device (cam-3) can hold two copies is unknown" in err
    assert "No room" not in out, "chatter goes to stderr"
    plan = _json(wavegate("vera", *wanted, "-o", "json"))
    assert [(one["device"], one["resource"]) for one in plan["short"]] == [("cam-2", "disk")]
    assert plan["room_unknown"] == ["cam-3"]


def test_a_changed_log_is_told_by_its_exit_code(served, wavegate):
    with served.db.write() as session:
        session.execute(text("UPDATE decision SET actor = 'eve' WHERE id = 2"))
    code, out, _ = wavegate("vera", "audit", "verify")
    assert code == 6
    assert "first bad  2" in out


def test_devices_tokens_alerts_and_the_doctor(served, wavegate):
    served.enrol("cam-1", "cam-2")
    _, out, _ = wavegate("vera", "device", "list")
    assert [line.split()[0] for line in out.splitlines()] == ["DEVICE", "cam-1", "cam-2"]
    assert _json(wavegate("vera", "device", "show", "cam-1", "-o", "json"))["device"]["id"] == "cam-1"
    assert wavegate("vera", "device", "show", "cam-1")[0] == 0
    assert wavegate("vera", "device", "show", "ghost")[0] == 3
    assert _json(wavegate("vera", "device", "events", "cam-1", "-o", "json")) == []
    token = _json(wavegate("ada", "device", "enroll-token", "--uses", "3", "--label", "site=north", "-o", "json"))
    assert (token["uses"], token["labels"]) == (3, {"site": "north"})
    assert _json(wavegate("ada", "device", "retire", "cam-2", "-o", "json"))["state"] == "retired"
    made = _json(wavegate("root", "token", "create", "eve", "--role", "approver", "--team", "vision", "-o", "json"))
    assert made["view"]["teams"] == ["vision"]
    assert len(_json(wavegate("root", "token", "list", "-o", "json"))) >= 5
    assert _json(wavegate("root", "token", "revoke", made["view"]["id"], "-o", "json"))["revoked_ms"]
    assert _json(wavegate("vera", "alerts", "list", "-o", "json")) == []
    assert wavegate("ada", "alerts", "ack", "7")[0] == 3
    assert _json(wavegate("vera", "drift", "show", "-o", "json")) == []
    lines = _json(wavegate("vera", "doctor", "-o", "json"))
    assert [line["check"] for line in lines] == ["server", "database", "token"]
    assert lines[2]["detail"] == "vera is viewer for *"


def test_a_bad_bundle_is_a_failed_verification(served, wavegate, tmp_path):
    path = tmp_path / "bad.wgb"
    path.write_bytes(b"garbage")
    code, out, err = wavegate("ada", "publish", str(path))
    assert (code, out) == (6, "")
    assert err.startswith("[BUNDLE_ARCHIVE] ")
    code, _, err = wavegate("ada", "publish", str(served.bundle("1.0.0", 1, signed=False)))
    assert (code, err.startswith("[TRUST_UNSIGNED_TEAM] ")) == (6, True)
    assert wavegate("ada", "publish", str(tmp_path / "absent.wgb"))[0] == 1


def test_two_people_steering_at_once_are_told_apart(served, wavegate):
    served.enrol("cam-1")
    served.approved()
    wanted = ["--release", "vision/digits@1.0.0", "--all", "--wave", "rest", "--soak", "8"]
    made = _json(wavegate("ada", "rollout", "create", *wanted, "-o", "json"))
    wavegate("bob", "rollout", "approve", made["id"])
    assert _json(wavegate("ada", "rollout", "pause", made["id"], "-o", "json"))["phase"] == "paused"
    code, _, err = wavegate("ada", "rollout", "pause", made["id"])
    assert (code, err.startswith("[ROLLOUT_PHASE] ")) == (5, True)
    assert wavegate("ada", "rollout", "resume", made["id"])[0] == 0
    assert wavegate("ada", "rollout", "abort", made["id"])[0] == 0


def test_the_support_bundles_of_what_failed_stand_beside_the_waves(served, wavegate):
    served.enrol("cam-1")
    served.approved()
    wanted = ["--release", "vision/digits@1.0.0", "--all", "--wave", "rest", "--soak", "8"]
    made = _json(wavegate("ada", "rollout", "create", *wanted, "-o", "json"))
    assert "DIAGNOSIS" not in wavegate("vera", "rollout", "status", made["id"])[1]
    with served.db.write() as session:
        diagnoses.ask_about_failure(
            session, rollout=made["id"], wave=0, device="cam-1", failure="health\x1b[31m", most=3,
            now_ms=served.clock.now,
        )  # fmt: skip
    (asked,) = _json(wavegate("vera", "rollout", "status", made["id"], "-o", "json"))["diagnoses"]
    code, out, err = wavegate("vera", "rollout", "status", made["id"])
    assert code == 0, err
    assert out.splitlines()[-2].split() == ["WAVE", "FAILURE", "DEVICE", "DIAGNOSIS", "STATE", "BYTES"]
    assert out.splitlines()[-1].split() == ["1", "health\ufffd[31m", "cam-1", asked["command"], "waiting", "0"]
    assert "Diagnosis of cam-1" in wavegate("vera", "rollout", "explain", made["id"])[1]
