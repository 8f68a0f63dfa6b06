"""A running control plane with many bundles in many teams' roles, and one enrolled device.

The bundles are listings: metadata as a team signs it, published by the product's own code before the server starts.
Their content is nowhere, which no figure about metadata needs.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, TargetFile, Targets

from agent.https import DeviceDoor, Door, open_client
from agent.identity import Identity, enroll, pinned_context
from benches.measuring.counted import Bytes, counting
from bundles.digest import sha256_hex
from bundles.trust.director import sign_desired
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.roles import Lifetimes, file_name, team_role, utc
from bundles.trust.signing.signers import load_signer
from bundles.wire.messages import Desired, DesiredModel
from control_plane.client import Client
from control_plane.demo.processes import Processes, program, run
from control_plane.demo.stage import Stage

TEAMS, BUNDLES_A_TEAM, MODELS_A_TEAM = 10, 100, 10
MODEL_KEY = "team0/model0"
DEVICE = "bench-1"


@dataclass(frozen=True)
class ServedRepository:
    """The running control plane, seen from a device.

    Attributes:
        root: the root a device trusts from the start.
        metadata: the server's folder of metadata.
        door: the device's door to the server.
        etag: of the device's desired document as it stands.
        passed: what passes through ``door``.
        director: the director's key.
        newest: of ``MODEL_KEY``, as the director would name it.
    """

    root: bytes
    metadata: Path
    door: DeviceDoor
    etag: str
    passed: Bytes
    director: Signer
    newest: DesiredModel

    def assignment(self, now_ms: int) -> bytes:
        """Return the signed document that gives the device its one bundle."""
        return sign_desired(self.document(now_ms), self.director)

    def document(self, now_ms: int) -> Desired:
        """Return the document to sign, with what a server fills in: timing as in the default profile."""
        life_ms = 30 * 86_400_000
        return Desired(DEVICE, 12, now_ms, now_ms + life_ms, {MODEL_KEY: self.newest}, "r-17", trust_version=2)


@contextlib.contextmanager
def served_repository() -> Iterator[ServedRepository]:
    """Hold a ceremony with ten teams, list a hundred bundles in each, start the server, enrol a device.

    Raises:
        AskPerson: a program could not be started.
    """
    with tempfile.TemporaryDirectory(prefix="wg-bench-") as name, Processes(Path(name) / "logs") as processes:
        folder = Path(name)
        stage = Stage(processes, folder, 0)
        teams = [f"team{number}" for number in range(TEAMS)]
        command = [program("wavegate"), "trust", "init", "--dir", str(stage.keys), "--server", str(stage.data)]
        run([*command, "--profile", "solo", "--plain", *(part for team in teams for part in ("--team", team))])
        newest = _list_bundles(stage.keys / "keys", stage.data, teams)
        stage.start_server()
        token = _enrolment_token(stage)
        tls = pinned_context(str(Path(stage.addresses["server_ca"]).read_text()))
        with open_client(str(stage.addresses["devices"]), tls) as client:
            counts = counting(client, tls)
            identity = _enroll(folder / "device", client, stage, token)
            door = DeviceDoor(client, identity.device, lambda: identity.key)
            answer = door.desired()
            assert answer is not None, "a new device has a document that asks for nothing"
            director = load_signer(stage.data / "keys" / "director.pem")
            metadata = stage.data / "metadata"
            yield ServedRepository(stage.root.read_bytes(), metadata, door, answer.etag, counts, director, newest)


def _list_bundles(keys: Path, data: Path, teams: list[str]) -> DesiredModel:
    metadata, online = data / "metadata", data / "keys"
    now_ms = int(time.time() * 1000)
    server = OnlineRepository(
        metadata, load_signer(online / "snapshot.pem"), load_signer(online / "timestamp.pem"), lambda: now_ms
    )
    files: dict[str, bytes] = {}
    for team in teams:
        role = Targets(2, expires=utc(now_ms + Lifetimes().team_s * 1000), targets=_targets(team))
        signed = Metadata(role)
        signed.sign(load_signer(keys / f"team-{team}.pem"))
        files[file_name(team_role(team), 2)] = signed.to_bytes()
    server.publish(files)
    path, target = list(_targets(teams[0]).items())[BUNDLES_A_TEAM // MODELS_A_TEAM - 1]
    return DesiredModel(path, target.hashes["sha256"], target.length, BUNDLES_A_TEAM // MODELS_A_TEAM)


def _targets(team: str) -> dict[str, TargetFile]:
    listed: dict[str, TargetFile] = {}
    for model in range(MODELS_A_TEAM):
        for counter in range(1, BUNDLES_A_TEAM // MODELS_A_TEAM + 1):
            key, path = f"{team}/model{model}", f"{team}/model{model}/1.{counter}.0/bundle.json"
            custom = {"release_counter": counter, "hardware": ["cam-a"], "channel": "prod", "model": key}
            listed[path] = TargetFile(1500, {"sha256": sha256_hex(path.encode())}, path, {"custom": custom})
    return listed


def _enrolment_token(stage: Stage) -> str:
    with Client(stage.url, stage.let_people_in().admin) as admin:
        return str(admin.post("/api/v1/devices/enroll-tokens", {"uses": 1, "life_s": 3600})["token"])


def _enroll(folder: Path, client: httpx.Client, stage: Stage, token: str) -> Identity:
    ca = str(Path(stage.addresses["server_ca"]).read_text())
    url = str(stage.addresses["devices"])
    return enroll(folder, Door(client).post, url=url, token=token, server_ca_pem=ca, name=DEVICE, hardware="cam-a")
