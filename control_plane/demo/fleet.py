"""The demo's devices: four real agents, each a process of its own, and a simulated fleet in one more process."""

from __future__ import annotations

import importlib.util
import json
import queue
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundles.errors import AskPerson
from control_plane.demo.processes import Processes, program, run

ANSWER_TIMEOUT_S = 90.0
SIMULATE = "simulate"


@dataclass(frozen=True)
class RealDevice:
    """One real agent."""

    name: str
    hardware: str
    runtime: str
    site: str


def real_devices() -> list[RealDevice]:
    """Return the real agents: two on ONNX Runtime, two on LiteRT and, where it has a build, tflite-runtime."""
    has_tflite = importlib.util.find_spec("tflite_runtime") is not None
    return [
        RealDevice("cam-r1", "cam-a", "onnxruntime", "north"),
        RealDevice("cam-r2", "cam-a", "onnxruntime", "south"),
        RealDevice("cam-r3", "cam-b", "litert", "north"),
        RealDevice("cam-r4", "cam-b", "tflite" if has_tflite else "litert", "south"),
    ]


@dataclass(frozen=True)
class Door:
    """What a device must be told to enrol.

    Attributes:
        url: the devices' door.
        server_ca: file with the pin.
        root: file with the root of trust.
        token: counted claim token.
    """

    url: str
    server_ca: Path
    root: Path
    token: str

    @property
    def flags(self) -> list[str]:
        """The same as flags of ``wavegate-agent``."""
        door = ["--url", self.url, "--ca", str(self.server_ca), "--root", str(self.root), "--token", self.token]
        return [*door, "--allow-demo-keys"]  # the demo's root is marked: nobody can take it for a real one


class DemoFleet:
    """Starts, steers and reads back the demo's devices.

    Args:
        processes: where their processes are kept.
        folder: of all devices.
        door: the server they enrol at.
        stream: digits their cameras see.
    """

    def __init__(self, processes: Processes, folder: Path, door: Door, stream: Path) -> None:
        self._processes, self._folder, self._door, self._stream = processes, folder, door, stream
        self.real = real_devices()
        self._answers: queue.Queue[str] = queue.Queue()
        self._simulate: subprocess.Popen[bytes] | None = None

    def start_real(self, rate_hz: float) -> None:
        """Enrol the real agents and start them, side by side.

        Raises:
            AskPerson: ``COMMAND_FAILED``: one could not enrol.
        """

        def one(device: RealDevice) -> None:
            folder = str(self._folder / device.name)
            run(
                [
                    *(program("wavegate-agent"), "enroll", "--dir", folder, *self._door.flags),
                    *("--name", device.name, "--hardware", device.hardware, "--runtime", device.runtime),
                    *("--label", f"site={device.site}", "--stream", str(self._stream), "--rate-hz", str(rate_hz)),
                ]
            )
            self.run_real(device.name)

        with ThreadPoolExecutor(len(self.real)) as pool:
            list(pool.map(one, self.real))

    def run_real(self, name: str) -> None:
        """Start the enrolled agent ``name`` (again)."""
        folder = str(self._folder / name)
        self._processes.start(name, [program("wavegate-agent"), "run", "--dir", folder, "--verbose"])

    def start_virtual(self, count: int, rate_hz: float, seed: int) -> list[str]:
        """Enrol and start ``count`` virtual devices; return their ids.

        Raises:
            AskPerson: ``FLEET_SILENT`` or ``FLEET_REFUSED``.
        """
        command = [
            *(program("wavegate-agent"), "simulate", "--dir", str(self._folder / "virtual"), *self._door.flags),
            *("--count", str(count), "--prefix", "cam-", "--hardware", "cam-a:onnxruntime,cam-b:litert"),
            # Two of each kind at each site, so that a site is not a kind of hardware by another name.
            *("--label", "site=north,north,south,south"),
            *("--stream", str(self._stream), "--rate-hz", str(rate_hz), "--seed", str(seed)),
        ]
        self._simulate = self._processes.start(SIMULATE, command, pipes=True)
        threading.Thread(target=self._listen, name="simulate-answers", daemon=True).start()
        devices: list[str] = self._answer()["devices"]
        return devices

    def steer(self, command: str) -> dict[str, Any]:
        """Send one command to the virtual devices; return the answer.

        Raises:
            AskPerson: ``FLEET_SILENT`` or ``FLEET_REFUSED``.
        """
        assert self._simulate is not None
        assert self._simulate.stdin is not None
        try:
            self._simulate.stdin.write(command.encode() + b"\n")
            self._simulate.stdin.flush()
        except OSError as error:
            raise self._silent() from error
        return self._answer()

    def blur(self, site: str, virtual: list[str]) -> list[str]:
        """Put a blurred lens before every camera at ``site``; return their ids."""
        names = [device.name for device in self.real if device.site == site]
        for name in names:
            (self._folder / name / "stream.blur").touch()
        self.steer(f"blur {','.join(virtual)}")
        return names + virtual

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Return what every device says of itself, by id; real ones from their status files."""
        found: dict[str, dict[str, Any]] = {}
        for device in self.real:
            path = self._folder / device.name / "status.json"
            found[device.name] = json.loads(path.read_text())
        for path in sorted((self._folder / "virtual" / "devices").glob("*/status.json")):
            found[path.parent.name] = json.loads(path.read_text())
        return found

    def _listen(self) -> None:
        assert self._simulate is not None
        assert self._simulate.stdout is not None
        for line in self._simulate.stdout:
            self._answers.put(line.decode())
        self._answers.put("")

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=ANSWER_TIMEOUT_S)
        except queue.Empty as error:
            raise self._silent() from error
        if not line:
            raise self._silent()
        answer: dict[str, Any] = json.loads(line)
        if not answer.get("ok"):
            error_text = answer.get("error", {}).get("message", line)
            raise AskPerson(f"The simulated fleet refused: {error_text}", code="FLEET_REFUSED")
        return answer

    def _silent(self) -> AskPerson:
        return AskPerson(
            f"The simulated fleet does not answer: {self._processes.last_words(SIMULATE)}",
            code="FLEET_SILENT",
            remedy="See simulate.log in the demo's folder.",
        )
