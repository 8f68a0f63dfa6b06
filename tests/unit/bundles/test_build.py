from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bundles.build import BuildSpec, TrainingRows, VariantSource, build, read_rows
from bundles.contract import Contract, TensorSpec
from bundles.errors import BundleRefused
from bundles.project import read_contract, read_project, to_spec
from bundles.sketch.baseline import parse_baseline
from bundles.verify import verify_content

CONTRACT = Contract(
    inputs=[TensorSpec("image", "float32", [1, 8, 8, 1], min=0, max=16, kind="image")],
    outputs=[TensorSpec("probabilities", "float32", [1, 3], min=0, max=1)],
    task="classification",
    labels=["a", "b", "c"],
)
NOW = 1_792_000_000_000


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(7)
    (tmp_path / "m.onnx").write_bytes(b"onnx")
    (tmp_path / "m.tflite").write_bytes(b"tflite")
    np.savez(
        tmp_path / "goldens.npz",
        **{
            "input.image": rng.random((5, 8, 8, 1), dtype=np.float32),
            "output.probabilities": np.full((5, 3), 1 / 3, np.float32),
        },
    )
    np.savez(tmp_path / "train.npz", x=rng.integers(0, 17, (200, 8, 8)).astype(np.uint8), y=np.zeros(200))
    np.savez(tmp_path / "answers.npz", probabilities=rng.dirichlet([1, 1, 1], 200).astype(np.float32))
    (tmp_path / "contract.json").write_bytes(json.dumps(dataclass_free(CONTRACT)).encode())
    return tmp_path


def dataclass_free(contract):
    import msgspec

    return msgspec.to_builtins(contract)


def spec(folder: Path, **changes) -> BuildSpec:
    base = BuildSpec(
        "vision",
        "digits",
        "1.0.0",
        3,
        "prod",
        NOW,
        CONTRACT,
        [
            VariantSource("o", "onnxruntime", folder / "m.onnx"),
            VariantSource("t", "tflite", folder / "m.tflite", ("a",)),
        ],
        folder / "goldens.npz",
        rows=read_rows(folder / "train.npz", CONTRACT, folder / "answers.npz"),
    )
    return dataclasses.replace(base, **changes)


def refused(code, action, *arguments):
    with pytest.raises(BundleRefused) as caught:
        action(*arguments)
    assert caught.value.code == code
    assert caught.value.remedy


def test_bundle_holds_what_was_given(folder):
    built = build(spec(folder), folder / "b.wgb")
    manifest = built.archive.manifest
    assert [(v.id, v.file, v.hardware) for v in manifest.variants] == [
        ("o", "model/m.onnx", []),
        ("t", "model/m.tflite", ["a"]),
    ]
    assert {f.role for f in manifest.files} == {"model", "contract", "goldens", "baseline"}
    assert manifest.labels == ["a", "b", "c"]
    assert built.archive.read(manifest.file_at("model/m.onnx")) == b"onnx"
    verify_content(built.archive)


def test_baseline_describes_inputs_and_outputs(folder):
    archive = build(spec(folder), folder / "b.wgb").archive
    baseline = parse_baseline(archive.read(archive.manifest.file_at("baseline.json")))
    sources = {column.name: column.source for column in baseline.columns}
    assert sources["sharpness"] == "input"
    assert sources["predicted_class"] == sources["confidence"] == sources["margin"] == "output"
    assert (baseline.model, baseline.rows) == ("vision/digits", 200)
    classes = next(column for column in baseline.columns if column.name == "predicted_class")
    assert classes.categories == CONTRACT.labels


def test_same_inputs_give_same_bytes(folder):
    first, second = (build(spec(folder), folder / name).archive.path.read_bytes() for name in ("a.wgb", "b.wgb"))
    assert first == second


def test_without_answers_outputs_are_not_watched_and_it_is_said(folder):
    built = build(spec(folder, rows=read_rows(folder / "train.npz", CONTRACT)), folder / "b.wgb")
    baseline = parse_baseline(built.archive.read(built.archive.manifest.file_at("baseline.json")))
    assert {column.source for column in baseline.columns} == {"input"}
    assert any("answers" in note for note in built.notes)


def test_without_rows_there_is_no_baseline_and_it_is_said(folder):
    built = build(spec(folder, rows=None), folder / "b.wgb")
    assert built.archive.manifest.file_with_role("baseline") is None
    assert any("drift" in note for note in built.notes)


