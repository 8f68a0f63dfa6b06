"""``wavegate-agent`` as a person meets it: real processes, a real broker with mutual TLS, SIGTERM and SIGKILL."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from bundles.wire import codec

MODEL = "vision/digits"


@pytest.fixture
def command(tmp_path):
    """Run ``wavegate-agent``; returns (exit code, stdout, stderr), or the process where ``wait`` is False."""
    started = []

    def run(*arguments, wait=True, stdin=None):
        line = [sys.executable, "-m", "agent.cli", *map(str, arguments)]
        if wait:
            done = subprocess.run(line, capture_output=True, text=True, timeout=120, input=stdin, check=False)
            return done.returncode, done.stdout, done.stderr
        log = (tmp_path / f"agent-{len(started)}.log").open("wb")
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        log.close()
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def files(tmp_path, server_ca, publisher):
    """The two files a device is enrolled with."""
    (tmp_path / "server-ca.pem").write_text(server_ca.pem)
    return ["--ca", tmp_path / "server-ca.pem", "--root", publisher.root_path]


@pytest.fixture
def enrolled(command, server, files, broker, consumer, short_path, probed):
    consumer.acks = True
    server.mqtt = {"host": "127.0.0.1", "port": broker.port}
    folder = short_path / "cam-1"
    code, out, err = command(
        "enroll", "--dir", folder, "--url", server.url, "--token", "-", *files, "--name", "cam-1",
        "--hardware", "cam-a", "--runtime", "onnxruntime", "--label", "site=north", stdin="good-token\n",
    )  # fmt: skip
    assert (code, out.strip()) == (0, "cam-1"), err
    probed(folder, "onnxruntime")
    return folder


def status(folder):
    try:
        return json.loads((folder / "status.json").read_text())
    except FileNotFoundError:
        return {}


def model(folder):
    return status(folder).get("models", {}).get(MODEL, {})


def test_the_life_of_an_agent_over_mqtt(command, enrolled, publisher, server, consumer, until, tmp_path):
    folder = enrolled
    first = publisher.publish("1.0.0", 1)
    consumer.tell("cam-1", "down/desired", publisher.desire("cam-1", first, canary=True), retain=True)
    agent = command("run", "--dir", folder, wait=False)
    until(lambda: model(folder).get("phase") == "confirmed", 90, "1.0.0 confirmed")
    until(lambda: status(folder)["route"] == "mqtt", what="the broker in use")
    heartbeat = consumer.of("cam-1", "up/reported")[-1]
    assert (heartbeat.hardware, heartbeat.labels, heartbeat.tier) == ("cam-a", {"site": "north"}, "real")
    until(lambda: status(folder)["spool_pending"] == 0, 30, "every event acked")
    assert server.reports == [], "reports go by the broker"
    phases = {e.seq: e.data["phase"] for e in consumer.of("cam-1", "up/event") if e.kind == "phase"}
    assert [phases[seq] for seq in sorted(phases)][-1] == "confirmed"

    np.save(tmp_path / "zero.npy", np.zeros((1, 8, 8, 1), np.float32))
    code, out, err = command("infer", MODEL, "--dir", folder, "--input", tmp_path / "zero.npy")
    assert code == 0, err
    assert json.loads(out)["version"] == "1.0.0"
    assert command("infer", "vision/cats", "--dir", folder, "--input", tmp_path / "zero.npy")[0] == 3
    code, out, _ = command("status", "--dir", folder)
    assert code == 0
    assert "vision/digits: 1.0.0" in out
    code, out, _ = command("selftest", "--dir", folder)
    assert code == 0, out
    code, _, err = command("rollback", "--dir", folder)
    assert "NO_PREVIOUS" in err
    assert command("run", "--dir", folder)[0] == 5, "one agent a folder"

    agent.send_signal(signal.SIGTERM)
    assert agent.wait(10) == 0
    until(lambda: consumer.of("cam-1", "up/presence")[-1].state == "going_offline", what="the farewell")
    assert status(folder)["state"] == "stopped"
    assert not (folder / "socket").exists()


def test_a_killed_agent_loses_no_report_and_counts_none_twice(command, enrolled, publisher, consumer, until):
    folder = enrolled
    data = publisher.desire("cam-1", publisher.publish("1.0.0", 1))
    consumer.acks = False
    consumer.tell("cam-1", "down/desired", data, retain=True)
    agent = command("run", "--dir", folder, wait=False)
    until(lambda: model(folder).get("phase") == "confirmed", 90, "1.0.0 confirmed")
    until(lambda: len({e.seq for e in consumer.of("cam-1", "up/event")}) >= 7, 30, "events sent and not acked")
    os.kill(agent.pid, signal.SIGKILL)
    agent.wait()
    before = len(consumer.messages)
    states = [p.state for p in consumer.of("cam-1", "up/presence")]
    assert states[0] == "online"
    consumer.acks = True
    command("run", "--dir", folder, wait=False)
    until(lambda: any(leaf == "up/event" for _, leaf, _ in consumer.messages[before:]), 60, "events sent again")
    until(lambda: status(folder).get("session") == 2 and status(folder)["spool_pending"] == 0, 60, "all acked")
    payloads = {}
    for _, leaf, payload in list(consumer.messages):
        if leaf == "up/event":
            event = codec.decode_up(leaf, payload)
            assert payloads.setdefault((event.boot_epoch, event.seq), payload) == payload, "resent byte for byte"
    numbers = sorted(seq for _, seq in payloads)
    assert numbers == list(range(1, len(numbers) + 1))


def test_enrolling_twice_keeps_the_identity_and_bad_files_are_told(command, enrolled, server, files, short_path):
    before = (enrolled / "identity" / "cert.pem").read_bytes()
    code, out, _ = command("enroll", "--dir", enrolled, "--url", server.url, "--token", "spent", *files)
    assert (code, out.strip()) == (0, "cam-1")
    assert (enrolled / "identity" / "cert.pem").read_bytes() == before
    other = short_path / "other"
    code, _, err = command("enroll", "--dir", other, "--url", server.url, "--token", "spent", *files)
    assert (code, "ENROL_TOKEN" in err) == (4, True)
    swapped = ["--ca", files[1], "--root", files[1]]
    code, _, err = command("enroll", "--dir", other, "--url", server.url, "--token", "good-token", *swapped)
    assert (code, "ROOT_INVALID" in err) == (1, True)
    code, _, err = command("enroll", "--dir", other, "--url", "https://127.0.0.1:1", "--token", "good-token", *files)
    assert (code, "SERVER_UNREACHABLE" in err) == (1, True)


def test_a_simulated_fleet_is_steered_by_lines(
    command, server, broker, consumer, files, publisher, short_path, probed, until
):
    consumer.acks = True
    server.mqtt = {"host": "127.0.0.1", "port": broker.port}
    wanted = publisher.publish("1.0.0", 1)
    names = ["v-001", "v-002", "v-003"]
    for name in names:
        consumer.tell(name, "down/desired", publisher.desire(name, wanted), retain=True)
    folder = short_path / "fleet"
    probed(folder / "shared", "onnxruntime", "litert")
    process = command(
        "simulate", "--dir", folder, "--count", 3, "--prefix", "v-", "--url", server.url, *files,
        "--token", "good-token",
        "--hardware", "cam-a:onnxruntime,cam-b:litert", "--label", "site=north,south", "--stream", publisher.stream,
        "--seed", 5, wait=False,
    )  # fmt: skip

    def ask(line):
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    assert json.loads(process.stdout.readline())["devices"] == names
    devices = until(lambda: all_confirmed(ask("status")["devices"]), 90, "all confirmed")
    assert {entry["route"] for entry in devices.values()} == {"mqtt"}
    assert consumer.of("v-002", "up/reported")[-1].labels == {"site": "south"}
    assert ask("offline v-003 2")["ok"]
    until(lambda: [p.state for p in consumer.of("v-003", "up/presence")][:2] == ["online", "lost"], what="the will")
    until(lambda: consumer.of("v-003", "up/presence")[-1].state == "online", 60, "its return")
    assert ask("stop")["ok"]
    assert process.wait(20) == 0
    until(lambda: {consumer.of(n, "up/presence")[-1].state for n in names} == {"going_offline"}, what="farewells")


def all_confirmed(devices):
    is_done = all(entry["models"].get(MODEL, {}).get("phase") == "confirmed" for entry in devices.values())
    return devices if is_done else None
