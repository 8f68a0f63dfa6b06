"""kill -9 of the server, the broker and an agent in the middle of a rollout: it still ends right, and nothing is lost.

Real processes throughout. The kills are shown to have landed, and messages to have been delivered again.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from control_plane.client import Client
from control_plane.demo.fleet import DemoFleet, Door
from control_plane.demo.narrator import Narrator
from control_plane.demo.processes import Processes
from control_plane.demo.releases import MODEL_KEY
from control_plane.demo.rollouts import SOAK_S
from control_plane.demo.stage import SERVER, Stage

VIRTUAL = 20
LIMIT_S = 180.0


def until(condition, what: str, limit_s: float = LIMIT_S):
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if found := condition():
                return found
        except (httpx.HTTPError, OSError):
            pass  # the server is down: that is what this test is about
        except Exception as error:
            if getattr(error, "code", "") != "SERVER_UNREACHABLE":
                raise
        assert time.monotonic() < deadline, f"it never came to: {what}"
        time.sleep(0.2)


def is_dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def metric(url: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{url}/metrics").text, re.M)
    return float(found[1]) if found else 0.0


class Stored:
    """What the server's database holds, read beside the server."""

    def __init__(self, data: Path) -> None:
        self._path = data / "wavegate.db"

    def rows(self, query: str) -> list[tuple]:
        connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()


@pytest.mark.timeout(600)
def test_a_rollout_ends_right_though_server_broker_and_agent_are_killed(tmp_path):
    narrator = Narrator(Console(width=160))
    with Processes(tmp_path / "logs") as processes:
        stage = Stage(processes, tmp_path, 0)
        stage.hold_ceremony()
        building = threading.Thread(target=stage.build_all, args=(lambda _: None,))
        building.start()
        stage.start_server()
        people = stage.let_people_in()
        with Client(stage.url, people.admin) as admin:
            token = admin.post("/api/v1/devices/enroll-tokens", {"uses": 64, "life_s": 3600})["token"]
        door = Door(stage.addresses["devices"], Path(stage.addresses["server_ca"]), stage.root, token)
        fleet = DemoFleet(processes, tmp_path / "devices", door, stage.stream)
        fleet.start_real(5.0)
        fleet.start_virtual(VIRTUAL, 5.0, 1)
        building.join()
        stage.release("1.0.0", people)
        everybody = VIRTUAL + len(fleet.real)

        with Client(stage.url, people.ada) as ada, Client(stage.url, people.grace) as grace:
            until(lambda: len(ada.pages("/api/v1/devices", most=100)) == everybody, "everybody enrolled")
            body = {
                "release": f"{MODEL_KEY}@1.0.0",
                "selector": {"all": True},
                "seed": "kills",
                "waves": [{"count": 18, "soak_s": SOAK_S + 15}, {"rest": True, "soak_s": SOAK_S + 15}],
                # The deadlines leave room for restarts: what is under test is that nothing is lost, not speed.
                "policy": {
                    "holdout_pct": 0,
                    "looks": 2,
                    "deadlines": {"accept_s": 25, "download_s": 25, "activate_s": 25, "probation_s": 25},
                },
            }
            rollout = ada.post("/api/v1/rollouts", body)["id"]
            _, etag = grace.versioned(f"/api/v1/rollouts/{rollout}")
            grace.post(f"/api/v1/rollouts/{rollout}/approve", {}, if_match=etag)

            def states() -> dict[str, str]:
                rows = ada.pages(f"/api/v1/rollouts/{rollout}/devices", most=100)
                return {row["device"]: row["state"] for row in rows}

            until(lambda: any(s not in ("queued", "offered") for s in states().values()), "the first device moves")
            server = processes.kill(SERVER)
            assert is_dead(server)
            narrator.say(f"server {server} killed in the middle of wave 1")
            time.sleep(2.0)  # devices go on, and their reports wait at the broker and in their spools
            stage.start_server()
            assert processes.pid(SERVER) != server
            until(lambda: "confirmed" in states().values(), "devices are confirmed after the server's restart")

            broker = int(stage.addresses["broker_pid"])
            os.kill(broker, signal.SIGKILL)
            until(lambda: is_dead(broker), "the broker is dead")
            until(lambda: metric(stage.url, "wavegate_broker_restarts") >= 1, "the broker was started again")
            narrator.say(f"broker {broker} killed; its successor runs")

            first_wave = [row["device"] for row in ada.pages(f"/api/v1/rollouts/{rollout}/devices", most=100, wave=1)]
            victim = next(device.name for device in fleet.real if device.name in first_wave)
            before = fleet.statuses()[victim]["session"]
            agent = processes.kill(victim)
            assert is_dead(agent)
            fleet.run_real(victim)
            until(lambda: fleet.statuses()[victim]["session"] > before, "the agent's next session")
            narrator.say(f"agent {victim} ({agent}) killed and started again")

            def ended():
                phase = ada.get(f"/api/v1/rollouts/{rollout}")["rollout"]["phase"]
                return phase if phase not in ("running", "paused", "scheduled", "halted", "rolling_back") else ""

            phase = until(ended, "the rollout's end", 300)
            assert phase == "completed", ada.get(f"/api/v1/rollouts/{rollout}/explain")["text"]
            # A device whose offer fell into the gap is deferred, in no denominator, and takes it up in the open tail.
            until(lambda: set(states().values()) == {"confirmed"}, "every device confirmed, the tail included", 60)
            until(lambda: metric(stage.url, 'wavegate_ingest_messages_total{outcome="repeated"}') > 0, "a redelivery")
            repeated = metric(stage.url, 'wavegate_ingest_messages_total{outcome="repeated"}')
            narrator.say(f"{repeated:.0f} messages were delivered again, and counted once")
            check_nothing_lost_or_doubled(ada, Stored(stage.data), fleet)


def check_nothing_lost_or_doubled(ada: Client, stored: Stored, fleet: DemoFleet) -> None:
    def spools_are_whole() -> bool:
        marks = stored.rows("select device, upto_seq, max_seq, stored from sequence_mark")
        return all(upto == highest == count for _, upto, highest, count in marks)

    until(spools_are_whole, "every report of every spool is stored", 90)
    counts = stored.rows(
        "select (select count(*) from raw_message where leaf = 'up/tel'), (select sum(windows) from device_window), "
        "(select count(*) from raw_message where leaf = 'up/event'), (select count(*) from device_event), "
        "(select count(*) from dead_letter)"
    )
    windows, merged, events, lines, unreadable = counts[0]
    assert windows == merged > 0, "a window was merged twice or not at all"
    assert events == lines > 0, "an event is missing from the timeline, or there twice"
    assert unreadable == 0
    twins = [ada.get(f"/api/v1/devices/{row['id']}") for row in ada.pages("/api/v1/devices", most=100)]
    dropped = {twin["reported"].get("spool_dropped", 0) for twin in twins}
    assert dropped == {0}
    for device in fleet.real:
        epochs = [row for row in stored.rows("select device, boot_epoch from sequence_mark") if row[0] == device.name]
        assert len(epochs) == 1, "a killed agent goes on with the spool it had"
