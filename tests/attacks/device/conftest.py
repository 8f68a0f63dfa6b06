"""A real agent with a committed model, against a control plane of which every byte is the attacker's to choose.

The agent is the one of the product, in this process: its own folder with trust store, blobs, slots, journal and spool,
its own thread, inference by ONNX Runtime, TLS to the device surface. It has enrolled and committed release 1.0.0
(counter 3) and then 1.1.0 (counter 5) in an honest world; that world is made once and copied for each test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from agent.client import Client
from agent.config import AgentConfig
from agent.core.journal import decode_state
from agent.core.state import Step
from agent.runner.credentials import enroll_over_https
from agent.runner.schedule import SteadyClock
from agent.runner.wiring import Agent, probe_runtimes
from bundles.build import BuildSpec, VariantSource, build, read_rows
from bundles.contract import Contract, TensorSpec
from bundles.digest import sha256_hex
from bundles.trust.device.floors import Floors, load_floors
from bundles.wire import topics
from bundles.wire.messages import DesiredModel, Profile

MODEL = "vision/digits"
DEVICE = "dev-1"
DATA = Path(__file__).parents[3] / "control_plane" / "demo" / "data"
QUIET = Profile(heartbeat_s=86_400, report_s=86_400, canary_report_s=86_400, probation_s=0.05, poll_s=86_400)
"""Nothing happens by itself within a test: the test says when the device polls."""
SETTINGS = AgentConfig(
    hardware="cam-a", runtimes=("onnxruntime",), inference="inproc", mqtt=False, heartbeat_s=86_400, poll_s=86_400
)


class WrongClock(SteadyClock):
    """A clock that a test may put wrong: ``wall_shift_ms`` moves the system's, ``steady_shift_ms`` lets time pass."""

    wall_shift_ms = steady_shift_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.steady_shift_ms

    def wall_ms(self) -> int:
        return super().wall_ms() + self.wall_shift_ms


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What an attack must leave as it is.

    Attributes:
        active: bundle digest that the pointer on disk names.
        answer: version, digest and outputs of a real request through the local door; None = nothing answers.
        floors: of the trust store, as they lie on disk.
        journal: the journal's bytes.
        slots: slot number -> bundle digest.
    """

    active: str | None
    answer: tuple[str, str, bytes] | None
    floors: Floors
    journal: bytes
    slots: dict[str, str]

    @property
    def all(self):
        """What stands where the device took no instruction at all."""
        return self.kept, self.journal, self.floors.gen, self.floors.signed

    @property
    def kept(self):
        """What stands even where an instruction that was properly signed is noted in journal and generation."""
        state = decode_state(self.journal)
        committed, previous = (release and release.sha256 for release in (state.committed, state.previous))
        return self.active, self.answer, self.floors.releases, self.slots, committed, previous, state.floor


class AgentUnderTest:
    """One real agent on a copy of a folder; see the module's text.

    Attributes:
        agent: the agent of the product.
        folder: its folder.
        clock: its clock, to be put wrong.
    """

    def __init__(self, folder: Path, front, settings: AgentConfig = SETTINGS) -> None:
        self.folder, self.front, self._told = folder, front, 0
        self.settings = dataclasses.replace(settings, labels={"copy": folder.name})
        self.clock = WrongClock()
        enrolment = folder / "identity" / "enrolment.json"
        enrolment.write_bytes(json.dumps({**json.loads(enrolment.read_bytes()), "url": front.url}).encode())
        self.start()

    def start(self) -> None:
        """Start the agent, and wait until it does nothing."""
        self.agent = Agent(self.folder, self.settings, self.clock)
        self._watch()
        self.agent.start()
        self.settle()

    def stop(self) -> None:
        self.agent.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def poll(self) -> None:
        """Ask for the desired document once, and work until nothing is left to do."""
        self.agent.schedule.soon(self.agent.device.link._poll)
        self.settle()

    def refresh(self) -> None:
        """Look for new trust metadata as the daily timer does, and work until nothing is left to do."""
        self.agent.schedule.soon(self.agent.device.trust.refresh)
        self.settle()

    def settle(self, seconds: float = 30.0) -> None:
        """Wait until nothing is in line, nothing runs, and no model is under way (one that waits to retry is not)."""
        deadline = time.monotonic() + seconds
        while True:
            found: list[bool] = []
            done = threading.Event()
            self._soon(lambda found=found, done=done: (found.append(self._is_quiet()), done.set()))
            assert done.wait(max(0.0, deadline - time.monotonic())), "the agent's line stands still"
            if found[0]:
                return
            assert time.monotonic() < deadline, f"no rest within {seconds} s: {self.agent.device.updates.states}"
            time.sleep(0.002)

    def later(self, seconds: float) -> None:
        """Let time pass for waits and deadlines, and work until nothing is left to do."""
        self.clock.steady_shift_ms += round(seconds * 1000)
        self.settle()

    def snapshot(self) -> Snapshot:
        slots = self.folder / "slots"
        return Snapshot(
            active=self.agent.device.parts.store.active(MODEL),
            answer=self._answer(),
            floors=load_floors(self.folder / "trust", cache_exists=True),
            journal=(self.folder / "journal" / MODEL.replace("/", "+")).read_bytes(),
            slots={s.name: sha256_hex((s / "bundle.json").read_bytes()) for s in sorted(slots.iterdir())},
        )

    def running(self) -> str:
        """Return the version that answers a real request; empty = none."""
        answer = self._answer()
        return answer[0] if answer else ""

    def codes(self) -> list[str]:
        """Return the codes told to the control plane since the last call, in order, then those that are only
        shown on the device (what the network does is no news to a server that cannot be reached)."""
        events = [message for leaf, message in list(self.front.reports) if leaf == topics.UP_EVENT]
        new, self._told = events[self._told :], len(events)
        told = [event.code for event in new if event.code]
        shown = list(self.agent.device.voice.troubles.values())
        return told + [code for code in shown if code not in told]

    def reported(self):
        """Have the device report, and return what it says of its model."""
        self.agent.schedule.soon(self.agent.device.link.heartbeat)
        self.settle()
        said = [m for leaf, m in self.front.reports if leaf == topics.UP_REPORTED and m.labels == self.settings.labels]
        return said[-1].models[MODEL]

    def _answer(self):
        with Client(self.folder / "socket") as client:
            if not client.models():
                return None
            got = client.infer(MODEL, {"image": np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1) % 16})
        return got.version, got.sha256, b"".join(got.outputs[name].tobytes() for name in sorted(got.outputs))

    def _watch(self) -> None:
        """Count what is in line and at work, to know when the agent is at rest."""
        schedule, self._busy, lock = self.agent.schedule, 0, threading.Lock()
        self._soon = soon = schedule.soon
        background = schedule.background

        def count(step: int) -> None:
            with lock:
                self._busy += step

        def counted(call):
            count(1)

            def run(*arguments):
                try:
                    return call(*arguments)
                finally:
                    count(-1)

            return run

        schedule.soon = lambda call: soon(counted(call))
        schedule.background = lambda work, done: background(work, counted(done))

    def _is_quiet(self) -> bool:
        """Judge from within the line, where no other call is half done."""
        schedule = self.agent.schedule
        with schedule._wake:  # what is due counts as in line
            is_due = any(
                due_ms <= schedule.now_ms() and schedule._timers.get(key, (0,))[0] == number
                for due_ms, number, key in schedule._heap
            )
        states = list(self.agent.device.updates.states.values())
        at_rest = all(
            s.step.is_rest or s.step is Step.DEFERRED or (s.retry_ms and s.step is not Step.PROBATION) for s in states
        )
        return not is_due and self._busy == 0 and at_rest


def honest_bundle(folder: Path, version: str):
    """Build one of the demo's models into a real bundle; releases vary its manifest."""
    contract = Contract(
        inputs=[TensorSpec("image", "float32", [1, 8, 8, 1], min=0.0, max=16.0, kind="image")],
        outputs=[TensorSpec("probabilities", "float32", [1, 10])],
        task="classification",
        labels=[str(digit) for digit in range(10)],
    )
    spec = BuildSpec(
        team="vision",
        model="digits",
        version="0.0.0",
        release_counter=1,
        channel="prod",
        created_ms=1_792_000_000_000,
        contract=contract,
        variants=[VariantSource("onnx-int8", "onnxruntime", DATA / f"digits-{version}.onnx")],
        goldens=DATA / f"digits-goldens-{version}.npz",
        rows=read_rows(DATA / "digits-train.npz", contract),
    )
    return build(spec, folder / f"{version}.wgb").archive


