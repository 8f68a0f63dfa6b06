"""Models of 5 MB and 500 MB from build to roll out: real control plane, broker and agents; memory stays bounded.

The model is the demo's digit reader with weights that nothing reads behind it: it answers, and its file has the size
under test. ONNX Runtime drops such weights once loaded, so the figures are the agent's and not the worker's.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from agent.client import Client as AgentClient
from bundles.errors import WavegateError
from control_plane.client import Client
from control_plane.demo.processes import Processes, program, run
from control_plane.demo.releases import CONTRACT, DATA, MODEL, MODEL_KEY, TEAM
from control_plane.demo.stage import SERVER, Stage

SEED = 4
LIMIT_S = 600.0
MOVED = 0.01
"""Of the weights, by one, between the two releases."""
AGENT_BAR_MIB = 48.0
"""Most that an update may add to the agent's own process, whatever the size of its files."""
VERSIONS = {"1.0.0": 1, "1.1.0": 2}
NO_ROOM_MIB = 1 << 30
ROOMY, CRAMPED = "roomy", "cramped"
IMAGE = {"image": np.zeros((1, 8, 8, 1), np.float32)}


def until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it never came to: {what}"
        time.sleep(0.2)
    return found


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def with_weights(model: bytes, weights: bytes) -> bytes:
    """Add an initializer to an ONNX model: messages of Protocol Buffers that follow one another are merged."""
    int8 = varint(2 << 3) + varint(3)  # TensorProto.data_type
    tensor = varint(1 << 3) + varint(len(weights)) + int8 + field(8, b"ballast")  # dims, name
    tensor_head = tensor + varint(9 << 3 | 2) + varint(len(weights))  # raw_data
    initializer = varint(5 << 3 | 2) + varint(len(tensor_head) + len(weights)) + tensor_head
    graph = varint(7 << 3 | 2) + varint(len(initializer) + len(weights)) + initializer
    return b"".join((model, graph, weights))


def write_models(folder: Path, size: int) -> dict[str, Path]:
    rng = np.random.default_rng(SEED)
    weights = np.clip(np.round(rng.normal(0, 25.2, size).astype(np.float32)), -127, 127).astype(np.int8)
    paths = {}
    for version in VERSIONS:
        paths[version] = folder / f"{version}.onnx"
        # The graph stays: what is new are weights, as after a retraining.
        paths[version].write_bytes(with_weights((DATA / "digits-1.0.0.onnx").read_bytes(), weights.tobytes()))
        moved = rng.random(size, np.float32) < MOVED
        weights[moved] = np.where(weights[moved] < 127, weights[moved] + 1, 126)
    return paths


def write_project(folder: Path, version: str, model: Path, validation: Path) -> Path:
    folder.mkdir()
    (folder / "contract.json").write_text(json.dumps(CONTRACT))
    project = folder / "bundle.toml"
    project.write_text(
        f"""contract = "contract.json"
goldens = "{DATA / "digits-goldens-1.0.0.npz"}"
[bundle]
team = "{TEAM}"
model = "{MODEL}"
version = "{version}"
release_counter = {VERSIONS[version]}
channel = "prod"
licence = "Apache-2.0"
[training]
rows = "{DATA / "digits-train.npz"}"
[validation]
rows = "{validation}"
[[variants]]
id = "onnx-int8"
runtime = "onnxruntime"
file = "{model}"
"""
    )
    return project


