"""A real server over its real database and services, for whatever asks it questions.

The fleet's devices are played: their heartbeats and windows go through the real ingest, in simulated time that only a
test moves.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import uvicorn
from fastapi import FastAPI

from bundles.digest import canonical_json, sha256_hex
from bundles.lineage import Lineage
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.sketch.form import LatencyHistogram, Window
from bundles.trust.publishing.repository import OnlineRepository
from bundles.trust.signing.ceremony import PROFILES, hold_ceremony
from bundles.wire.codec import encode
from bundles.wire.messages import DesiredModel, Event, ModelReported, Profile, Reported, Telemetry
from bundles.wire.topics import UP_EVENT, UP_REPORTED, UP_TELEMETRY
from control_plane.api.application import create_api
from control_plane.api.deps import Deps
from control_plane.api.fanout import Fanout
from control_plane.auth import Role
from control_plane.db.engine import Database
from control_plane.db.queries.rollouts import explain_rollout, list_rollouts, show_rollout
from control_plane.db.tables import Alert, Desired, Device, Release
from control_plane.online_keys import OnlineKeys
from control_plane.services import desired, reports, rollouts, tokens
from control_plane.services.changes import look
from control_plane.services.reports import Inbound
from control_plane.services.trust import ServedTrust
from control_plane.services.trust_view import trust_view
from control_plane.web.router import web_router
from control_plane.web.site import WebParts

START = 1_790_000_000_000
MODEL = "vision/digits"
BUCKET_MS = 2_000
PROFILE = Profile(
    heartbeat_s=1, report_s=2, canary_report_s=1, probation_s=2, accept_s=4, download_s=5, activate_s=5, poll_s=5
)
WAVES = [{"count": 17, "soak_s": 8}, {"rest": True, "soak_s": 8}]
DEVICES = 26


@dataclass
class Robot:
    """One device as its reports show it."""

    id: str
    hardware: str
    active: str = ""
    previous: str = ""
    target: str = ""
    phase: str = "idle"
    reason: str = ""
    since: int = 0
    gen: int = 0
    beat: int = 0
    seq: int = 0
    told: list[tuple[str, str]] = field(default_factory=list)


class Fleet:
    """Devices around one database; ``step`` lets one second pass. ``bad``: bundles that fail their goldens."""

    def __init__(self, db: Database) -> None:
        self.db, self.now, self.bad, self.random = db, START, set[str](), random.Random(5)
        self.versions: dict[str, str] = {}
        self.robots: list[Robot] = []
        self.enrol(DEVICES)

    def copy(self, path: Path) -> Fleet:
        """Return the same fleet around a copy of its database at ``path``."""
        with sqlite3.connect(self.db.engine.url.database) as source, sqlite3.connect(path) as target:
            source.backup(target)
        source.close()
        target.close()
        twin = copy(self)
        twin.db, twin.robots = Database(f"sqlite:///{path}"), deepcopy(self.robots)
        twin.versions, twin.bad, twin.random = dict(self.versions), set(self.bad), deepcopy(self.random)
        return twin

    def enrol(self, count: int) -> None:
        """Add devices until there are ``count``."""
        added = [Robot(f"cam-{n:03}", "cam-a" if n % 2 else "cam-b") for n in range(len(self.robots), count)]
        self.robots += added
        with self.db.write() as session:
            for robot in added:
                session.add(
                    Device(id=robot.id, public_key_pem=robot.id, enrolled_ms=START, hardware=robot.hardware,
                           cohort="line-1" if robot.id < "cam-010" else "line-2", labels_json='{"site": "hall"}')
                )  # fmt: skip
                session.flush()
                desired.ensure_desired(session, robot.id, PROFILE, START)

    def release(self, version: str, counter: int, *, is_bad: bool = False, **lineage: str) -> str:
        """Put an approved release into the registry; return its digest."""
        manifest = Manifest(
            team="vision", model="digits", version=version, release_counter=counter, channel="prod", created_ms=START,
            files=[BundleFile("m.onnx", sha256_hex(version.encode()), 5, "model")],
            variants=[Variant("onnx-int8", "onnxruntime", "m.onnx")], lineage=Lineage(**lineage),
        )  # fmt: skip
        data = encode_manifest(manifest)
        sha256 = sha256_hex(data)
        with self.db.write() as session:
            session.add(
                Release(sha256=sha256, team="vision", model="digits", version=version, release_counter=counter,
                        channel="prod", stage="approved", length=len(data), manifest_json=data.decode(),
                        publisher="ada", published_ms=self.now)
            )  # fmt: skip
        self.versions[sha256] = version
        if is_bad:
            self.bad.add(sha256)
        return sha256

    def create(self, sha256: str) -> str:
        """Create a rollout of ``sha256`` to everyone; return its id."""
        request = rollouts.RolloutRequest(
            release=sha256, selector={"all": True}, waves=WAVES, policy={"holdout_pct": 0}, seed="seed"
        )
        with self.db.write() as session:
            return rollouts.create(
                session, request, creator="ada", profile=PROFILE, now_ms=self.now, random_bytes=self.random.randbytes
            ).id

    def start(self, sha256: str) -> str:
        """Create a rollout and have another person approve it; return its id."""
        rollout = self.create(sha256)
        with self.db.write() as session:
            rollouts.approve(session, rollout, actor="bob", expected=None, now_ms=self.now)
        return rollout

    @property
    def latest(self) -> str:
        """The id of the newest rollout."""
        with self.db.read() as session:
            return list_rollouts(session)[0][0].id

    def phase(self, rollout: str) -> str:
        return self.show(rollout).rollout.phase

    def show(self, rollout: str):
        with self.db.read() as session:
            return show_rollout(session, rollout)

    def run_until(self, rollout: str, reached, seconds: int = 400) -> None:
        """Let time pass until ``reached(detail)``."""
        for _ in range(seconds):
            if reached(self.show(rollout)):
                return
            self.step()
        with self.db.read() as session:
            raise AssertionError(explain_rollout(session, rollout).text)

    def step(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.now += 1000
            items: list[Inbound] = []
            with self.db.read() as session:
                for robot in self.robots:
                    self._work(robot, session.get(Desired, robot.id))
                    items += self._messages(robot)
            with self.db.write() as session:
                reports.ingest(
                    session, items, bucket_ms=BUCKET_MS, observe_reported=rollouts.observe_reported, now_ms=self.now
                )
            rollouts.tick(self.db, self.now, bucket_ms=BUCKET_MS)

    def _work(self, robot: Robot, row: Desired) -> None:
        models = msgspec.json.decode(row.models_json, type=dict[str, DesiredModel])
        wanted = models[MODEL].sha256 if MODEL in models else ""
        if row.gen > robot.gen:
            robot.gen = row.gen
            if wanted in (robot.active, robot.previous, ""):
                robot.active, robot.target, robot.phase, robot.reason = wanted, wanted, "idle", ""
            elif wanted != robot.target:
                robot.target, robot.phase, robot.since, robot.reason = wanted, "accepted", self.now, ""
        age_s = (self.now - robot.since) // 1000
        if robot.phase == "accepted" and age_s >= 1:
            robot.phase = "downloading"
        elif robot.phase == "downloading" and age_s >= 2:
            if robot.target in self.bad:
                robot.phase, robot.reason = "failed", "golden_mismatch"
                robot.told.append(("golden_mismatch", "3 of 32 golden answers agree."))
            else:
                robot.previous, robot.active, robot.phase, robot.since = (
                    robot.active,
                    robot.target,
                    "probation",
                    self.now,
                )
        elif robot.phase == "probation" and age_s >= 2:
            robot.phase = "confirmed"

    def _messages(self, robot: Robot) -> list[Inbound]:
        robot.beat += 1
        said = ModelReported(
            sha256=robot.active, version=self.versions.get(robot.active, ""), phase=robot.phase,
            target_sha256=robot.target, reason=robot.reason, variant="onnx-int8", runtime="onnxruntime 1.27.0",
            accelerator="cpu",
        )  # fmt: skip
        heartbeat = Reported(
            device=robot.id, boot_epoch="0" * 16, session=1, beat=robot.beat, at_ms=self.now, gen=robot.gen,
            uptime_ms=self.now - START, models={MODEL: said} if robot.active or robot.target else {},
            hardware=robot.hardware, runtimes=["onnxruntime"], agent_version="0.1.0",
        )  # fmt: skip
        items = [Inbound(robot.id, UP_REPORTED, encode(heartbeat))]
        for code, detail in robot.told:
            robot.seq += 1
            event = Event(
                device=robot.id, boot_epoch="0" * 16, seq=robot.seq, event_id=f"{robot.id}-{robot.seq}",
                at_ms=self.now, kind="phase", model=MODEL, sha256=robot.target, code=code, detail=detail,
                data={"phase": "failed"},
            )  # fmt: skip
            items.append(Inbound(robot.id, UP_EVENT, encode(event)))
        robot.told.clear()
        if robot.active and self.now // 1000 % 2 == 0:
            robot.seq += 1
            classes = [0, 0, 0, 0]
            for _ in range(60):
                classes[self.random.randrange(4)] += 1
            window = Window(
                model=MODEL, bundle_sha256=robot.active, version="x", variant="onnx-int8", baseline_id="",
                start_ms=self.now - 2000, end_ms=self.now, ok=60, classes=classes,
                latency=LatencyHistogram(offset=400, counts=[60], n=60, sum_us=360_000),
            )  # fmt: skip
            telemetry = Telemetry(device=robot.id, boot_epoch="0" * 16, seq=robot.seq, sent_ms=self.now, window=window)
            items.append(Inbound(robot.id, UP_TELEMETRY, encode(telemetry)))
        return items

    def alert(self, feature: str = "image.brightness") -> None:
        """Store an alert as the drift room stores one."""
        labels = {"alert": "drift", "model": MODEL, "version": "1.0.0", "cohort": "line-1", "feature": feature}
        summary = f"{feature} drifted in cohort line-1: effect 0.41 against a floor of 0.10."
        with self.db.write() as session:
            session.add(
                Alert(fingerprint=sha256_hex(canonical_json(labels)), name="drift", severity="warning",
                      labels_json=canonical_json(labels).decode(), summary=summary, first_ms=self.now,
                      last_ms=self.now)
            )  # fmt: skip


@dataclass
class Server:
    """A running server: its address and application, its fleet, and tokens by role (and one of another team)."""

    url: str
    app: FastAPI
    fleet: Fleet
    tokens: dict[str, str]


@contextlib.contextmanager
def _serving(app) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """A fleet that runs nothing yet; tests work on copies."""
    db = Database(f"sqlite:///{tmp_path_factory.mktemp('fresh')}/wavegate.db")
    db.upgrade()
    yield Fleet(db)
    db.close()


@pytest.fixture(scope="session")
def running(fresh, tmp_path_factory):
    """A fleet that runs 1.0.0 while 1.1.0 soaks in its first wave and was looked at once; tests work on copies."""
    fleet = fresh.copy(tmp_path_factory.mktemp("running") / "wavegate.db")
    first = fleet.start(fleet.release("1.0.0", 1))
    fleet.run_until(first, lambda detail: detail.rollout.phase == "completed")
    rollout = fleet.start(fleet.release("1.1.0", 2))
    fleet.run_until(rollout, lambda detail: detail.waves[0].phase == "soaking" and detail.waves[0].gates)
    yield fleet
    fleet.db.close()


def _trust(fleet: Fleet, folder: Path) -> ServedTrust:
    """Return the trust repository of a server that one person set up."""
    made = hold_ceremony(folder / "ceremony", PROFILES["solo"], ["vision"], passphrase=None, now_ms=fleet.now)
    keys, metadata = OnlineKeys(made.server / "keys"), made.server / "metadata"
    repository = OnlineRepository(metadata, keys.ring("snapshot"), keys.ring("timestamp"), lambda: fleet.now)
    return ServedTrust(repository, metadata, keys, fleet.db, lambda: fleet.now)


@pytest.fixture
def server(request, tmp_path):
    """A server over a copy of the fleet named by the test's parameter: ``fresh``, or ``running``."""
    fleet = request.getfixturevalue(getattr(request, "param", "fresh")).copy(tmp_path / "wavegate.db")
    db = fleet.db
    made: dict[str, str] = {}
    with db.write() as session:
        for name, role, teams in [
            ("vera", Role.VIEWER, ("*",)), ("otto", Role.OPERATOR, ("*",)), ("bob", Role.APPROVER, ("*",)),
            ("ada", Role.APPROVER, ("*",)), ("sam", Role.OPERATOR, ("sound",)),
        ]:  # fmt: skip
            made[name] = tokens.create(
                session, principal=name, role=role, teams=teams, life_s=3600, actor="test", now_ms=START,
                random_bytes=fleet.random.randbytes,
            ).token  # fmt: skip
    fanout = Fanout(look(db), every_s=0.1)
    trust = _trust(fleet, tmp_path)
    web = web_router(WebParts(db, lambda: fleet.now, fanout.listen, lambda: trust_view(trust, fleet.now)))
    app = create_api(
        Deps(
            db=db, storage=None, clock=SimpleNamespace(now_ms=lambda: fleet.now), metadata=trust, sign=trust.sign,
            random_bytes=fleet.random.randbytes, fanout=fanout, web=web,
        )
    )  # fmt: skip
    with _serving(app) as url:
        yield Server(url, app, fleet, made)
    db.close()