class World:
    """One lab with its front and devices."""

    def __init__(self, lab, front) -> None:
        self.lab, self.front = lab, front
        self.devices: list[AgentUnderTest] = []
        self.folder = Path(tempfile.mkdtemp(prefix="wg-"))
        lab.front, lab.assign, lab.gen = front, self.assign, 0

    def assign(self, *wanted: DesiredModel, gen: int | None = None, **options) -> bytes:
        """Sign a desired document (``Lab.desired``'s options) and have it served."""
        self.lab.gen = gen if gen is not None else self.lab.gen + 1
        options = {"profile": QUIET, "trust_version": self.lab.repository.timestamp_version, **options}
        self.front.assigned = self.lab.desired(self.lab.gen, *wanted, **options)
        return self.front.assigned

    def open(self, source: Path, name: str = DEVICE, settings: AgentConfig = SETTINGS) -> AgentUnderTest:
        folder = self.folder / f"{name}-{len(self.devices)}"
        shutil.copytree(source, folder)
        self.devices.append(AgentUnderTest(folder, self.front, settings))
        return self.devices[-1]

    def open_unassigned(self, source: Path, **options) -> AgentUnderTest:
        """Open a device that is offered nothing at its start, so that it stays where it is."""
        assigned, self.front.assigned = self.front.assigned, None
        device = self.open(source, **options)
        self.front.assigned = assigned
        return device

    def close(self) -> None:
        for device in self.devices:
            with contextlib.suppress(FileNotFoundError):
                device.stop()
        self.front.close()
        self.lab.close()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def honest_world(tmp_path_factory, lab_class, pki_class, front_class):
    """The honest world that every test begins with a copy of: (lab, pki, blobs, folder of the device)."""
    folder = tmp_path_factory.mktemp("honest")
    pki, lab = pki_class(folder), lab_class(folder)
    bundles = [honest_bundle(folder, version) for version in ("1.0.0", "1.1.0")]
    lab.base, lab.better = (bundle.manifest for bundle in bundles)
    front = front_class(lab, pki)
    front.blobs = {entry.sha256: bundle.read(entry) for bundle in bundles for entry in bundle.manifest.files}
    world = World(lab, front)
    home = world.folder / "origin"
    probe_runtimes_into(home)
    enroll_over_https(home / "identity", url=front.url, token="t", server_ca_pem=pki.pem, name=DEVICE)
    (home / "root.json").write_bytes(lab.root())
    lab.publish("0.9.0", 2)
    lab.assign(lab.publish("1.0.0", 3))
    device = world.open(home)
    assert device.running() == "1.0.0", device.codes()
    device.stop()
    lab.first_home = world.folder / "first"
    shutil.copytree(device.folder, lab.first_home)
    device.start()
    lab.assign(lab.publish("1.1.0", 5))
    device.poll()
    assert device.running() == "1.1.0", device.codes()
    assert device.snapshot().floors.releases == {MODEL: 3}
    device.stop()
    (device.folder / "status.json").unlink()
    yield lab, pki, front, device.folder
    world.close()


