"""A disk that loses power, and the smallest runner over it: the real core, store, journal and download.

``CrashDisk`` is the ``FileSystem`` protocol in memory with two views of everything: what a program sees, and what would
survive. ``fsync`` moves a file's content from one to the other, ``fsync_dir`` a folder's names. Every operation that
changes something is a numbered point at which power may fail; a write that power cuts is half done.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.health import Judgement
from agent.core.journal import decode_state, encode_state
from agent.core.plan import choose_variant, files_for
from agent.core.state import Asked, Release, Step, UpdaterState
from agent.core.updater import update
from agent.download import Answer, fetch_blob
from agent.store import Store
from agent.store.files import disk_full, missing
from bundles.digest import sha256_hex
from bundles.errors import TryAgain
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest
from bundles.wire.messages import Profile

MODEL = "vision/digits"
PROFILE = Profile(probation_s=10, accept_s=60, download_s=120, activate_s=20)


class PowerCut(BaseException):
    """Power failed; nothing of the program is left."""


@dataclass
class File:
    seen: bytes = b""
    durable: bytes = b""


@dataclass
class Folder:
    seen: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)


class CrashDisk:
    """See the module's docstring.

    Attributes:
        points: points passed so far.
        cut_at: power fails at this point; None = never.
        full_at: from this point on, for ``full_for`` points, the disk has no room.
    """

    def __init__(self) -> None:
        self.root = Folder()
        self.points = 0
        self.cut_at: int | None = None
        self.full_at: int | None = None
        self.full_for = 1

    # --- what happens to disks ---

    def point(self) -> None:
        """Pass one point at which power may fail."""
        self.points += 1
        if self.cut_at is not None and self.points >= self.cut_at:
            raise PowerCut

    def crash(self, mode: str) -> None:
        """Lose power. What was not durable is ``lost`` or ``kept``, or only its ``names`` or ``contents`` are kept."""
        self.cut_at = None
        self._crash(
            self.root, keeps_names=mode in ("kept", "names"), keeps_contents=mode in ("kept", "contents"), met=set()
        )

    def _crash(self, folder: Folder, keeps_names: bool, keeps_contents: bool, met: set[int]) -> None:
        folder.seen = dict(folder.seen if keeps_names else folder.durable)
        folder.durable = dict(folder.seen)
        for node in folder.seen.values():
            if isinstance(node, Folder):
                self._crash(node, keeps_names, keeps_contents, met)
            elif id(node) not in met:
                met.add(id(node))
                node.seen = node.durable = node.seen if keeps_contents else node.durable

    def _writes(self) -> None:
        self.point()
        if self.full_at is not None and self.full_at <= self.points < self.full_at + self.full_for:
            raise disk_full("the test says so")

    # --- the protocol ---

    def _node(self, path: str) -> File | Folder | None:
        node: File | Folder | None = self.root
        for part in PurePosixPath(path).parts:
            if not isinstance(node, Folder):
                return None
            node = node.seen.get(part)
        return node

    def _folder(self, path: str) -> tuple[Folder, str]:
        parent = self._node(str(PurePosixPath(path).parent))
        if not isinstance(parent, Folder):
            raise missing(path)
        return parent, PurePosixPath(path).name

    def _file(self, path: str) -> File:
        node = self._node(path)
        if not isinstance(node, File):
            raise missing(path)
        return node

    def read(self, path: str) -> bytes:
        return self._file(path).seen

    def chunks(self, path: str) -> Iterator[bytes]:
        data = self.read(path)
        return iter([data[i : i + 7] for i in range(0, len(data), 7)])

    def _put(self, path: str, data: bytes, keep: bool) -> None:
        folder, name = self._folder(path)
        node = folder.seen.get(name)
        if not isinstance(node, File):
            node = folder.seen[name] = File()
        before = node.seen if keep else b""
        node.seen = before + data[: len(data) // 2]
        self._writes()
        node.seen = before + data

    def write(self, path: str, data: bytes) -> None:
        self._put(path, data, keep=False)

    def append(self, path: str, data: bytes) -> None:
        self._put(path, data, keep=True)

    def fsync(self, path: str) -> None:
        file = self._file(path)
        self._writes()
        file.durable = file.seen

    def fsync_dir(self, path: str) -> None:
        folder = self._node(path)
        assert isinstance(folder, Folder), path
        self._writes()
        folder.durable = dict(folder.seen)

    def rename(self, source: str, target: str) -> None:
        (old, old_name), (new, new_name) = self._folder(source), self._folder(target)
        if old_name not in old.seen:
            raise missing(source)
        self.point()
        new.seen[new_name] = old.seen.pop(old_name)

    def link(self, source: str, target: str) -> None:
        file = self._file(source)
        folder, name = self._folder(target)
        self._writes()
        folder.seen[name] = file

    def has_hard_links(self) -> bool:
        return True

    def unlink(self, path: str) -> None:
        folder, name = self._folder(path)
        self.point()
        folder.seen.pop(name, None)

    def mkdir(self, path: str) -> None:
        folder, name = self._folder(path)
        self._writes()
        folder.seen.setdefault(name, Folder())

    def rmdir(self, path: str) -> None:
        folder, name = self._folder(path)
        self.point()
        node = folder.seen.pop(name)
        assert isinstance(node, Folder)
        assert not node.seen, f"{path} is not empty"

    def list(self, path: str) -> list[str]:
        node = self._node(path)
        return sorted(node.seen) if isinstance(node, Folder) else []

    def is_dir(self, path: str) -> bool:
        return isinstance(self._node(path), Folder)

    def size(self, path: str) -> int | None:
        node = self._node(path)
        return len(node.seen) if isinstance(node, File) else None

    def free_bytes(self) -> int:
        return 1 << 30

    def absolute(self, path: str) -> Path:
        return Path("/crash-disk") / path


def make_bundle(n: int) -> tuple[Release, dict[str, bytes]]:
    """Return a release and its blobs; the contract is shared by all of them, as in life."""
    contents = {"nested/model.onnx": f"model {n} ".encode() * 40, "contract.json": b"{}", "goldens.json": b"g" * n}
    roles = {"nested/model.onnx": "model", "contract.json": "contract", "goldens.json": "goldens"}
    files = [BundleFile(path, sha256_hex(data), len(data), roles[path]) for path, data in contents.items()]
    variants = [Variant("any", "onnxruntime", "nested/model.onnx")]
    data = encode_manifest(Manifest("vision", "digits", f"{n}.0.0", n, "prod", 0, files, variants))
    release = Release(f"vision/digits/{n}.0.0/bundle.json", sha256_hex(data), len(data), n)
    return release, {release.sha256: data, **{sha256_hex(c): c for c in contents.values()}}


class Mirror:
    """A server with blobs; answers ranges."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self.blobs = blobs

    @contextmanager
    def open(self, url: str, offset: int, etag: str) -> Iterator[Answer]:
        data = self.blobs[url][offset:]
        yield Answer(
            206 if offset else 200, iter([data[i : i + 100] for i in range(0, len(data), 100)]), len(data), offset
        )


