"""Two bundles compared, in words and in bytes."""

from __future__ import annotations

import io

import msgspec
import numpy as np
import pytest

from bundles.build import BuildSpec, TrainingRows, VariantSource, build
from bundles.contract import Contract, TensorSpec
from bundles.delta.apply import apply_delta
from bundles.delta.between import deltas_between
from bundles.delta.describe import diff
from bundles.lineage import Lineage
from bundles.manifest import HealthCheck

RNG = np.random.default_rng(4)
WEIGHTS = RNG.normal(0, 25, 100_000).round().clip(-127, 127).astype(np.int8)


def contract(**changes) -> Contract:
    base = Contract(
        inputs=[TensorSpec("image", "float32", [1, 4], min=0, max=16, kind="tabular", features=list("abcd"))],
        outputs=[TensorSpec("probabilities", "float32", [1, 3])],
        task="classification",
        labels=["a", "b", "c"],
    )
    return msgspec.structs.replace(base, **changes)


@pytest.fixture
def bundle(tmp_path):
    np.savez(
        tmp_path / "goldens.npz",
        **{"input.image": np.ones((2, 4), np.float32), "output.probabilities": np.ones((2, 3), np.float32)},
    )

    def make(version, weights=WEIGHTS, of=None, rows=100, **changes):
        (tmp_path / f"digits-{version}.onnx").write_bytes(weights.tobytes())
        spec = BuildSpec(
            team="vision",
            model="digits",
            version=version,
            release_counter=int(version[0]),
            channel="prod",
            created_ms=1,
            contract=of or contract(),
            variants=[VariantSource("onnx-int8", "onnxruntime", tmp_path / f"digits-{version}.onnx")],
            goldens=tmp_path / "goldens.npz",
            rows=TrainingRows({"image": RNG.random((rows, 4), dtype=np.float32)}),
            **changes,
        )
        return build(spec, tmp_path / f"{version}.wgb").archive

    return make


def words(old, new) -> dict[str, tuple[str, str]]:
    changes = diff(old, new)
    assert len({change.what for change in changes}) == len(changes)
    return {change.what: (change.before, change.after) for change in changes}


def test_a_bundle_does_not_differ_from_itself(bundle):
    one = bundle("1.0.0")
    assert diff(one, one) == []
    assert deltas_between(one, one) == []


def test_what_changed_is_told_in_words(bundle):
    moved = (WEIGHTS + 1).astype(np.int8)
    wider = contract(
        inputs=[msgspec.structs.replace(contract().inputs[0], max=255), TensorSpec("gain", "float32", [1])],
        labels=["b", "a", "d"],
    )
    old = bundle("1.0.0")
    np.savez(
        old.path.parent / "goldens.npz",
        **{
            "input.image": np.ones((2, 4), np.float32),
            "input.gain": np.ones((2, 1), np.float32),
            "output.probabilities": np.ones((2, 3), np.float32),
        },
    )
    told = {}
    with pytest.MonkeyPatch.context() as patched:  # two inputs need two arrays of rows; the baseline is not the point
        patched.setattr("bundles.build._baseline", lambda spec, rows, notes: old.read(old.manifest.files[-1]))
        new = bundle(
            "2.0.0",
            moved,
            of=wider,
            health_check=HealthCheck(min_agreement=0.9),
            lineage=Lineage(training_run="run-2", parent_sha256=old.sha256),
        )
    told = words(old, new)
    assert told["version"] == ("1.0.0", "2.0.0")
    assert told["release counter"] == ("1", "2")
    assert told["file model/digits-2.0.0.onnx"] == (
        "model/digits-1.0.0.onnx, 100,000 bytes (model)",
        "100,000 bytes (model), other content",
    )
    assert "file model/digits-1.0.0.onnx" not in told, "renamed, not removed"
    assert told["variant onnx-int8: file"] == ("model/digits-1.0.0.onnx", "model/digits-2.0.0.onnx")
    assert told["labels added"] == ("", "d")
    assert told["labels removed"] == ("c", "")
    assert told["labels, in order of the output"] == ("a, b", "b, a")
    assert told["input image: max"] == ("16.0", "255.0")
    assert told["input gain"][1].startswith("dtype float32")
    assert told["health check: min agreement"] == ("0.99", "0.9")
    assert told["lineage: Training run"] == ("", "run-2")
    assert told["lineage: Parent bundle"] == ("", old.sha256)


def test_a_changed_baseline_is_told_by_column(bundle):
    told = words(bundle("1.0.0"), bundle("2.0.0", rows=90))
    assert told["baseline: rows"] == ("100", "90")
    assert any(what.startswith("baseline: column") for what in told)


def test_deltas_are_measured_and_written(bundle, tmp_path):
    moved = (WEIGHTS + (RNG.random(len(WEIGHTS)) < 0.01)).astype(np.int8)
    old, new = bundle("1.0.0"), bundle("2.0.0", moved)
    measured = {delta.path: delta for delta in deltas_between(old, new)}
    model = measured["model/digits-2.0.0.onnx"]
    assert model.is_offered
    assert model.ratio < 0.05
    assert (model.old_path, model.file) == ("model/digits-1.0.0.onnx", None)
    written = {delta.path: delta for delta in deltas_between(old, new, tmp_path / "deltas")}
    file = written["model/digits-2.0.0.onnx"].file
    assert file.stat().st_size == model.delta_bytes
    assert sorted(p.suffix for p in (tmp_path / "deltas").iterdir()) == [".wgd"] * len(written), "nothing else is left"
    made = bytearray()
    entry = new.manifest.file_with_role("model")
    apply_delta(
        [file.read_bytes()], io.BytesIO(WEIGHTS.tobytes()), made.extend, sha256=entry.sha256, length=entry.length
    )
    assert made == moved.tobytes()
