"""A real agent process, with a real runtime and HTTPS, killed with -9 in the middle of an update, at every point of it.

Points are the two edges of every effect and of every journal, and every fsync. Started again it finds the old release
answering or the new one, claims no success it has not, keeps floor and journal, and ends the update. In CI a few points
from a seed; with ``--slow`` all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from powercut.site import DEVICE, MODEL, Site

from agent.client import Client
from agent.config import AgentConfig, Folders, dump_config
from agent.core.journal import decode_state
from agent.core.policy import DEFAULT_POLICY
from agent.core.state import UpdaterState
from agent.identity import write_durably
from agent.runner.credentials import enroll_over_https
from agent.runner.wiring import probe_runtimes
from agent.store import LocalFileSystem, Store
from bundles.errors import WavegateError
from bundles.trust.device.floors import load_floors
from bundles.wire.messages import DesiredModel

LIMIT_S = 120.0
SEED, SAMPLE = 20, 3
IMAGE = {"image": np.zeros((1, 8, 8, 1), np.float32)}


@dataclass
class Process:
    """One start of the agent on a folder."""

    folder: Path
    process: subprocess.Popen[bytes]

    def answers(self) -> str:
        """Return the digest of what answers, empty where nothing does yet."""
        try:
            with Client(self.folder / "socket", timeout_s=10) as client:
                return client.infer(MODEL, IMAGE).sha256
        except (WavegateError, OSError):
            return ""

    def status(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / "status.json").read_text())
        return {}

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until true; the limit only ends a broken run."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"it never came to: {what}")


class Bench:
    """A device that runs 1.0.0 and was not told of 1.1.0 yet, to be copied for every kill."""

    def __init__(self, place: Path) -> None:
        self.place, self.site, self.number = place, Site(place), 0
        self.started: list[subprocess.Popen[bytes]] = []
        self.site.start()

    def prepare(self) -> None:
        """Enrol the device, let it install 1.0.0, and publish 1.1.0."""
        place = self.place
        self.old = self.site.publish("1.0.0", 3)
        self.folder = place / "device"
        folders = Folders(self.folder)
        enroll_over_https(
            folders.identity, url=self.site.url, token="t" * 32, server_ca_pem=self.site.ca.pem, name=DEVICE
        )
        write_durably(folders.bootstrap_root, self.site.root)
        config = AgentConfig(hardware="cam-a", runtimes=("onnxruntime",), inference="inproc", reserve_mib=1)
        folders.config.write_text(dump_config(config), "utf-8")
        probe_runtimes(self.folder, ["onnxruntime"])
        self.site.ask(self.old)
        agent = self.run(self.folder)
        until(lambda: agent.answers() == self.old.sha256 and self.journal(self.folder).step == "confirmed", "1.0.0")
        agent.process.terminate()
        agent.process.wait()
        self.new: DesiredModel = self.site.publish("1.1.0", 5)
        self.site.ask(self.new)

    def copy(self) -> Path:
        self.number += 1
        return Path(shutil.copytree(self.folder, self.place / f"d{self.number}"))

    def run(self, folder: Path, at: int = 0) -> Process:
        """Start the agent; it dies at point ``at``."""
        command = [sys.executable, "-m", "powercut.killed", str(folder), str(self.log_of(folder)), str(at)]
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        with (self.place / f"{folder.name}.out").open("ab") as out:
            process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=out, stderr=out)
        self.started.append(process)
        return Process(folder, process)

    def log_of(self, folder: Path) -> Path:
        return self.place / f"{folder.name}.points"

    def journal(self, folder: Path) -> UpdaterState:
        data = Store(LocalFileSystem(folder)).load_journal(MODEL)
        return decode_state(data) if data else UpdaterState(MODEL)

    def is_updated(self, agent: Process) -> bool:
        state = self.journal(agent.folder)
        is_new = state.committed is not None and state.committed.sha256 == self.new.sha256
        return is_new and state.step == "confirmed" and bool(self.site.claimed(self.new.sha256))

    def points(self) -> list[str]:
        """Update a copy without a kill and return the points it passed."""
        folder = self.copy()
        agent = self.run(folder)
        until(lambda: self.is_updated(agent), "1.1.0")
        agent.end()
        return self.log_of(folder).read_text().splitlines()

    def survive(self, at: int) -> str:
        """Kill at one point, start again, and check everything; return the point's name."""
        self.site.said.clear()
        folder = self.copy()
        agent = self.run(folder, at)
        until(lambda: agent.process.poll() is not None or self.is_updated(agent), f"a death at point {at}")
        name = "after the last"
        if agent.process.poll() is None:  # this run had a judgement or a report fewer: killed at its end
            agent.end()
        else:
            assert agent.process.returncode == -9, (self.place / f"{folder.name}.out").read_text()
            name = self.log_of(folder).read_text().splitlines()[-1]
        state = self.journal(folder)
        attempts = self.log_of(folder).read_text().splitlines().count("begin Activate")
        if state.step not in ("confirmed", "failed"):
            assert state.attempts >= attempts, f"{name}: {attempts} activations, {state.attempts} counted"
        floors = load_floors(folder / "trust", cache_exists=True)
        has_claimed = bool(self.site.claimed(self.new.sha256))
        agent = self.run(folder)
        try:
            first = until(agent.answers, f"an answer after a death at {name}")
            assert first in (self.old.sha256, self.new.sha256), name
            assert not has_claimed or first == self.new.sha256, f"{name}: success was claimed, and the old one answers"
            until(lambda: self.is_updated(agent) and agent.answers() == self.new.sha256, f"1.1.0 after {name}")
        finally:
            agent.end()
        now = load_floors(folder / "trust", cache_exists=True)
        assert now.gen >= floors.gen
        until(lambda: now.release_floor(MODEL) == 3 or self._floor(folder) == 3, "the floor of what ran before")
        assert attempts <= DEFAULT_POLICY.max_attempts
        shutil.rmtree(folder)
        return name

    def _floor(self, folder: Path) -> int:
        """Return the floor, after another start where the last one was killed between commit and floor."""
        agent = self.run(folder)
        try:
            until(agent.answers, "an answer")
            until(lambda: load_floors(folder / "trust", cache_exists=True).release_floor(MODEL) == 3, "the floor")
        finally:
            agent.end()
        return 3

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        self.site.stop()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="wg-") as name:  # short: a socket's path holds 107 bytes
        bench = Bench(Path(name))
        try:
            bench.prepare()
            yield bench
        finally:
            bench.close()


@pytest.mark.timeout(600)
def test_a_few_kills_from_a_seed(bench, capsys):
    names = bench.points()
    rng = random.Random(SEED)
    edges = [number for number, name in enumerate(names, 1) if name != "fsync"]
    chosen = sorted(rng.sample(edges, SAMPLE))
    killed = [bench.survive(at) for at in chosen]
    with capsys.disabled():
        print(f"\nkilled at {killed}, of {len(names)} points, seed {SEED}", end="")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_kill(bench, capsys, record_property):
    names = bench.points()
    killed = Counter(bench.survive(at) for at in range(1, len(names) + 1))
    by_name = ", ".join(f"{name} {count}" for name, count in sorted(killed.items()))
    record_property("figures", f"{len(names)} points, every one killed at and survived: {by_name}")
    with capsys.disabled():
        print(f"\n{len(names)} points, every one killed at and survived: {by_name}", end="")
    assert len(names) > 100