class Device:
    """The smallest runner: effects in order, journal first, answers through one queue, a virtual clock.

    Attributes:
        answering: bundle digest whose model answers; empty = nothing.
        activations: activations begun, by digest, over all starts: the disk cannot make us forget these.
        refuses: digests whose health is judged unhealthy.
    """

    def __init__(self, disk: CrashDisk, blobs: dict[str, bytes], update: Callable = update) -> None:
        self.disk, self.mirror, self.update = disk, Mirror(blobs), update
        self.activations: Counter[str] = Counter()
        self.refuses: set[str] = set()
        self.floor = 0
        self.now = 0
        self.reports: list[fx.Report] = []
        self.asked: Asked | None = None

    def __deepcopy__(self, memo: dict) -> Device:
        """Copy the device as it stands; the store has locks, and no state but the disk's."""
        twin = object.__new__(Device)
        memo[id(self)] = twin
        for name, value in self.__dict__.items():
            setattr(twin, name, None if name == "store" else copy.deepcopy(value, memo))
        twin.store = Store(twin.disk, reserve_bytes=0)
        return twin

    def boot(self) -> None:
        """Start as after a power cut: only the disk is remembered."""
        self.answering = ""
        self.timer = 0
        self.queue: deque[ev.Event] = deque()
        self.waits_for_disk: deque[ev.Event] = deque()
        self.store = Store(self.disk, reserve_bytes=0)
        self.store.open()
        data = self.store.load_journal(MODEL)
        self.state = decode_state(data) if data else UpdaterState(MODEL)
        self.tell(ev.Booted(self.now, self.store.active_release(MODEL), self.store.factory(MODEL)))
        if self.asked:
            self.queue.append(ev.DesiredChanged(self.now, self.asked))

    def tell(self, event: ev.Event) -> None:
        new, effects = self.update(self.state, event)
        for i, effect in enumerate(effects):
            if isinstance(effect, fx.Journal):
                try:
                    self.store.save_journal(MODEL, encode_state(effect.state))
                except TryAgain:
                    assert i == 0 or self.update is not update
                    self.waits_for_disk.append(event)  # the old state stays; the same event is offered again
                    return
            else:
                self.carry_out(effect)
            self.disk.point()  # power may fail between any two effects
        self.state = new

    def carry_out(self, effect: fx.Effect) -> None:
        name = type(effect).__name__.lower()
        release = getattr(effect, "release", None) or getattr(effect, "to", None)
        try:
            answer = self.handle(effect)
        except TryAgain as error:
            if name in ("authorize", "download", "verify", "stage", "activate", "revert", "serve"):
                sha256 = release.sha256 if release else ""
                self.queue.append(ev.EffectFailed(self.now, name, sha256, error.code, True, error.sentence))
            return
        if answer:
            self.queue.append(answer)

    def handle(self, effect: fx.Effect) -> ev.Event | None:
        now = self.now
        match effect:
            case fx.Authorize(release):
                return ev.Authorized(now, release.sha256)
            case fx.Admit(release, stage):
                return ev.Admitted(now, release.sha256, stage)
            case fx.Download(release):
                manifest = self.fetch_manifest(release)
                variant = choose_variant(manifest, hardware="cam-a", runtimes={"onnxruntime"})
                for entry in files_for(manifest, variant):
                    self.fetch(entry.sha256, entry.length)
                return ev.Downloaded(now, release.sha256, manifest.version, variant.id)
            case fx.Verify(release):
                self.store.verify(release.sha256, self.files(release))
                return ev.Verified(now, release.sha256)
            case fx.Stage(release):
                self.store.stage(release.sha256, self.files(release))
                return ev.Staged(now, release.sha256)
            case fx.Activate(release):
                self.activations[release.sha256] += 1
                return self.answer_with(release)
            case fx.Revert(None):
                self.store.deactivate(MODEL)
                self.answering = ""
                return ev.Activated(now, "")
            case fx.Revert(release) | fx.Serve(release):
                self.store.check_slot(release.sha256)
                return self.answer_with(release)
            case fx.Judge(sha256):
                verdict = Judgement("unhealthy", "errors") if sha256 in self.refuses else Judgement("healthy")
                self.queue.append(ev.ContactSeen(now))
                return ev.HealthSeen(now, sha256, verdict)
            case fx.RaiseFloor(_, counter):
                self.floor = max(self.floor, counter)
            case fx.CollectGarbage(keep):
                self.store.collect_garbage(keep)
            case fx.Discard(release):
                self.store.discard(release.sha256)
            case fx.Report():
                self.reports.append(effect)
            case fx.SetTimer(at_ms):
                self.timer = at_ms
        return None

    def answer_with(self, release: Release) -> ev.Event:
        self.store.activate(MODEL, release.sha256)
        self.answering = release.sha256
        return ev.Activated(self.now, release.sha256)

    def fetch_manifest(self, release: Release) -> Manifest:
        self.fetch(release.sha256, release.length)
        return self.store.manifest(release.sha256)

    def fetch(self, sha256: str, length: int) -> None:
        part = self.store.blob(sha256, length)
        fetch_blob(self.mirror, sha256, part, sleep=lambda s: None, draw=lambda: 0.5)

    def files(self, release: Release) -> tuple[BundleFile, ...]:
        manifest = self.store.manifest(release.sha256)
        return files_for(manifest, choose_variant(manifest, hardware="cam-a", runtimes={"onnxruntime"}))

    def run_serving(self) -> None:
        """Take the answers of the start itself, and nothing more."""
        for _ in range(len(self.queue)):
            self.tell(self.queue.popleft())

    def run(self, limit: int = 400, is_over: bool = True) -> None:
        """Run until nothing is left to do, or, where that is not the end, ``limit`` events."""
        for _ in range(limit):
            if self.queue:
                self.tell(self.queue.popleft())
            elif self.waits_for_disk:
                self.now += 1_000
                self.tell(self.waits_for_disk.popleft())
            elif self.timer:
                self.now, self.timer = max(self.now, self.timer), 0
                self.tell(ev.Ticked(self.now))
            elif self.state.step.is_rest:
                return
            else:
                raise AssertionError(f"{self.state.step} waits for nothing")
        assert not is_over, f"still {self.state.step} after {limit} events"

    def ask(self, gen: int, release: Release | None, rollout: str = "r1") -> None:
        """Set the retained instruction, and tell it."""
        self.asked = Asked(gen, release, rollout, PROFILE)
        self.queue.append(ev.DesiredChanged(self.now, self.asked))

    def check(self, allowed: set[str]) -> None:
        """What must hold right after any start: an allowed release answers, whole; what one can return to is there."""
        assert self.answering in allowed, (self.answering, self.state.step)
        assert (self.store.active(MODEL) or "") == self.answering
        for release in (self.state.committed, self.state.previous):
            if release:
                assert self.store.slot(release.sha256), f"the slot of {release.version} is gone"
                self.store.check_slot(release.sha256)
        for digest, count in self.activations.items():
            assert count <= 2, f"{digest[:8]} was activated {count} times"
        assert not self.state.committed or self.floor <= self.state.committed.counter


@pytest.fixture
def world() -> type:
    """Return the parts a crash test is built from."""

    class World:
        disk = CrashDisk
        device = Device
        power_cut = PowerCut
        bundle = staticmethod(make_bundle)
        model = MODEL
        step = Step

    return World
