"""A small fleet in simulated time: its heartbeats and windows go through the real ingest, its rollouts through the real
services, on whichever database the test was given."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
import pytest

from bundles.digest import sha256_hex
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.sketch.form import LatencyHistogram, Window
from bundles.wire.codec import encode
from bundles.wire.messages import DesiredModel, ModelReported, Profile, Reported, Telemetry
from bundles.wire.topics import UP_REPORTED, UP_TELEMETRY
from control_plane.db.engine import Database
from control_plane.db.queries.rollouts import explain_rollout, show_rollout
from control_plane.db.tables import Desired, Device, Release
from control_plane.services import desired, reports, rollouts
from control_plane.services.reports import Inbound
from control_plane.services.rollouts.devices import desired_model

START = 1_700_000_000_000
MODEL = "vision/digits"
PROFILE = Profile(
    heartbeat_s=1, report_s=2, canary_report_s=1, probation_s=2, accept_s=4, download_s=5, activate_s=5, poll_s=5
)
WAVES = [{"count": 17, "soak_s": 8}, {"rest": True, "soak_s": 8}]
BUCKET_MS = 2_000


@dataclass
class Robot:
    """One device: what it runs, and how it takes to a new bundle.

    ``fate``: bundle -> "good" | "fails" | "wrong" (answers one class) | "bricks" (falls silent when it activates).
    """

    id: str
    active: str = ""
    previous: str = ""
    target: str = ""
    phase: str = "idle"
    reason: str = ""
    since: int = 0
    gen: int = 0
    beat: int = 0
    seq: int = 0
    offline: bool = False
    asked: list[str] = field(default_factory=list)


class Fleet:
    """Devices and the control plane around one database; ``step`` lets one second pass."""

    def __init__(self, database: Database, count: int) -> None:
        self.db, self.now = database, START
        self.robots = {f"cam-{n:02}": Robot(f"cam-{n:02}") for n in range(count)}
        self.fates: dict[str, str] = {}
        self.random = random.Random(7)
        with database.write() as session:
            for device in self.robots:
                session.add(Device(id=device, public_key_pem=device, enrolled_ms=START, hardware="cam-a"))
                session.flush()
                desired.ensure_desired(session, device, PROFILE, START)

    def release(self, version: str, counter: int, *, stage: str = "approved", fate: str = "good") -> str:
        """Put a release into the registry; return its digest."""
        manifest = Manifest(
            team="vision", model="digits", version=version, release_counter=counter, channel="prod",
            created_ms=START, files=[BundleFile("m.onnx", sha256_hex(version.encode()), 5, "model")],
            variants=[Variant("onnx", "onnxruntime", "m.onnx")],
        )  # fmt: skip
        data = encode_manifest(manifest)
        sha256 = sha256_hex(data)
        with self.db.write() as session:
            session.add(
                Release(
                    sha256=sha256, team="vision", model="digits", version=version, release_counter=counter,
                    channel="prod", stage=stage, length=len(data), manifest_json=data.decode(), publisher="ada",
                    published_ms=START,
                )
            )  # fmt: skip
        self.fates[sha256] = fate
        return sha256

    def already_on(self, sha256: str) -> str:
        """Have every device ask for, run and report ``sha256`` since before the test; return it."""
        with self.db.write() as session:
            model = desired_model(session.get(Release, sha256))
            for robot in self.robots.values():
                robot.active = robot.target = sha256
                robot.gen = desired.set_desired(
                    session, robot.id, {MODEL: model}, rollout="", canary=False, profile=PROFILE, now_ms=self.now
                )
        self.step()
        return sha256

    def create(self, sha256: str, *, waves=None, policy=None, **more):
        request = rollouts.RolloutRequest(
            release=sha256,
            selector=more.pop("selector", {"all": True}),
            waves=waves or WAVES,
            policy={"holdout_pct": 0, **(policy or {})},
            seed="seed",
            **more,
        )
        with self.db.write() as session:
            return rollouts.create(
                session, request, creator="ada", profile=PROFILE, now_ms=self.now, random_bytes=self.random.randbytes
            )

    def approve(self, rollout: str, actor: str = "bob"):
        with self.db.write() as session:
            return rollouts.approve(session, rollout, actor=actor, expected=None, now_ms=self.now)

    def steer(self, verb, rollout: str, *, actor: str = "bob", expected: int | None = None):
        with self.db.write() as session:
            return verb(session, rollout, actor=actor, reason="test", expected=expected, now_ms=self.now)

    def show(self, rollout: str):
        with self.db.read() as session:
            return show_rollout(session, rollout)

    def explain(self, rollout: str):
        with self.db.read() as session:
            return explain_rollout(session, rollout)

    def run_until(self, rollout: str, *phases: str, seconds: int = 400):
        """Let time pass until the rollout stands in one of ``phases``; return it."""
        for _ in range(seconds):
            if (shown := self.show(rollout)).rollout.phase in phases:
                return shown
            self.step()
        raise AssertionError(f"after {seconds} s: {self.explain(rollout).text}")

    def step(self) -> None:
        """One second: every device looks at its desired state, works on, reports; then the rollouts tick."""
        self.now += 1000
        items: list[Inbound] = []
        with self.db.read() as session:
            for robot in self.robots.values():
                if robot.offline:
                    continue
                row = session.get(Desired, robot.id)
                self._work(robot, row)
                is_at_rest = robot.phase in ("idle", "confirmed") and self.now - robot.since > 6000
                if not robot.offline and not (is_at_rest and robot.beat and self.now // 1000 % 2):
                    items += self._messages(robot)
        self.deliver(items)
        rollouts.tick(self.db, self.now, bucket_ms=BUCKET_MS)

    def deliver(self, items: list[Inbound]) -> None:
        with self.db.write() as session:
            reports.ingest(
                session, items, bucket_ms=BUCKET_MS, observe_reported=rollouts.observe_reported, now_ms=self.now
            )

    def _work(self, robot: Robot, row: Desired) -> None:
        models = msgspec.json.decode(row.models_json, type=dict[str, DesiredModel])
        wanted = models[MODEL].sha256 if MODEL in models else ""
        if row.gen > robot.gen:
            robot.gen = row.gen
            if [wanted] != robot.asked[-1:]:
                robot.asked.append(wanted)
            if wanted in (robot.active, robot.previous, ""):  # there already, or kept at hand: at once
                robot.active = robot.target = wanted
                robot.phase, robot.reason = "idle", ""
            elif wanted != robot.target:
                robot.target, robot.phase, robot.since, robot.reason = wanted, "accepted", self.now, ""
        age = self.now - robot.since
        if robot.phase == "accepted" and age >= 1000:
            robot.phase = "downloading"
        elif robot.phase == "downloading" and age >= 2000:
            fate = self.fates.get(robot.target, "good")
            if fate == "fails":
                robot.phase, robot.reason = "failed", "golden_mismatch"
            elif fate == "bricks":
                robot.offline = True
            else:
                robot.previous, robot.active = robot.active, robot.target
                robot.phase, robot.since = "probation", self.now
        elif robot.phase == "probation" and age >= 2000:
            robot.phase = "confirmed"

    def _messages(self, robot: Robot) -> list[Inbound]:
        robot.beat += 1
        said = ModelReported(
            sha256=robot.active, phase=robot.phase, target_sha256=robot.target, reason=robot.reason, variant="onnx"
        )
        heartbeat = Reported(
            device=robot.id, boot_epoch="0" * 16, session=1, beat=robot.beat, at_ms=self.now, gen=robot.gen,
            uptime_ms=self.now - START, models={MODEL: said} if robot.active or robot.target else {}, hardware="cam-a",
            runtimes=["onnxruntime"],
        )  # fmt: skip
        items = [Inbound(robot.id, UP_REPORTED, encode(heartbeat))]
        if robot.active and self.now // 1000 % 2 == 0:
            robot.seq += 1
            items.append(Inbound(robot.id, UP_TELEMETRY, encode(self._window(robot))))
        return items

    def _window(self, robot: Robot) -> Telemetry:
        rows = 60
        if self.fates.get(robot.active) == "wrong":
            classes = [rows, 0, 0, 0]
        else:
            classes = [0, 0, 0, 0]
            for _ in range(rows):
                classes[self.random.randrange(4)] += 1
        window = Window(
            model=MODEL, bundle_sha256=robot.active, version="x", variant="onnx", baseline_id="",
            start_ms=self.now - 2000, end_ms=self.now, ok=rows, classes=classes,
            latency=LatencyHistogram(offset=400, counts=[rows], n=rows, sum_us=rows * 6000),
        )  # fmt: skip
        return Telemetry(device=robot.id, boot_epoch="0" * 16, seq=robot.seq, sent_ms=self.now, window=window)


@pytest.fixture
def fleet(database):
    """Twenty-four enrolled devices that run nothing yet."""
    return Fleet(database, 24)