def probe_runtimes_into(folder: Path) -> None:
    folder.mkdir()
    probe_runtimes(folder, SETTINGS.runtimes)


@pytest.fixture
def new_world(honest_world, lab_class, front_class):
    """Return a function that makes a copy of the honest world; for a test that needs two."""
    origin, pki, honest_front, home = honest_world
    worlds = []

    def make():
        folder = Path(tempfile.mkdtemp(prefix="wg-lab-"))
        lab = lab_class(folder, like=origin)
        front = front_class(lab, pki)
        front.blobs, front.assigned = dict(honest_front.blobs), honest_front.assigned
        world = World(lab, front)
        lab.gen, lab.better = origin.gen, origin.better
        lab.first_device = lambda **options: world.open_unassigned(origin.first_home, **options)
        lab.device = lambda source=home, **options: world.open(source, **options)
        worlds.append((world, folder))
        return lab

    yield make
    for world, folder in worlds:
        world.close()
        shutil.rmtree(folder)


@pytest.fixture
def lab(new_world):
    """The honest world, with ``lab.front``, ``lab.assign`` and ``lab.device`` beside what ``Lab`` has.

    ``lab.first_device`` is a device that has committed 1.0.0 (counter 3) and nothing after it.
    """
    return new_world()


@pytest.fixture
def attack(new_world):
    """Play an attack that must fail.

    ``attack(script, code)`` begins a copy of the honest world, calls ``script(lab, device)``, and asserts that the
    device told ``code``, that the same model answers a real request with the same outputs, and that floors, slots and
    journal are as before. ``is_instructed=True`` is for an attacker who holds the director's key: his instruction is
    properly signed, so its generation and its failure are noted, and nothing else may change. Options beyond these
    are ``lab.device``'s. Returns (lab, device) for more assertions.
    """

    def play(script, code: str, *, is_instructed: bool = False, **options):
        lab = new_world()
        device = lab.device(**options)
        before = device.snapshot()
        device.codes()
        script(lab, device)
        codes, after = device.codes(), device.snapshot()
        assert code in codes, f"{code} was not told, but {codes}"
        assert before.answer is not None
        assert (after.kept if is_instructed else after.all) == (before.kept if is_instructed else before.all)
        return lab, device

    return play


@pytest.fixture
def with_teeth(new_world, monkeypatch):
    """Play an attack with a check taken away, to show that it is this check that stops it.

    ``with_teeth(script, succeeded, {"dotted.name": replacement})`` replaces the named functions for the time of the
    script, which runs in a fresh copy of the honest world, and asserts ``succeeded(lab, device)``.
    """

    def play(script, succeeded, disabled, **options):
        lab = new_world()
        device = lab.device(**options)
        assert not succeeded(lab, device), "it had succeeded before it began"
        with monkeypatch.context() as patched:
            for name, replacement in disabled.items():
                patched.setattr(name, replacement)
            script(lab, device)
        assert succeeded(lab, device), f"it fails even without {sorted(disabled)}: {device.codes()}"

    return play
