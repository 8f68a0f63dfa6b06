"""One device: the real runner, updater, store, journal, trust and download over a folder; time and network are ours.

Inference is the one thing that is not real: a model *answers* once its whole file was read from its slot and found to
be what its manifest says. Everything happens on one thread and in one order, so that a run can be traced and repeated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agent.core import effects as fx
from agent.core.health import HealthNumbers
from agent.core.journal import decode_state
from agent.core.policy import Policy
from agent.core.state import Step, UpdaterState
from agent.inference.trial import TrialResult
from agent.runner import device as runner
from agent.runner.assurance import Assurance
from agent.runner.blobs import Price, ServerBlobs
from agent.runner.edges import Running, StagedBundle
from agent.runner.reporting import Self
from agent.runner.schedule import Schedule
from agent.runner.stream import Accuracy
from agent.runner.updates import Quick, Slow, Updates
from agent.runner.wiring import next_session
from agent.spool import Spool
from agent.store import LocalFileSystem, Store
from bundles.digest import sha256_hex
from bundles.errors import TryAgain
from bundles.sketch.form import Window
from bundles.trust.device import client as trust_client
from bundles.trust.device.client import TrustStore
from powercut.server import Server
from powercut.tracing import mark
from powercut.world import DEVICE, MODEL, PROFILE, World

T = TypeVar("T")
HARDWARE = "cam-a"
LIMIT_MS = 6 * 3_600_000
"""No update here takes longer by the device's own clock, whatever happened to it."""


class PowerOff(BaseException):
    """The device stops here, in the middle of a line."""


@dataclass
class Clock:
    """Time of one device; the wall clock may be wrong."""

    now: int
    wrong_ms: int = 0

    def now_ms(self) -> int:
        return self.now

    def wall_ms(self) -> int:
        return self.now + self.wrong_ms


