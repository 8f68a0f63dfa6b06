"""Whatever is installed, damaged and collected in any order: previous-good and factory stay, and nothing else leaks.

A device with several models, on a real disk. ``keep`` is what the updater says it may return to; a collection may take
everything else, and must take nothing of that.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import event, given, settings
from hypothesis import strategies as st

from agent.store import LocalFileSystem, Store
from bundles.digest import sha256_hex
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest

MODELS = ("digits", "letters")
SHARED = b"the same goldens in every release"

model = st.sampled_from(MODELS)
number = st.integers(1, 5)
actions = st.one_of(
    st.tuples(st.just("commit"), model, number),
    st.tuples(st.just("return"), model, st.just(0)),
    st.tuples(st.just("make"), model, number),
    st.tuples(st.just("begin"), model, number),
    st.tuples(st.just("collect"), st.just(""), st.just(0)),
    st.tuples(st.just("start"), st.just(""), st.just(0)),
    st.tuples(st.just("discard"), model, number),
)


def contents(name: str, n: int) -> dict[str, bytes]:
    return {"m.onnx": f"{name} {n}".encode() * 20, "nested/goldens.npz": SHARED}


def manifest_of(name: str, n: int) -> Manifest:
    files = [
        BundleFile(path, sha256_hex(data), len(data), "model" if path == "m.onnx" else "goldens")
        for path, data in contents(name, n).items()
    ]
    return Manifest("vision", name, f"{n}.0.0", n, "prod", 0, files, [Variant("any", "onnxruntime", "m.onnx")])


class Device:
    """The store of one device, and what its updaters name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.committed: dict[str, str] = {}
        self.previous: dict[str, str] = {}
        self.coming: dict[str, str] = {}
        self.factory: dict[str, str] = {}
        self.known: dict[str, Manifest] = {}
        self.start()

    def start(self) -> None:
        self.store = Store(LocalFileSystem(self.folder), reserve_bytes=0)
        self.store.open()

    def bring(self, data: bytes) -> str:
        sha256 = sha256_hex(data)
        part = self.store.blob(sha256, len(data))
        if not self.store.adopt(sha256, len(data)):
            part.append(data)
            part.commit()
        return sha256

    def fetch(self, name: str, n: int) -> str:
        manifest = manifest_of(name, n)
        sha256 = self.bring(encode_manifest(manifest))
        for data in contents(name, n).values():
            self.bring(data)
        self.known[sha256] = manifest
        return sha256

    @property
    def keep(self) -> set[str]:
        return {*self.committed.values(), *self.previous.values(), *self.coming.values(), *self.factory.values()}

    def do(self, what: str, name: str, n: int) -> None:
        match what:
            case "commit":
                sha256 = self.fetch(name, n)
                self.coming.pop(name, None)
                self.store.stage(sha256, self.known[sha256].files)
                self.store.activate(f"vision/{name}", sha256)
                if sha256 != self.committed.get(name):
                    if name in self.committed:
                        self.previous[name] = self.committed[name]
                    self.committed[name] = sha256
            case "return" if name in self.previous:
                self.store.activate(f"vision/{name}", self.previous[name])
                self.committed[name] = self.previous.pop(name)
            case "make":
                manifest, data = manifest_of(name, n), contents(name, n)
                placed = self.store.place_factory(
                    encode_manifest(manifest), manifest.files, lambda entry: [data[entry.path]]
                )
                self.factory[name], self.known[placed.sha256] = placed.sha256, manifest
            case "begin":
                self.coming[name] = self.fetch(name, n)
            case "collect":
                self.store.collect_garbage(self.keep)
            case "start":
                self.start()
            case "discard":
                sha256 = sha256_hex(encode_manifest(manifest_of(name, n)))
                if sha256 not in {*self.committed.values(), *self.previous.values()}:
                    self.store.discard(sha256)

    def check(self) -> None:
        for name in MODELS:
            for sha256 in (self.committed.get(name), self.previous.get(name), self.factory.get(name)):
                if sha256:
                    self.store.check_slot(sha256, self.known[sha256].files)
            release = self.store.factory(f"vision/{name}")
            assert (release.sha256 if release else None) == self.factory.get(name)
            assert self.store.active(f"vision/{name}") == self.committed.get(name)
            if sha256 := self.coming.get(name):
                assert all(self.store.has_blob(f.sha256, f.length) for f in self.known[sha256].files)


@settings(deadline=None)
@given(st.lists(actions, max_size=25))
def test_no_order_of_events_costs_a_device_what_it_may_return_to(steps):
    with tempfile.TemporaryDirectory() as folder:
        device = Device(Path(folder))
        for step in steps:
            device.do(*step)
            device.check()
        device.store.collect_garbage(device.keep)
        device.check()
        slots = {device.store._slot_at(int(p.name)).sha256 for p in (Path(folder) / "slots").iterdir()}
        assert slots <= device.keep
        needed = device.keep | {f.sha256 for sha256 in device.keep for f in device.known[sha256].files}
        assert {p.name for p in (Path(folder) / "blobs/sha256").iterdir()} <= needed, "and nothing else is left over"
        event(f"{len(slots)} slots, {len(device.factory)} factory bundles")
