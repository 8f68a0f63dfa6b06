"""One real device without a server: real runner, store, spool, journal, trials and engine, on a real disk.

Trust says yes and blobs come out of a dict, which counts what was asked of it. Everything else is what a device runs.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.client import Client
from agent.conditions import Admission, NoConditions
from agent.core import events as ev
from agent.core.policy import Policy
from agent.core.state import Asked, Release
from agent.delta import Brought
from agent.inference.engine import Engine
from agent.inference.serve import LocalServer
from agent.inference.trial import TrialResult
from agent.runner.device import Device, Parts
from agent.runner.edges import StagedBundle
from agent.runner.models import EngineModels
from agent.runner.reporting import Self
from agent.runner.schedule import Schedule, SteadyClock
from agent.runner.stream import Accuracy
from agent.spool import Spool
from agent.store import LocalFileSystem, Store
from bundles.archive import Archive
from bundles.build import BuildSpec, VariantSource, build
from bundles.contract import Contract, TensorSpec
from bundles.errors import TryAgain, WavegateError
from bundles.manifest import HealthCheck
from bundles.trust.device.authorize import Authorized
from bundles.trust.roles import TargetCustom
from bundles.wire.messages import Profile

MIB = 1024 * 1024
PROFILE = Profile(
    heartbeat_s=0.2, report_s=3600, canary_report_s=3600, probation_s=0.2, accept_s=60, download_s=60, activate_s=60
)
CONTRACT = Contract(
    inputs=[TensorSpec("x", "float32", [1, 4], min=-1.0, max=1.0)],
    outputs=[TensorSpec("y", "float32", [1, 2], min=-2.0, max=2.0)],
    task="regression",
)
ALLCLOSE = HealthCheck(comparator="allclose")
X = np.array([[0.1, 0.2, 0.3, 0.4]], dtype=np.float32)


class Trusting:
    """Trust that allows everything it is asked about."""

    version = 1

    def __init__(self, archives: dict[str, Archive]) -> None:
        self.archives = archives
        self.floors: dict[str, int] = {}

    def authorize(self, release: Release, hardware: str) -> Authorized:
        manifest = self.archives[release.sha256].manifest
        custom = TargetCustom(manifest.release_counter, [], manifest.channel, manifest.model_key)
        return Authorized(manifest.model_key, release.target, release.sha256, release.length, "team-vision", custom)

    allowed = authorize

    def raise_floor(self, model: str, counter: int) -> None:
        self.floors[model] = max(counter, self.floors.get(model, 0))

    def floor(self, model: str) -> int:
        return self.floors.get(model, 0)

    def refresh(self) -> None:
        pass

    def accept(self, data: bytes) -> None:
        raise AssertionError("nobody sends documents here")

    def standing(self, sha256: str, *, is_running: bool) -> str:
        return "clear"

    def age_s(self) -> int:
        return 0

    def level(self) -> str:
        return "fresh"

    def close(self) -> None:
        pass


class Offline:
    """A door to a server that is not there."""

    def desired(self, etag: str = "") -> None:
        raise TryAgain("There is no network.", code="SERVER_UNREACHABLE")

    def reports(self, batch: list) -> None:
        raise TryAgain("There is no network.", code="SERVER_UNREACHABLE")


class Quick(EngineModels):
    """Models that are tried by loading alone; trials have tests of their own, and take a second each."""

    def try_out(self, bundle: StagedBundle) -> TrialResult:
        with self._room_for(bundle):
            return TrialResult(ok=True, reason=None, detail="")


class Rig:
    """See the module's docstring.

    Attributes:
        asked: sha256 -> how often it was fetched.
        is_online: whether blobs can be had.
        gates: sha256 -> event that its fetch waits for.
        conditions: what speaks against an update, from the next start on.
        is_isolated: whether models run in workers of their own, from the next start on.
    """

    conditions: Admission = NoConditions()
    is_isolated = False

    def __init__(self, folder: Path, disk: Path, reserve_bytes: int = 0, fs: Callable = LocalFileSystem) -> None:
        self.folder, self.disk, self.reserve_bytes, self.make_fs = folder, disk, reserve_bytes, fs
        self.archives: dict[str, Archive] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.is_online = True
        self.gates: dict[str, threading.Event] = {}
        self.gen = 0
        self.device: Device | None = None
        goldens = folder / "goldens.npz"
        rng = np.random.default_rng(4)
        x = rng.uniform(-1, 1, (32, 1, 4)).astype(np.float32)
        y = np.broadcast_to(x.mean(axis=(1, 2))[:, None, None], (32, 1, 2)).astype(np.float32)
        np.savez(goldens, **{"input.x": x, "output.y": y})
        self.goldens = goldens

    def release(
        self,
        n: int,
        model: str = "digits",
        *,
        size: int = 1000,
        swap: str = "hot",
        health: HealthCheck = ALLCLOSE,
        **fake,
    ) -> Release:
        """Build a release whose model file has ``size`` bytes; goldens and contract are those of every other."""
        path = self.folder / f"{model}-{n}.fake"
        content = {"inputs": [["x", "float32", [1, 4]]], "outputs": [["y", "float32", [1, 2]]], **fake}
        path.write_bytes(msgspec.json.encode({"n": n, "model": model, **content}).ljust(size))
        spec = BuildSpec(
            team="vision",
            model=model,
            version=f"{n}.0.0",
            release_counter=n,
            channel="prod",
            created_ms=0,
            contract=CONTRACT,
            variants=[VariantSource("any", "fake", path)],
            goldens=self.goldens,
            health_check=health,
            swap=swap,
        )
        archive = build(spec, self.folder / f"{model}-{n}.wgb").archive
        self.archives[archive.sha256] = archive
        self.blobs[archive.sha256] = archive.manifest_bytes
        for entry in archive.manifest.files:
            self.blobs[entry.sha256] = archive.read(entry)
        return Release(archive.manifest.target_path, archive.sha256, len(archive.manifest_bytes), n)

    def start(self) -> None:
        """Start the agent on what is on the disk."""
        clock = SteadyClock()
        self.store = Store(self.make_fs(self.disk), self.reserve_bytes)
        self.store.open()
        self.engine = Engine()
        self.models = Quick(self.engine, clock.wall_ms, ["fake"], is_isolated=self.is_isolated)
        self.schedule = Schedule(clock.now_ms)
        spool = Spool(self.disk / "spool.db", "dev-1")
        me = Self("dev-1", spool.boot_epoch, 1, clock.now_ms(), "cam-a", ("fake",), {}, "0")
        trusting = Trusting(self.archives)
        parts = Parts(
            self.store, spool, trusting, self.models, self.fetch, Offline(), None, Accuracy(), self.conditions
        )
        self.spool = spool
        self.device = Device(
            me,
            parts,
            self.schedule,
            Policy(commit_offline=True),
            PROFILE,
            self.disk / "status.json",
            clock.wall_ms,
            random.Random(1),
        )
        self.local = LocalServer(self.engine, self.folder / "s")
        self.local.start()
        self.schedule.soon(self.device.start)
        self.thread = threading.Thread(target=self.schedule.run)
        self.thread.start()

    def stop(self) -> None:
        """Stop it in an orderly way."""
        if self.device is None:
            return
        done = threading.Event()
        device, self.device = self.device, None

        def close() -> None:
            try:
                device.close()
            finally:
                done.set()

        self.schedule.soon(close)
        assert done.wait(20)
        self.schedule.stop()
        self.thread.join(10)
        self.local.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def fetch(self, store: Store, sha256: str, length: int, is_cancelled, wish=None) -> Brought:
        self.asked[sha256] += 1
        if not self.is_online:
            raise TryAgain("There is no network.", code="DOWNLOAD_INTERRUPTED")
        if gate := self.gates.get(sha256):
            assert gate.wait(30)
        part = store.blob(sha256, length)
        part.reset()
        data = self.blobs[sha256]
        for start in range(0, len(data), 64 * 1024):
            part.append(data[start : start + 64 * 1024])
        part.commit()
        return Brought(length, by_delta=False)

    def ask(self, release: Release, model: str = "vision/digits") -> None:
        """Instruct the device to run a release."""
        self.gen += 1
        asked = ev.DesiredChanged(0, Asked(self.gen, release, f"r{self.gen}", PROFILE))
        device = self.device
        self.schedule.soon(lambda: device.updates.offer(model, asked))

    def look_again(self, model: str = "vision/digits") -> None:
        """Say that what put the update off may be gone."""
        device = self.device
        self.schedule.soon(lambda: device.updates.offer(model, ev.ConditionsChanged(0)))

    def is_idle(self) -> bool:
        """Whether no model has a step under way, or waiting."""
        return not any(lane.is_busy or lane.waiting for lane in self.device.updates._lanes.values())

    def state(self, model: str = "vision/digits"):
        return self.device.updates.states.get(model)

    def until(self, condition, what="condition", seconds=40.0):
        """Poll until true; the limit only ends a broken run."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.005)
        raise AssertionError(f"{what} did not come true in {seconds} s: {self.device.updates.states}")

    def settle(self, step: str, sha256: str | None = None, model: str = "vision/digits"):
        """Wait until the model rests in ``step``, with ``sha256`` committed."""

        def is_so():
            state = self.state(model)
            committed = state.committed.sha256 if state and state.committed else ""
            return state and state.step == step and (sha256 is None or committed == sha256)

        self.until(is_so, f"{model} {step}")
        return self.state(model)

    def install(self, *releases: Release, model: str = "vision/digits") -> None:
        for release in releases:
            self.ask(release, model)
            self.settle("confirmed", release.sha256, model)

    def answer(self, model: str = "vision/digits"):
        """Ask through the local door; return the digest of what answered, or the code of the refusal."""
        try:
            with Client(self.folder / "s", timeout_s=10) as client:
                return client.infer(model, {"x": X}).sha256
        except WavegateError as error:
            return error.code

    def status(self, model: str = "vision/digits") -> dict:
        """Return what the status file tells of a model."""
        try:
            return msgspec.json.decode((self.disk / "status.json").read_bytes())["models"].get(model, {})
        except (OSError, ValueError):
            return {}

    def events(self) -> list[dict]:
        """Return the events in the spool, in order."""
        with contextlib.closing(sqlite3.connect(self.disk / "spool.db")) as db:
            sent = db.execute("SELECT payload FROM sent WHERE leaf = 'up/event' ORDER BY seq").fetchall()
            waiting = db.execute("SELECT body FROM waiting WHERE leaf = 'up/event' ORDER BY id").fetchall()
        return [{"code": "", "sha256": "", "data": {}, **msgspec.json.decode(body)} for (body,) in (*sent, *waiting)]

    def blob(self, release: Release, role: str = "model") -> Path:
        """Return where the blob of a release's file lies."""
        entry = self.archives[release.sha256].manifest.file_with_role(role)
        return self.disk / "blobs" / "sha256" / entry.sha256

    def damage(self, path: Path) -> None:
        """Flip a byte in place: every link to the content sees it."""
        with path.open("r+b") as stream:
            first = stream.read(1)
            stream.seek(0)
            stream.write(bytes([first[0] ^ 1]))


@pytest.fixture
def rig_class() -> type[Rig]:
    return Rig


@pytest.fixture
def make_rig(tmp_path) -> Iterator[Callable[..., Rig]]:
    rigs = []

    def make(disk: Path | None = None, **options) -> Rig:
        folder = Path(tempfile.mkdtemp(prefix="wg-"))  # short: a socket's path holds 107 bytes
        disk = disk or tmp_path / "disk"
        disk.mkdir(exist_ok=True)
        rig = Rig(folder, disk, **options)
        rigs.append(rig)
        return rig

    yield make
    for rig in rigs:
        rig.stop()
        shutil.rmtree(rig.folder)


@pytest.fixture
def rig(make_rig) -> Rig:
    rig = make_rig()
    rig.start()
    return rig
