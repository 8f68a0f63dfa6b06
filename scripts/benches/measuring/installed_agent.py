"""One agent as a device has it: from an environment with only ``[agent]``, enrolled at a control plane of its own.

The control plane comes from the environment of this process, and every process ends with the context.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agent.client import Client as AgentClient
from benches.measuring.idle import Idle, watch
from benches.measuring.memory import Memory, of_tree
from bundles.errors import AskPerson, WavegateError
from control_plane.client import Client
from control_plane.demo.processes import Processes, program, run
from control_plane.demo.releases import MODEL_KEY, RELEASES, split_stream, write_project
from control_plane.demo.rollouts import SOAK_S
from control_plane.demo.stage import SERVER, People, Stage

SCRIPT = Path(__file__).resolve().parents[1] / "agent_environment"
DEVICE = "bench-1"
VERSION = "1.0.0"
RUNTIME = "onnxruntime"
WAIT_S = 90.0
LOOK_EVERY_S = 0.002
SETTLE_S = 3.0
"""Three heartbeats of the demo's profile: what the start alone needed has been freed or is there to stay."""
HURRIED = frozenset({"heartbeat_s", "report_s", "canary_report_s", "poll_s", "accept_s", "download_s", "activate_s"})
UNHURRIED_SOAK_S = 2400.0
"""More than two of the canaries' reports, as a policy must say."""
INPUT = {"image": np.zeros((1, 8, 8, 1), np.float32)}


def environment() -> Path:
    """Return the folder of the environment with only ``[agent]``, making it where it is missing.

    Raises:
        AskPerson: ``AGENT_ENVIRONMENT``.
    """
    made = subprocess.run([SCRIPT], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode != 0:
        raise AskPerson(
            "The environment with only [agent] could not be made.",
            code="AGENT_ENVIRONMENT",
            remedy="The lines above say why; delete .venv-agent and try again.",
        )
    return Path(made.stdout.strip())


class InstalledAgent:
    """An enrolled agent that runs; made by ``installed_agent``."""

    def __init__(self, processes: Processes, stage: Stage, people: People, bin_folder: Path, soak_s: float) -> None:
        self._processes, self._stage, self._people, self._soak_s = processes, stage, people, soak_s
        self._program = str(bin_folder / "wavegate-agent")
        self._folder = stage.folder / "device"

    def enroll(self) -> None:
        """Give the device its identity, and start it."""
        with Client(self._stage.url, self._people.admin) as admin:
            token = str(admin.post("/api/v1/devices/enroll-tokens", {"uses": 1, "life_s": 3600})["token"])
        addresses = self._stage.addresses
        run(
            [
                *(self._program, "enroll", "--dir", str(self._folder), "--name", DEVICE, "--hardware", "cam-a"),
                *("--url", str(addresses["devices"]), "--token", token, "--ca", str(addresses["server_ca"])),
                *("--root", str(self._stage.root), "--allow-demo-keys", "--runtime", RUNTIME),
            ]
        )
        self._start()
        self._wait(lambda: self._status().get("state") == "running", "the agent's start")

    def install(self) -> None:
        """Build, sign, publish and roll out a release to this device; wait until the device has committed it."""
        release = RELEASES[VERSION]
        validation, _ = split_stream(self._stage.folder)
        project = write_project(self._stage.folder / "project", release, validation)
        run([program("wavegate"), "bundle", "build", str(project), "--out", str(self._stage.archive(release))])
        self._stage.release(VERSION, self._people)
        body = {
            "release": f"{MODEL_KEY}@{VERSION}",
            "selector": {"all": True},
            "waves": [{"rest": True, "soak_s": self._soak_s}],
            "policy": {"holdout_pct": 0},
        }
        with Client(self._stage.url, self._people.ada) as ada, Client(self._stage.url, self._people.grace) as grace:
            rollout = ada.post("/api/v1/rollouts", body)["id"]
            _, etag = grace.versioned(f"/api/v1/rollouts/{rollout}")
            grace.post(f"/api/v1/rollouts/{rollout}/approve", {}, if_match=etag)
        self._wait(lambda: self._phase() == "confirmed", f"{VERSION} confirmed")
        self._wait(self._answers, "an answer")

    def restart_s(self) -> float:
        """Stop the agent, start it, and return the seconds from there to the first answer of its model."""
        self._stop(DEVICE)
        began = time.perf_counter()
        self._start()
        self._wait(self._answers, "the first answer")
        return time.perf_counter() - began

    def cut_off(self) -> None:
        """End the control plane and its broker; the agent is on its own from now on."""
        self._stop(SERVER)

    def memory(self) -> Memory:
        """Return the memory of the agent and its descendants, once it has settled."""
        time.sleep(SETTLE_S)
        return of_tree(self._processes.pid(DEVICE))

    def idle(self, during_s: float) -> Idle:
        """Return what the agent and its descendants do in ``during_s`` seconds in which nobody asks anything."""
        return watch(self._processes.pid(DEVICE), during_s)

    def ask(self, times: int) -> None:
        """Use the model.

        Raises:
            WavegateError: it does not answer.
        """
        with AgentClient(self._folder / "socket") as client:
            for _ in range(times):
                client.infer(MODEL_KEY, INPUT)

    def _start(self) -> None:
        self._processes.start(DEVICE, [self._program, "run", "--dir", str(self._folder)])

    def _stop(self, name: str) -> None:
        """End a process as a service manager would; killed, the control plane would leave its broker behind."""
        os.kill(self._processes.pid(name), signal.SIGTERM)
        self._wait(lambda: not self._processes.is_running(name), f"the end of {name}")

    def _answers(self) -> bool:
        try:
            self.ask(1)
        except WavegateError:
            return False
        return True

    def _status(self) -> dict[str, Any]:
        with contextlib.suppress(OSError):
            status: dict[str, Any] = json.loads((self._folder / "status.json").read_text())
            return status
        return {}

    def _phase(self) -> str:
        return str(self._status().get("models", {}).get(MODEL_KEY, {}).get("phase", ""))

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > deadline:
                raise AskPerson(f"It never came to {what}: {self._processes.last_words(DEVICE)}", code="BENCH_TIMEOUT")
            time.sleep(LOOK_EVERY_S)


@contextlib.contextmanager
def installed_agent(bin_folder: Path, *, is_hurried: bool = True) -> Iterator[InstalledAgent]:
    """Bring up a control plane and an enrolled agent without a model; end both on leaving.

    Args:
        bin_folder: holds the ``wavegate-agent`` to use.
        is_hurried: reports, heartbeats and polls every few seconds, as in the demo; else as on a device.

    Raises:
        AskPerson: a program could not be started.
    """
    with tempfile.TemporaryDirectory(prefix="wg-bench-") as folder, Processes(Path(folder) / "logs") as processes:
        stage = Stage(processes, Path(folder), 0)
        stage.hold_ceremony()
        if not is_hurried:
            settings = stage.data / "settings.toml"
            kept = [line for line in settings.read_text().splitlines() if line.partition(" ")[0] not in HURRIED]
            settings.write_text("\n".join(kept) + "\n")
        stage.start_server()
        people = stage.let_people_in()
        agent = InstalledAgent(processes, stage, people, bin_folder, SOAK_S if is_hurried else UNHURRIED_SOAK_S)
        agent.enroll()
        yield agent
