"""A site where only the broker is reachable: a real device of a real control plane updates all the same."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.config import AgentConfig
from agent.runner.credentials import enroll_over_https
from agent.runner.wiring import Agent
from control_plane.client import Client
from control_plane.demo.processes import Processes, program, run
from control_plane.demo.releases import MODEL_KEY, RELEASES, split_stream, write_project
from control_plane.demo.stage import Stage

VERSION = "1.0.0"


@pytest.fixture
def stage():
    with tempfile.TemporaryDirectory(prefix="wg-") as folder, Processes(Path(folder) / "logs") as processes:
        stage = Stage(processes, Path(folder), 0)
        stage.hold_ceremony()
        stage.start_server()
        yield stage


def test_a_device_whose_https_is_blocked_updates_over_the_broker_alone(stage, network_to, faults, until):
    people = stage.let_people_in()
    project = write_project(stage.folder / "project", RELEASES[VERSION], split_stream(stage.folder)[0])
    run([program("wavegate"), "bundle", "build", str(project), "--out", str(stage.archive(RELEASES[VERSION]))])
    stage.release(VERSION, people)
    https = network_to(urlsplit(str(stage.addresses["devices"])).port)
    with Client(stage.url, people.admin) as admin:
        token = admin.post("/api/v1/devices/enroll-tokens", {"uses": 1, "life_s": 3600})["token"]
    folder = stage.folder / "cam-1"
    enroll_over_https(
        folder / "identity",
        url=f"https://127.0.0.1:{https.port}",
        token=token,
        server_ca_pem=Path(stage.addresses["server_ca"]).read_text(),
        name="cam-1",
        hardware="cam-a",
    )
    (folder / "root.json").write_bytes(stage.root.read_bytes())
    https.faults = faults(is_closed=True)
    https.cut_all()
    passed = https.down
    config = AgentConfig(hardware="cam-a", runtimes=("onnxruntime",), heartbeat_s=0.5, poll_s=1, allow_demo_keys=True)
    agent = Agent(folder, config)
    agent.start()
    try:
        with Client(stage.url, people.ada) as ada, Client(stage.url, people.grace) as grace:
            body = {
                "release": f"{MODEL_KEY}@{VERSION}",
                "selector": {"all": True},
                "waves": [{"rest": True, "soak_s": 13.0}],
                "policy": {"holdout_pct": 0, "output": {"min_devices": 2, "min_rows": 20}, "rollback_s": 60},
            }
            made = ada.post("/api/v1/rollouts", body)["id"]
            _, etag = grace.versioned(f"/api/v1/rollouts/{made}")
            grace.post(f"/api/v1/rollouts/{made}/approve", {}, if_match=etag)

        def phase() -> str:
            try:
                return json.loads(agent.folders.status.read_text())["models"][MODEL_KEY]["phase"]
            except (OSError, KeyError, ValueError):
                return ""

        until(lambda: phase() == "confirmed", "the release confirmed on the device")
        with Client(stage.url, people.ada) as ada:

            def seen() -> bool:
                return '"confirmed"' in json.dumps(ada.get("/api/v1/devices/cam-1"))

            until(seen, "and seen by its operators")
        assert https.down == passed, "not one byte over HTTPS"
    finally:
        agent.stop()