class Line(Schedule):
    """The real schedule, with background work done at once and in line."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        super().__init__(now_ms, workers=0)

    def background(self, work: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        try:
            result: T | BaseException = work()
        except Exception as error:
            result = error
        self.soon(lambda: done(result))


class BenchModels:
    """``Models`` of one device without a runtime.

    Args:
        world: knows the releases.
        sick: versions that answer, and fail their self-test in probation.
        dead: versions that cannot be loaded.
        began: told of each version that is about to be loaded.
    """

    def __init__(self, world: World, sick: set[str], dead: set[str], began: Callable[[str], None]) -> None:
        self._world, self._sick, self._dead, self._began = world, sick, dead, began
        self._bundles: dict[str, StagedBundle] = {}
        self.answered: list[str] = []
        self.withheld: set[str] = set()

    def runtimes(self) -> list[str]:
        return ["onnxruntime"]

    def try_out(self, bundle: StagedBundle) -> TrialResult:
        self._load(bundle)
        return TrialResult(ok=True, reason=None, detail="")

    def activate(self, bundle: StagedBundle) -> None:
        version = bundle.manifest.version
        self._began(version)
        if version in self._dead:
            raise TryAgain("The worker died.", code="WORKER_CRASHED")
        self._load(bundle)
        model = bundle.manifest.model_key
        self._bundles[model] = bundle
        self.withheld.discard(model)
        self.answered.append(version)

    def deactivate(self, model: str) -> None:
        self._bundles.pop(model, None)

    def withhold(self, model: str, mode: str) -> None:
        self.deactivate(model)
        self.withheld.add(model)

    def numbers(self, model: str) -> tuple[str, HealthNumbers] | None:
        bundle = self._bundles.get(model)
        if bundle is None:
            return None
        is_sick = bundle.manifest.version in self._sick
        numbers = HealthNumbers(self_tests_ok=int(not is_sick), self_tests_failed=int(is_sick))
        return bundle.release.sha256, numbers

    def running(self, model: str) -> Running | None:
        bundle = self._bundles.get(model)
        if bundle is None:
            return None
        return Running(bundle.release.sha256, bundle.manifest.version, bundle.variant.id, "bench 1", "cpu", True)

    def cut(self, now_ms: int) -> list[Window]:
        return []

    def close(self) -> None:
        self._bundles.clear()

    def _load(self, bundle: StagedBundle) -> None:
        """Read everything a runtime would; whoever answers has been read whole, and is what was signed."""
        for entry in bundle.manifest.files:
            data = (bundle.slot / entry.path).read_bytes()
            assert sha256_hex(data) == entry.sha256, f"{entry.path} of {bundle.manifest.version} is damaged in its slot"


class MarkedUpdates(Updates):
    """The real runner of effects; its table is lined with marks, and with whatever a test does there."""

    passing: Callable[[str, str], None] = staticmethod(lambda name, edge: mark(f"{edge} {name}"))

    def __init__(self, *args: Any, quick: dict[type, Quick], slow: dict[type, Slow], **more: Any) -> None:
        super().__init__(
            *args,
            quick={kind: self._lined(kind, call) for kind, call in quick.items()},
            slow={kind: self._lined(kind, call) for kind, call in slow.items()},
            **more,
        )

    def _lined(self, kind: type, call: Callable[[str, fx.Effect], T]) -> Callable[[str, fx.Effect], T]:
        def lined(model: str, effect: fx.Effect) -> T:
            self.passing(kind.__name__, "begin")
            try:
                return call(model, effect)
            finally:
                self.passing(kind.__name__, "end")

        return lined


@dataclass
class Told:
    """What a device was told is durable, and what it did, told as it happens.

    Attributes:
        floors: (generation, release floor, version of the timestamp) after each write of trust's floors.
        journal: bytes of each journal, as it was about to be written and as it was written.
        attempt: an activation of a version is about to begin.
        session: the number of this start.
    """

    floors: Callable[[int, int, int], None] = lambda _gen, _release, _version: None
    journal: Callable[[str, bytes], None] = lambda _edge, _data: None
    attempt: Callable[[str], None] = lambda _version: None
    session: Callable[[int], None] = lambda _session: None


class Rig:
    """One start of the agent on a folder. See the module's docstring.

    Args:
        folder: holds everything that must survive.
        server: whom it talks to.
        clock: tells the time.
        told: hears what is durable.
        sick: as of ``BenchModels``; ``dead`` likewise.
        effects: does something at the edges of every effect, as (name, "begin" | "end").
        policy: of its owner.
        reserve_bytes: of its store.
        fs: its disk.
    """

    def __init__(
        self,
        folder: Path,
        server: Server,
        clock: Clock,
        *,
        told: Told | None = None,
        sick: Iterable[str] = (),
        dead: Iterable[str] = (),
        effects: Callable[[str, str], None] | None = None,
        policy: Policy | None = None,
        reserve_bytes: int = 0,
        fs: Callable[[Path], LocalFileSystem] = LocalFileSystem,
    ) -> None:
        self.folder, self.server, self.clock, self.world = folder, server, clock, server.world
        self.told = told or Told()
        self.line = Line(clock.now_ms)
        rng = random.Random(7)
        factory = frozenset({self.world.releases["0.9.0"].sha256})
        self.trust = TrustStore(
            folder / "trust", self.world.root, device=DEVICE, fetch=server.metadata, factory=factory
        )
        save = trust_client.save_floors

        def save_and_tell(*args: Any) -> Any:
            floors = save(*args)
            version = floors.roles["timestamp"].version if "timestamp" in floors.roles else 0
            self.told.floors(floors.gen, floors.release_floor(MODEL), version)
            return floors

        self._swap(trust_client, "save_floors", save_and_tell)
        try:
            self.store = Store(fs(folder), reserve_bytes)
            self.store.open()
            self.spool = Spool(":memory:", DEVICE)
            self.models = BenchModels(self.world, set(sick), set(dead), self._began)
            session = next_session(folder / "session")
            self.told.session(session)
            me = Self(DEVICE, self.spool.boot_epoch, session, clock.now, HARDWARE, ("onnxruntime",), {}, "0")
            fetch = ServerBlobs(server, rng, Price(within_s=lambda _length: 0.0), self._sleep)
            parts = runner.Parts(
                store=self.store,
                spool=self.spool,
                assurance=Assurance(self.trust, clock.wall_ms, clock.now_ms),
                models=self.models,
                fetch=fetch,
                door=server,
                transport=None,
                accuracy=Accuracy(),
            )
            marked = MarkedUpdates
            if effects is not None:
                marked = type("WatchedUpdates", (MarkedUpdates,), {"passing": staticmethod(effects)})
            self._swap(runner, "Updates", marked)
            save_journal = self.store.save_journal

            def save_journal_and_tell(model: str, data: bytes) -> None:
                self.told.journal("begin", data)
                save_journal(model, data)
                self.told.journal("end", data)

            self.store.save_journal = save_journal_and_tell  # type: ignore[method-assign]
            status = folder.parent / f"{folder.name}.status"
            self.device = runner.Device(me, parts, self.line, policy or Policy(), PROFILE, status, clock.wall_ms, rng)
        except BaseException:
            self.pull_the_plug()
            raise
        self.line.soon(self.device.start)

    def _swap(self, module: Any, name: str, value: Any) -> None:
        self._swapped = [*getattr(self, "_swapped", []), (module, name, getattr(module, name))]
        setattr(module, name, value)

    def _began(self, version: str) -> None:
        state = self.state
        if state.step is Step.ACTIVATING and state.target and self.world.version_of(state.target.sha256) == version:
            self.told.attempt(version)

    def _sleep(self, seconds: float) -> None:
        self.clock.now += round(seconds * 1000)

    @property
    def state(self) -> UpdaterState:
        """Where the updater stands."""
        return self.device.updates.states.get(MODEL) or UpdaterState(MODEL)

    @property
    def answering(self) -> str:
        """Version that answers now; ``withheld`` where it refuses on purpose, empty where nothing does."""
        running = self.models.running(MODEL)
        return running.version if running else "withheld" if MODEL in self.models.withheld else ""

    def journalled(self) -> UpdaterState | None:
        """Return what the journal on disk says."""
        data = self.store.load_journal(MODEL)
        return decode_state(data) if data is not None else None

    def now(self) -> None:
        """Let everything happen that is due without time going by."""
        self.line.run_due()
        assert self.line.failures == 0, "a call of the agent failed"

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Let time go by until ``condition``."""
        limit = self.clock.now + LIMIT_MS
        while True:
            due_ms = self.line.run_due()
            assert self.line.failures == 0, "a call of the agent failed"
            if condition():
                return
            assert due_ms is not None, f"it waits for nothing, and never came to {what}: {self.state}"
            assert due_ms < limit, f"it never came to {what}: {self.state}"
            self.clock.now = max(self.clock.now, due_ms)

    def pass_time(self, seconds: float) -> None:
        """Let so much time go by."""
        end = self.clock.now + round(seconds * 1000)
        while (due_ms := self.line.run_due()) is not None and due_ms <= end:
            assert self.line.failures == 0, "a call of the agent failed"
            self.clock.now = max(self.clock.now, due_ms)
        self.clock.now = max(self.clock.now, end)

    def rests_in(self, version: str, step: str) -> bool:
        """Whether the device rests in ``step`` with ``version`` committed, and has told so."""
        expected = "" if version == "withheld" else version
        state, beat = self.state, self.server.heartbeats[-1:]
        committed = self.world.version_of(state.committed.sha256) if state.committed else ""
        if state.step != step or self.answering != version or (expected and committed != expected):
            return False
        said = beat[0].models.get(MODEL) if beat else None
        return said is not None and said.phase == state.phase and said.version == expected

    def settle(self, version: str, *, step: str = "confirmed") -> None:
        """Let time go by until ``rests_in``."""
        self.until(lambda: self.rests_in(version, step), f"{version} {step}")

    def pull_the_plug(self) -> None:
        """End it as a kill does: nothing more is written; the kernel lets go of what it held."""
        while getattr(self, "_swapped", []):
            setattr(*self._swapped.pop())
        self.trust.close()
        if hasattr(self, "spool"):
            self.spool.close()