def test_missing_model_file_is_refused(folder):
    (folder / "m.tflite").unlink()
    refused("BUNDLE_FILE_MISSING", build, spec(folder), folder / "b.wgb")
    assert not (folder / "b.wgb").exists()


def test_two_model_files_of_one_name_are_refused(folder):
    (folder / "other").mkdir()
    shutil.copy(folder / "m.onnx", folder / "other" / "m.onnx")
    twice = [VariantSource("a", "r", folder / "m.onnx"), VariantSource("b", "r", folder / "other" / "m.onnx")]
    refused("BUNDLE_PATH", build, spec(folder, variants=twice), folder / "b.wgb")


@pytest.mark.parametrize("name", ["input.image", "output.probabilities"])
def test_goldens_that_lack_a_tensor_are_refused(folder, name):
    arrays = dict(np.load(folder / "goldens.npz"))
    del arrays[name]
    np.savez(folder / "goldens.npz", **arrays)
    refused("BUNDLE_GOLDENS", build, spec(folder), folder / "b.wgb")


def test_goldens_with_objects_inside_are_refused_unread(folder):
    np.savez(folder / "goldens.npz", **{"input.image": np.array([{"a": 1}], dtype=object)})
    refused("BUNDLE_GOLDENS", build, spec(folder), folder / "b.wgb")


def test_rows_take_the_contracts_shape_and_dtype(folder):
    rows = read_rows(folder / "train.npz", CONTRACT, folder / "answers.npz")
    assert rows.inputs["image"].shape == (200, 8, 8, 1)
    assert rows.inputs["image"].dtype == np.float32
    assert rows.outputs["probabilities"].shape == (200, 3)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros((10, 9, 9))},
        {"z": np.zeros((10, 8, 8))},
        {"x": np.zeros((10, 8, 8)), "output.probabilities": np.zeros((9, 3))},
    ],
)
def test_rows_that_do_not_fit_are_refused(folder, arrays):
    np.savez(folder / "bad.npz", **arrays)
    refused("BUNDLE_ROWS", read_rows, folder / "bad.npz", CONTRACT)


def test_tabular_rows_without_a_batch_dimension_in_the_contract(folder):
    contract = Contract(
        inputs=[TensorSpec("features", "float32", [2], kind="tabular", features=["speed", "load"])],
        outputs=[TensorSpec("wear", "float32", [1])],
        task="regression",
    )
    np.savez(folder / "t.npz", **{"input.features": np.ones((50, 2)), "output.wear": np.ones((50, 1))})
    rows = read_rows(folder / "t.npz", contract)
    assert (rows.inputs["features"].shape, rows.outputs["wear"].shape) == ((50, 2), (50, 1))


PROJECT = """
contract = "contract.json"
goldens = "goldens.npz"
[bundle]
team = "vision"
model = "digits"
version = "1.0.0"
release_counter = 3
created_ms = 1792000000000
[[variants]]
id = "o"
runtime = "onnxruntime"
file = "m.onnx"
[[variants]]
id = "t"
runtime = "tflite"
file = "m.tflite"
hardware = ["a"]
[training]
rows = "train.npz"
[lineage]
code_revision = "abc"
[[files]]
path = "card.md"
file = "card.md"
role = "model_card"
"""


def test_project_file_says_the_same(folder):
    (folder / "bundle.toml").write_text(PROJECT)
    (folder / "card.md").write_text("# Digits")
    project = read_project(folder / "bundle.toml")
    contract = read_contract(project, folder)
    rows = TrainingRows(read_rows(folder / "train.npz", contract).inputs)
    built = build(to_spec(project, folder, contract, rows, now_ms=1), folder / "b.wgb")
    manifest = built.archive.manifest
    assert (manifest.created_ms, manifest.lineage.code_revision, manifest.channel) == (NOW, "abc", "prod")
    assert manifest.file_at("card.md").role == "model_card"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("team =", "tema ="),
        ('"vision"', "7"),
        ("[bundle]", "[bundle"),
        ('version = "1.0.0"\n', ""),
        ("goldens =", "x ="),
    ],
)
def test_project_with_a_typing_error_is_refused(folder, before, after):
    (folder / "bundle.toml").write_text(PROJECT.replace(before, after, 1))
    refused("BUNDLE_PROJECT", read_project, folder / "bundle.toml")