class Device:
    """An enrolled agent, a process of its own."""

    def __init__(self, processes: Processes, stage: Stage, name: str, token: str) -> None:
        self.name, self.folder = name, stage.folder / name
        self._processes = processes
        addresses = stage.addresses
        run(
            [
                *(program("wavegate-agent"), "enroll", "--dir", str(self.folder), "--name", name),
                *("--url", str(addresses["devices"]), "--token", token, "--ca", str(addresses["server_ca"])),
                *("--root", str(stage.root), "--allow-demo-keys", "--hardware", "cam-a", "--runtime", "onnxruntime"),
            ]
        )

    def start(self) -> None:
        self._processes.start(self.name, [program("wavegate-agent"), "run", "--dir", str(self.folder)])

    def restart(self, setting: str) -> None:
        config = self.folder / "config.toml"
        config.write_text(f"{setting}\n{config.read_text()}")
        os.kill(self._processes.pid(self.name), signal.SIGTERM)
        until(lambda: not self._processes.is_running(self.name), "the agent's end", 60)
        self.start()

    def model(self) -> dict[str, Any]:
        try:
            said = json.loads((self.folder / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return said.get("models", {}).get(MODEL_KEY, {})

    def answers(self) -> bool:
        try:
            with AgentClient(self.folder / "socket") as client:
                return client.infer(MODEL_KEY, IMAGE) is not None
        except WavegateError:
            return False

    def peak_mib(self) -> float:
        """The most resident memory of the agent's own process since ``forget_peak``."""
        status = Path(f"/proc/{self._processes.pid(self.name)}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self._processes.pid(self.name)}/clear_refs").write_text("5")


def metric(url: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{url}/metrics").text, re.M)
    return float(found[1]) if found else 0.0


class Desk:
    """What people do: sign, publish, approve, plan and roll out."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.people = stage, stage.let_people_in()

    def token(self) -> str:
        with Client(self.stage.url, self.people.admin) as admin:
            return str(admin.post("/api/v1/devices/enroll-tokens", {"uses": 2, "life_s": 3600})["token"])

    def release(self, version: str, model: Path, validation: Path) -> str:
        folder = self.stage.folder / f"project-{version}"
        archive = str(folder / "made.wgb")
        project = write_project(folder, version, model, validation)
        run([program("wavegate"), "bundle", "build", str(project), "--out", archive])
        key = str(self.stage.keys / "keys" / f"team-{TEAM}.pem")
        signed = ["--key", key, "--metadata", self.stage.url, "--root", str(self.stage.root)]
        run([program("wavegate"), "bundle", "sign", archive, *signed])
        with Client(self.stage.url, self.people.ada) as ada, Path(archive).open("rb") as stream:
            digest = str(ada.upload("/api/v1/releases", stream)["sha256"])
        with Client(self.stage.url, self.people.grace) as grace:
            grace.post(f"/api/v1/releases/{digest}/approve", {"comment": "reviewed"})
        return digest

    def body(self, version: str) -> dict[str, Any]:
        deadlines = dict.fromkeys(("accept_s", "download_s", "activate_s", "probation_s"), LIMIT_S)
        return {
            "release": f"{MODEL_KEY}@{version}",
            "selector": {"all": True},
            "waves": [{"rest": True, "soak_s": 2 * LIMIT_S}],
            "policy": {"holdout_pct": 0, "deadlines": deadlines},
        }

    def plan(self, version: str) -> dict[str, Any]:
        with Client(self.stage.url, self.people.ada) as ada:
            return ada.post("/api/v1/rollouts/plan", self.body(version))

    def plan_in_words(self, version: str, *more: str) -> subprocess.CompletedProcess[str]:
        wanted = ["--release", f"{MODEL_KEY}@{version}", "--all", "--wave", "rest", "--soak", str(2 * LIMIT_S)]
        access = {"WAVEGATE_URL": self.stage.url, "WAVEGATE_TOKEN": self.people.ada}
        command = [program("wavegate"), "rollout", "plan", *wanted, *more]
        return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **access})

    def roll_out(self, version: str) -> str:
        with Client(self.stage.url, self.people.ada) as ada, Client(self.stage.url, self.people.grace) as grace:
            rollout = str(ada.post("/api/v1/rollouts", self.body(version))["id"])
            _, etag = grace.versioned(f"/api/v1/rollouts/{rollout}")
            grace.post(f"/api/v1/rollouts/{rollout}/approve", {}, if_match=etag)
        return rollout

    def stop(self, rollout: str) -> None:
        with Client(self.stage.url, self.people.ada) as ada:
            _, etag = ada.versioned(f"/api/v1/rollouts/{rollout}")
            ada.post(f"/api/v1/rollouts/{rollout}/abort", {"reason": "seen enough"}, if_match=etag)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("size_mb", [5, 500])
def test_a_model_of_this_size_from_build_to_a_delta_on_the_device(tmp_path, size_mb, record_property):
    size = size_mb * 1_000_000
    with Processes(tmp_path / "logs") as processes:
        stage = Stage(processes, tmp_path, 0)
        stage.hold_ceremony()
        settings = stage.data / "settings.toml"
        settings.write_text(settings.read_text().replace("download_s = 12.0", f"download_s = {LIMIT_S}"))
        stage.start_server()
        desk = Desk(stage)
        models = write_models(tmp_path, size)
        validation = tmp_path / "digits-validation.npz"
        digests = {version: desk.release(version, path, validation) for version, path in models.items()}

        token = desk.token()
        roomy, cramped = (Device(processes, stage, name, token) for name in (ROOMY, CRAMPED))
        roomy.start(), cramped.start()
        with Client(stage.url, desk.people.ada) as ada:
            until(lambda: len(ada.pages("/api/v1/devices", most=9)) == 2, "both devices enrolled")
        until(lambda: not desk.plan("1.0.0")["room_unknown"], "both devices have told their room")
        assert desk.plan("1.0.0")["short"] == []
        began = time.monotonic()
        first = desk.roll_out("1.0.0")
        for device in (roomy, cramped):
            until(lambda device=device: device.model().get("phase") == "confirmed", f"1.0.0 on {device.name}")
        whole_s, whole_mib = time.monotonic() - began, roomy.peak_mib()
        desk.stop(first)

        cramped.restart(f"reserve_mib = {NO_ROOM_MIB}")
        until(lambda: desk.plan("1.1.0")["short"], "the plan has heard of the device without room")
        plan = json.loads(desk.plan_in_words("1.1.0", "-o", "json").stdout)
        assert [(one["device"], one["resource"]) for one in plan["short"]] == [(CRAMPED, "disk")]
        assert plan["short"][0]["needed_bytes"] >= size
        words = desk.plan_in_words("1.1.0").stderr
        assert f"No room: {CRAMPED} cannot store this release beside the one it runs" in words
        assert f"1 device ({CRAMPED}) cannot hold two copies" in words

        until(cramped.answers, "its model answers again")
        server = Path(f"/proc/{processes.pid(SERVER)}/status")
        roomy.forget_peak()
        before_mib = roomy.peak_mib()
        began = time.monotonic()
        desk.roll_out("1.1.0")
        until(
            lambda: roomy.model().get("phase") == "confirmed" and roomy.model().get("sha256") == digests["1.1.0"],
            "1.1.0 on the device with room",
        )
        delta_s, delta_mib = time.monotonic() - began, roomy.peak_mib()
        assert roomy.answers()
        assert metric(stage.url, "wavegate_deltas_served_total") == 1, "it came as a delta"
        saved = metric(stage.url, "wavegate_delta_bytes_saved_total")
        assert saved > 0.95 * size
        put_off = until(lambda: cramped.model().get("phase") == "deferred" and cramped.model(), "put off without room")
        assert put_off["reason"] == "disk"
        assert cramped.answers(), "what it has goes on answering"
        server_mib = int(re.search(r"VmHWM:\s+(\d+)", server.read_text())[1]) / 1024
        figures = (
            f"{size_mb} MB, seed {SEED}: whole in {whole_s:.0f} s (two devices), by delta in {delta_s:.0f} s, "
            f"{saved / 1e6:.1f} MB saved; agent at most {whole_mib:.0f} MiB with the whole file, {delta_mib:.0f} MiB "
            f"with the delta ({before_mib:.0f} MiB before); server at most {server_mib:.0f} MiB"
        )
        print(figures)
        record_property("figures", figures)
        assert max(whole_mib, delta_mib) - before_mib < AGENT_BAR_MIB, figures
