"""Sets the stage: keys, bundles, a running control plane, two people with tokens. Everything by the real commands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundles.errors import AskPerson
from control_plane.client import Client
from control_plane.demo.processes import Processes, free_port, program, run
from control_plane.demo.releases import RELEASES, TEAM, Release, split_stream, write_project

PROFILE = {
    "heartbeat_s": 1.0,
    "report_s": 4.0,
    "canary_report_s": 2.0,
    "probation_s": 3.0,
    "accept_s": 8.0,
    "download_s": 12.0,
    "activate_s": 10.0,
    "poll_s": 5.0,
}
"""The demo is a faster profile and nothing else."""
BUCKET_S = 4.0
START_TIMEOUT_S = 40.0
SERVER = "server"


@dataclass(frozen=True)
class People:
    """Operator tokens: who publishes may not approve."""

    admin: str
    ada: str
    grace: str


class Stage:
    """The control plane of one demo.

    Args:
        processes: where its processes are kept.
        folder: everything lies in it.
        port: of the operators' door; 0 = any free one.
    """

    def __init__(self, processes: Processes, folder: Path, port: int) -> None:
        self._processes, self.folder, self._port = processes, folder, port
        self._device_port, self._mqtt_port = free_port(), free_port()
        self.data, self.keys = folder / "server", folder / "ceremony"
        self.addresses: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._validation, self.stream = split_stream(folder)

    def hold_ceremony(self) -> str:
        """Make all keys and the first signed metadata; return the command that did."""
        command = [
            *(program("wavegate"), "trust", "init", "--dir", str(self.keys), "--server", str(self.data)),
            *("--profile", "solo", "--team", TEAM, "--demo", "--plain", "--json"),
        ]
        run(command)
        settings = [f"rollup_bucket_s = {BUCKET_S}", "drift_s = 1.0", "reconcile_s = 0.5", "publish_s = 0.2"]
        profile = [f"{name} = {value}" for name, value in PROFILE.items()]
        (self.data / "settings.toml").write_text("\n".join([*settings, "", "[profile]", *profile]) + "\n")
        return "wavegate trust init --profile solo --team vision --demo"

    @property
    def root(self) -> Path:
        """The root of trust given to devices."""
        return self.keys / "root.json"

    def start_server(self) -> None:
        """Start the control plane and wait until it answers.

        Raises:
            AskPerson: ``SERVER_START`` with its last words.
        """
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        command = [
            *(program("wavegate"), "server", "run", "--dir", str(self.data), "--ready-file", str(ready)),
            *("--port", str(self._port), "--device-port", str(self._device_port)),
            *("--mqtt-port", str(self._mqtt_port), "--log-format", "json"),
        ]
        self._processes.start(SERVER, command)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready.exists():
            if not self._processes.is_running(SERVER) or time.monotonic() > deadline:
                raise AskPerson(
                    f"The control plane did not start: {self._processes.last_words(SERVER)}",
                    code="SERVER_START",
                    remedy=f"See {self.folder / 'logs' / 'server.log'}.",
                )
            time.sleep(0.05)
        self.addresses = json.loads(ready.read_text())
        self._port = int(str(self.addresses["operators"]).rpartition(":")[2])  # the same again after a restart

    def let_people_in(self) -> People:
        """Make the first admin and, by the API, one who publishes and one who approves."""
        command = [program("wavegate"), "server", "create-admin", "root@demo", "--dir", str(self.data)]
        admin = run(command).strip()
        with Client(self.url, admin) as client:
            made = {
                name: client.post("/api/v1/tokens", {"principal": name, "role": role})["token"]
                for name, role in (("ada", "operator"), ("grace", "approver"))
            }
        return People(admin, made["ada"], made["grace"])

    @property
    def url(self) -> str:
        """Address of the operators' door."""
        return str(self.addresses["operators"])

    def build_all(self, built: Callable[[Release], None]) -> None:
        """Build every release of the demo, side by side."""

        def one(release: Release) -> None:
            project = write_project(self.folder / "projects" / release.version, release, self._validation)
            run([program("wavegate"), "bundle", "build", str(project), "--out", str(self.archive(release))])
            built(release)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, RELEASES.values()))

    def archive(self, release: Release) -> Path:
        """Return where the archive of ``release`` is."""
        return self.folder / release.file_name

    def release(self, version: str, people: People) -> str:
        """Sign, publish and have approved: the everyday way of a release. Return the bundle's digest."""
        digest = self.publish(version, people)
        with Client(self.url, people.grace) as client:
            client.post(f"/api/v1/releases/{digest}/approve", {"comment": "reviewed for the demo"})
        return digest

    def publish(self, version: str, people: People) -> str:
        """Sign a release with the team's key and publish it; return the bundle's digest."""
        release = RELEASES[version]
        archive = str(self.archive(release))
        key = str(self.keys / "keys" / f"team-{TEAM}.pem")
        run(
            [
                *(program("wavegate"), "bundle", "sign", archive, "--key", key),
                *("--metadata", self.url, "--root", str(self.root)),
            ]
        )
        with Client(self.url, people.ada) as client, Path(archive).open("rb") as stream:
            return str(client.upload("/api/v1/releases", stream)["sha256"])
