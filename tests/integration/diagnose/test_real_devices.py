"""Real devices are asked over a real broker and over HTTPS, through losses and restarts, by the command line.

The first minute of somebody on call: ask a device what is wrong with it, and read what it says.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import json
import random
import re
import shlex
import tarfile
import threading
from pathlib import Path

import pytest

from agent.cli.parser import build_parser
from agent.runner.link import Link
from bundles.wire import commands as wire

PAGE = Path(__file__).resolve().parents[3] / "docs" / "runbooks" / "sick-device.md"
SECRETS = {
    "a password of a proxy": "proxy-pass-4711",
    "a claim token": "wge_planted0123456789abcdef",
    "a variable of the environment": "env-secret-0815",
    "a presigned address": "5ecre7-signature",
    "a private key": "MHcCAQEEIPlantedPrivateKeyOfNobodyAtAll0123456789abcdEF",
}


def plant(folder, monkeypatch) -> None:
    """Have the agent know and log secrets in every place that a diagnosis comes near, and some harmless words."""
    monkeypatch.setenv("SOME_API_TOKEN", SECRETS["a variable of the environment"])
    (folder / "log").mkdir(exist_ok=True)
    (folder / "log" / "agent.log.1").write_text(
        "2026-11-24 03:00:00,000 WARNING agent.runner.link: harmless words stay\n"
        f"2026-11-24 03:00:00,000 INFO a: enrolled with {SECRETS['a claim token']}, env-secret-0815\n"
        f"2026-11-24 03:00:00,000 INFO a: GET https://s3/x?X-Amz-Signature={SECRETS['a presigned address']}&a=1\n"
        f"-----BEGIN EC PRIVATE KEY-----\n{SECRETS['a private key']}\n-----END EC PRIVATE KEY-----\n"
        f"2026-11-24 03:00:00,000 ERROR a: http://bob:{SECRETS['a password of a proxy']}@p:1\n"
    )
    with (folder / "config.toml").open("a") as config:
        config.write(f'\n# was: proxy = "http://bob:{SECRETS["a password of a proxy"]}@proxy:3128"\n')


def grow(folder) -> None:
    """Give the device so much to tell that it takes several parts, as digests do not compress."""
    draw = random.Random(5)
    lines = (f"2026-11-24 02:00:00,000 INFO a: blob {draw.getrandbits(256):064x}\n" for _ in range(5000))
    (folder / "log").mkdir(exist_ok=True)
    (folder / "log" / "agent.log.2").write_text("".join(lines))


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        return {entry.name.partition("/")[2]: archive.extractfile(entry).read() for entry in archive}


class Hold:
    """Stands between an agent and its transport: loses a part once, or stops before one until ``go``."""

    def __init__(self, monkeypatch, *, lose: int | None = None, stop: int | None = None) -> None:
        self.reached, self.go, self.lost, self.parts = threading.Event(), threading.Event(), [], []
        publish = Link.publish

        def through(link, leaf, payload):
            _, number = wire.split_leaf(leaf) or ("", None)
            self.parts.append(number)
            if number is not None and number == lose and not self.lost:
                self.lost.append(leaf)
                return True  # as good as sent: the broker died before it handed it on
            if number is not None and number == stop and not self.go.is_set():
                self.reached.set()
                self.go.wait(60)
            return publish(link, leaf, payload)

        monkeypatch.setattr(Link, "publish", through)


def test_over_mqtt_in_parts_and_read_on_the_command_line(house, site, wavegate, monkeypatch, tmp_path):
    folder = site.enrol("cam-mqtt")
    grow(folder)
    plant(folder, monkeypatch)
    seen = Hold(monkeypatch)
    site.run(folder)
    code, out, err = wavegate("device", "diagnose", "cam-mqtt", "--wait", "--reason", "it is odd", "--json")
    assert code == 0, err
    made = json.loads(out)
    assert (made["state"], made["why"], made["actor"]) == ("done", "it is odd", "ada")
    assert wire.PART_BYTES < made["bundle_bytes"] <= wire.MAX_BUNDLE_BYTES
    assert [one for one in seen.parts if one is not None] == list(range(made["data"]["parts"]))
    assert made["data"]["parts"] >= 2

    path = tmp_path / "bundle.tar.gz"
    code, out, err = wavegate("device", "diagnosis", "cam-mqtt", "--out", str(path), "--json")
    assert (code, json.loads(out)["bytes"]) == (0, made["bundle_bytes"]), err
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == made["bundle_sha256"]
    assert path.stat().st_mode & 0o777 == 0o600
    files = unpacked(content)
    whole = b"\n".join(files.values()).decode()
    assert [what for what, secret in SECRETS.items() if secret in whole] == []
    assert (folder / "identity" / "key.pem").read_text()[60:100] not in whole
    assert "harmless words stay" in whole
    steps = {step["what"]: step["is_ok"] for step in json.loads(files["network.json"])}
    assert steps["device is known"] is True, files["network.json"].decode()
    assert json.loads(files["trust.json"])["level"] == "fresh"

    code, out, err = wavegate("device", "diagnosis", "cam-mqtt", made["id"], "--show")
    assert (code, out) == (0, files["README.txt"].decode())
    assert out.startswith("Support bundle of cam-mqtt, ")
    code, out, _ = wavegate("device", "diagnosis", "cam-mqtt", "--show", "--json")
    assert json.loads(out)["device"] == "cam-mqtt"
    code, out, _ = wavegate("device", "commands", "cam-mqtt", "--json")
    assert [one["id"] for one in json.loads(out)] == [made["id"]]

    log = house.api.get("/api/v1/audit", params={"subject": "device:cam-mqtt"}).json()["items"]
    told = [(one["actor"], one["action"], one["body"].get("why", "")) for one in log]
    assert ("ada", "device.diagnose", "it is odd") in told
    assert ("device:cam-mqtt", "device.answer", "") in told
    assert sum(action == "device.diagnosis.download" for _, action, _ in told) == 3
    assert wavegate("audit", "verify")[0] == 0


def test_over_https_with_status_self_test_and_roll_back(house, site, wavegate, until):
    folder = site.enrol("cam-https", transport="https")
    grow(folder)
    agent = site.run(folder)
    code, out, err = wavegate("device", "diagnose", "cam-https", "--wait", "-o", "json")
    assert code == 0, err
    assert json.loads(out)["bundle_bytes"] > wire.PART_BYTES
    assert agent.device.link.route == "https"

    code, out, err = wavegate("device", "status", "cam-https", "--json")
    assert code == 0, err
    assert json.loads(out)["device"] == "cam-https"
    code, out, err = wavegate("device", "status", "cam-https", "--force")
    assert code == 0, err
    assert "route" in out.splitlines()[1]
    code, out, err = wavegate("device", "selftest", "cam-https", "--json")
    found = {finding["what"]: finding for finding in json.loads(out)}
    assert found["server"]["is_ok"] is True
    assert (code, "[SELFTEST_FAILED]" in err) == (5, True), "no runtime works there, and that is told"
    code, _, err = wavegate("device", "rollback", "cam-https", "--wait")
    assert (code, "[COMMAND_MODEL]" in err) == (1, True), err
    code, _, err = wavegate("device", "status", "cam-https")
    assert (code, "[COMMAND_TOO_SOON]" in err) == (5, True)


def test_a_part_that_is_lost_is_sent_again(house, site, monkeypatch):
    folder = site.enrol("cam-lossy")
    grow(folder)
    hold = Hold(monkeypatch, lose=1)
    site.run(folder)
    ended = house.ended("cam-lossy", house.ask("cam-lossy", "diagnose")["id"])
    assert ended["state"] == "done", ended
    assert hold.lost
    assert hold.parts.count(1) == 2
    assert house.rows("SELECT count(*) FROM device_command WHERE device = 'cam-lossy'") == [(1,)]


def test_the_server_and_the_agent_may_end_in_the_middle(house, site, monkeypatch, until):
    """The server is killed while one device sends and another agent stops while it sends; both are done in the end."""
    first, second = site.enrol("cam-server"), site.enrol("cam-agent")
    grow(first)
    grow(second)
    with monkeypatch.context() as patch:
        hold = Hold(patch, stop=1)
        site.run(first)
        stopped = site.run(second)
        command, other = house.ask("cam-server", "diagnose")["id"], house.ask("cam-agent", "diagnose")["id"]
        assert hold.reached.wait(40)
        until(lambda: len(house.rows("SELECT 1 FROM diagnosis_part")) >= 2, "a part of each is there")
        house.kill()
        assert house.rows("SELECT state, sha256 FROM device_command WHERE do = 'diagnose' AND state != 'done'") == [
            ("waiting", ""),
            ("waiting", ""),
        ]
        stopped.stop()
        hold.go.set()
    house.start()
    site.run(second)
    ended = house.ended("cam-server", command)
    assert (ended["state"], ended["bundle_bytes"] > wire.PART_BYTES) == ("done", True), ended
    ended = house.ended("cam-agent", other)
    assert (ended["state"], ended["bundle_bytes"] > wire.PART_BYTES) == ("done", True), ended
    for device, asked in (("cam-server", command), ("cam-agent", other)):
        content = house.api.get(f"/api/v1/devices/{device}/diagnoses/{asked}").content
        assert f"Support bundle of {device}" in unpacked(content)["README.txt"].decode()


def test_a_device_that_was_away_too_long_is_not_told_any_more(house, site, wavegate, until):
    folder = site.enrol("cam-away")
    command = house.ask("cam-away", "diagnose", life_s=1)["id"]
    ended = house.ended("cam-away", command)
    assert (ended["state"], ended["code"]) == ("expired", "COMMAND_EXPIRED")
    agent = site.run(folder)
    assert house.ended("cam-away", house.ask("cam-away", "status")["id"])["state"] == "done"
    assert [known for known in agent._commands._outcomes if known == command] == []
    code, _, err = wavegate("device", "diagnosis", "cam-away", command)
    assert (code, "[DIAGNOSIS_NOT_KEPT]" in err) == (3, True)


def test_there_is_no_other_word(house, site):
    site.enrol("cam-shell")
    for body in ({"do": "shell"}, {"do": "diagnose", "args": {"path": "/etc/passwd"}}, {"do": "diagnose", "cmd": "id"}):
        assert house.api.post("/api/v1/devices/cam-shell/commands", json=body).status_code == 422


def test_the_runbook_page_is_typed_in(house, site, wavegate, tmp_path, monkeypatch, until):
    """docs/runbooks/sick-device.md: every line of its blocks is run, in its order, as somebody on call would."""
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL) for line in block.splitlines()
    ]
    assert len(lines) >= 10
    folder = site.enrol("cam-07")
    site.run(folder)
    until(lambda: house.api.get("/api/v1/devices/cam-07").json()["device"]["last_seen_ms"], "the first heartbeat")
    monkeypatch.chdir(tmp_path)
    # The device has no runtime and no model: what these two say of that is the right answer.
    expected = {"selftest": (5, "SELFTEST_FAILED"), "rollback": (1, "COMMAND_MODEL")}
    for line in lines:
        program, *words = shlex.split(line)
        if program == "wavegate-agent":
            module, _, function = build_parser().parse_args(words).target.partition(":")
            assert callable(getattr(importlib.import_module(module), function)), line
            continue
        code, _, err = wavegate(*words)
        wanted, said = expected.get(words[1], (0, ""))
        assert (code, said in err) == (wanted, True), f"{line}\n{err}"
    assert len(unpacked((tmp_path / "cam-07.tar.gz").read_bytes())) > 10


@pytest.fixture(autouse=True)
def _no_surprises(house):
    yield
    assert "Traceback" not in (house.home / "server.log").read_text()
