"""``swap: cold`` where two copies of a model do not fit: the old one is stopped first, and comes back on failure."""

import os
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.core.state import Release
from agent.errors import ModelRefused, NotReady
from agent.inference.engine import Engine
from agent.inference.lane import Lane
from agent.runner import models as models_module
from agent.runner.edges import StagedBundle
from agent.runner.models import EngineModels
from bundles.build import BuildSpec, VariantSource, build
from bundles.contract import Contract, TensorSpec
from bundles.manifest import HealthCheck

MIB = 1024 * 1024
WIDTH = 2_000_000
"""Columns of the weights: 4 x WIDTH and WIDTH x 2 numbers of 4 bytes, about 46 MiB."""
CONTRACT = Contract(
    inputs=[TensorSpec("x", "float32", [1, 4], min=-1.0, max=1.0)],
    outputs=[TensorSpec("y", "float32", [1, 2])],
    task="regression",
)
X = np.full((1, 4), 0.5, np.float32)


def pss(pid: int) -> int:
    """Return a process's proportional set size in bytes; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def tree(root: int) -> list[int]:
    """Return the processes below ``root``."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, new = set(), {root}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return sorted(found)


def memory() -> int:
    return sum(pss(pid) for pid in tree(os.getpid()))


def field(number: int, value) -> bytes:
    """Return one field of a protocol buffer message: an int, or bytes."""

    def varint(n: int) -> bytes:
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def linear_onnx(width: int, scale: float) -> bytes:
    """Return an ONNX model y = (x A) B, of which A and B are nearly all."""

    def tensor(name, array):
        dims = b"".join(field(1, n) for n in array.shape)
        return dims + field(2, 1) + field(8, name) + field(9, array.tobytes())

    def value(name, shape):
        dims = b"".join(field(1, field(1, n)) for n in shape)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))

    def node(op, inputs, output):
        return b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, op)

    a = np.full((4, width), scale / width, np.float32)
    b = np.ones((width, 2), np.float32)
    graph = (
        field(1, node("MatMul", ["x", "a"], "h"))
        + field(1, node("MatMul", ["h", "b"], "y"))
        + field(2, "g")
        + field(5, tensor("a", a))
        + field(5, tensor("b", b))
        + field(11, value("x", (1, 4)))
        + field(12, value("y", (1, 2)))
    )
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


@pytest.fixture
def bundle(tmp_path):
    def make(n: int, swap: str, content: bytes | None = None) -> StagedBundle:
        path = tmp_path / f"m{n}.onnx"
        path.write_bytes(linear_onnx(WIDTH, float(n)) if content is None else content)
        x = np.random.default_rng(3).uniform(-1, 1, (32, 1, 4)).astype(np.float32)
        y = np.repeat(x.sum(axis=2, keepdims=True) * n, 2, axis=2).astype(np.float32)
        np.savez(tmp_path / f"g{n}.npz", **{"input.x": x, "output.y": y})
        spec = BuildSpec(
            team="vision",
            model="big",
            version=f"{n}.0.0",
            release_counter=n,
            channel="prod",
            created_ms=0,
            contract=CONTRACT,
            variants=[VariantSource("any", "onnxruntime", path)],
            goldens=tmp_path / f"g{n}.npz",
            health_check=HealthCheck(comparator="allclose"),
            swap=swap,
        )
        archive = build(spec, tmp_path / f"{n}-{swap}.wgb").archive
        folder = tmp_path / f"slot-{n}-{swap}"
        archive.unpack(folder)
        release = Release(archive.manifest.target_path, archive.sha256, len(archive.manifest_bytes), n)
        return StagedBundle(release, folder, archive.manifest, archive.manifest.variants[0])

    return make


@pytest.fixture
def models():
    models = EngineModels(Engine(), lambda: int(time.time() * 1000), ["onnxruntime"])
    yield models
    models.close()


def answer(models) -> float:
    return float(models.engine.infer({"x": X}, "vision/big").outputs["y"][0, 0])


def test_a_cold_swap_never_holds_two_copies_in_memory_and_a_hot_one_does(bundle, models, monkeypatch):
    """Measured over the worker's whole process tree, at the moment when the new model is loaded and warm."""
    seen: list[int] = []
    original = Lane.open

    def open_and_look(lane):
        original(lane)
        seen.append(memory())

    monkeypatch.setattr(Lane, "open", open_and_look)
    peaks = {}
    models.activate(bundle(1, "hot"))
    alone = seen.pop()
    for n, swap in ((2, "hot"), (3, "cold")):
        staged = bundle(n, swap)
        models.activate(staged)
        peaks[swap] = seen.pop()
        assert answer(models) == pytest.approx(2.0 * n, rel=1e-3)
    copy = linear_onnx_bytes()
    print(
        f"PSS of the workers: alone {alone / MIB:.0f} MiB, hot {peaks['hot'] / MIB:.0f}, cold {peaks['cold'] / MIB:.0f}"
    )
    assert peaks["hot"] - alone > copy * 0.8, "a hot swap holds both"
    assert peaks["cold"] - alone < copy * 0.3, "a cold one holds one"


def linear_onnx_bytes() -> int:
    return WIDTH * 6 * struct.calcsize("f")


def test_the_trial_of_a_cold_release_has_the_memory_to_itself_too(bundle, models, monkeypatch):
    models.activate(bundle(1, "hot"))
    pids = []
    original = models_module.run_trial

    def run_trial(spec):
        pids.append(models.engine.status("vision/big").worker_pid)
        with pytest.raises(NotReady):
            answer(models)
        return original(spec)

    monkeypatch.setattr(models_module, "run_trial", run_trial)
    assert models.try_out(bundle(2, "cold")).ok
    assert pids == [None], "the old worker is gone while the new model is tried"
    assert answer(models) == pytest.approx(2.0, rel=1e-3), "and answers again behind it"


def test_a_cold_release_that_does_not_load_brings_the_old_one_back(bundle, models):
    models.activate(bundle(1, "hot"))
    broken = bundle(2, "cold")
    broken.model_path.write_bytes(b"no model")
    with pytest.raises(ModelRefused):
        models.activate(broken)
    assert answer(models) == pytest.approx(2.0, rel=1e-3)
    assert models.running("vision/big").version == "1.0.0"


def test_requests_during_a_cold_swap_are_told_to_come_again_and_none_is_lost_or_hangs(bundle, models):
    models.activate(bundle(1, "hot"))
    second = bundle(2, "cold")
    outcomes, is_over = [], threading.Event()

    def ask():
        while not is_over.is_set():
            try:
                outcomes.append(round(answer(models)))
            except NotReady as error:
                outcomes.append(error.code)
                time.sleep(0.002)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        models.activate(second)
        while 4 not in outcomes[-3:]:
            time.sleep(0.01)
    finally:
        is_over.set()
        asking.join(30)
    assert set(outcomes) == {2, "NOT_READY", 4}
    assert [o for o in outcomes if o != "NOT_READY"] == sorted(o for o in outcomes if o != "NOT_READY")


def test_the_first_release_of_a_model_needs_no_other_to_rest(bundle, models):
    staged = bundle(1, "cold")
    models.activate(replace(staged))
    assert answer(models) == pytest.approx(2.0, rel=1e-3)
