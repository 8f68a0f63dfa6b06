"""Where a model comes from: how a publisher writes it down, how it is shown, and what other tools read."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from bundles.contract import Contract, TensorSpec
from bundles.digest import sha256_hex
from bundles.errors import BundleRefused
from bundles.lineage import Lineage
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest, parse_manifest
from bundles.project import read_project, to_spec
from bundles.provenance import lineage_rows, statement

PARENT, OTHER = "1" * 64, "2" * 64
COMMIT = "a" * 40
HEAD = """
contract = "contract.json"
goldens = "goldens.npz"
[bundle]
team = "vision"
model = "digits"
version = "1.0.0"
release_counter = 3
[[variants]]
id = "o"
runtime = "onnxruntime"
file = "m.onnx"
"""
FULL = f"""
[lineage]
training_run = "digits-17"
training_run_uri = "https://runs.example/17"
code_revision = "{COMMIT}"
repository = "https://git.example/digits"
builder = "https://ci.example/train@v2"
parent_sha256 = "{PARENT}"
parents = ["{OTHER}", "{PARENT}"]
started = 2026-11-20T08:00:00Z
finished = 2026-11-20T11:30:00+02:00
parameters = {{ epochs = 30, rate = 0.1, mixed = true, optimiser = "adam" }}
[[lineage.materials]]
name = "MNIST, cleaned"
file = "train.npz"
[[lineage.materials]]
name = "labels of May"
uri = "s3://labels/2026-05"
"""
CONTRACT = Contract([TensorSpec("x", "float32", [1, 2])], [TensorSpec("y", "float32", [1, 2])])


def lineage(folder: Path, section: str) -> Lineage:
    (folder / "bundle.toml").write_text(HEAD + section)
    return to_spec(read_project(folder / "bundle.toml"), folder, CONTRACT, None, 1).lineage


def manifest(said: Lineage) -> Manifest:
    return Manifest(
        team="vision",
        model="digits",
        version="1.0.0",
        release_counter=3,
        channel="prod",
        created_ms=1,
        files=[BundleFile("model/m.onnx", "3" * 64, 5, "model"), BundleFile("contract.json", "4" * 64, 5, "contract")],
        variants=[Variant("o", "onnxruntime", "model/m.onnx")],
        lineage=said,
    )


@pytest.fixture
def full(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"rows")
    return lineage(tmp_path, FULL)


def test_everything_a_publisher_says_reaches_the_manifest(full):
    read = parse_manifest(encode_manifest(manifest(full))).lineage
    assert read == full
    assert [m.sha256 for m in read.materials] == [sha256_hex(b"rows"), ""]
    assert read.finished_ms - read.started_ms == 90 * 60 * 1000
    assert read.all_parents == [PARENT, OTHER]


def test_what_is_not_said_takes_no_byte_and_old_manifests_stay_readable():
    data = encode_manifest(manifest(Lineage()))
    assert msgspec.json.decode(data).get("lineage", {}) == {}
    old = msgspec.json.decode(data) | {"lineage": {"training_run": "r", "dataset_sha256": "whatever it was", "new": 1}}
    read = parse_manifest(json.dumps(old).encode())
    assert lineage_rows(read) == [("Training run", "r"), ("Dataset", "sha256 whatever it was")]
    assert lineage_rows(parse_manifest(data)) == []
    statement(json.dumps(old).encode())  # digests that are none are left out rather than passed on


def test_lineage_is_shown_in_words(full):
    rows = dict(lineage_rows(manifest(full)))
    assert len(rows) == len(lineage_rows(manifest(full))), "no label twice"
    assert rows["Training began"] == "2026-11-20T08:00:00Z"
    assert rows["Code"] == f"https://git.example/digits {COMMIT}"
    assert rows["Parameters"] == "epochs = 30, mixed = True, optimiser = adam, rate = 0.1"
    assert rows["Material 2"] == "labels of May s3://labels/2026-05"


@pytest.mark.parametrize(
    ("section", "code"),
    [
        ('[lineage]\ntrainingrun = "x"', "BUNDLE_PROJECT"),
        ('[lineage]\nparent_sha256 = "abc"', "BUNDLE_LINEAGE"),
        ('[lineage]\nparents = [""]', "BUNDLE_LINEAGE"),
        ("[lineage]\nstarted = 2026-11-20T08:00:00", "BUNDLE_LINEAGE"),
        ("[lineage]\nstarted = 2026-11-20T08:00:00Z\nfinished = 2026-11-19T08:00:00Z", "BUNDLE_LINEAGE"),
        ('[lineage]\nstarted = "yesterday"', "BUNDLE_PROJECT"),
        ("[lineage]\nparameters = { x = [1] }", "BUNDLE_PROJECT"),
        ('[[lineage.materials]]\nname = "a"', "BUNDLE_LINEAGE"),
        ('[[lineage.materials]]\nname = "a"\nfile = "gone.npz"', "BUNDLE_LINEAGE"),
        (f'[[lineage.materials]]\nname = "a"\nfile = "bundle.toml"\nsha256 = "{PARENT}"', "BUNDLE_LINEAGE"),
        (
            '[[lineage.materials]]\nname = "a"\nuri = "u"\n[[lineage.materials]]\nname = "a"\nuri = "v"',
            "BUNDLE_LINEAGE",
        ),
    ],
)
def test_a_lineage_that_makes_no_sense_is_refused_with_the_field(tmp_path, section, code):
    with pytest.raises(BundleRefused) as caught:
        lineage(tmp_path, section)
    assert caught.value.code == code
    assert caught.value.remedy


# --- the revision of a repository ---


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    if shutil.which("git") is None:
        pytest.fail("git is not installed: apt-get install git")
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("print(1)")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def test_the_revision_is_read_from_the_repository_of_the_project(repository):
    git(repository, "remote", "add", "origin", "https://ada:secret@git.example/digits.git")
    head = git(repository, "rev-parse", "HEAD")
    said = lineage(repository, '[lineage]\ncode_revision = "git"')
    assert (said.code_revision, said.repository) == (head, "https://git.example/digits.git")
    (repository / "train.py").write_text("print(2)")
    assert lineage(repository, '[lineage]\ncode_revision = "git"').code_revision == head + "-dirty"


def test_a_revision_that_cannot_be_read_fails_the_build_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(BundleRefused) as caught:
        lineage(tmp_path, '[lineage]\ncode_revision = "git"')
    assert caught.value.code == "BUNDLE_REVISION"
    assert "code_revision" in caught.value.remedy
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BundleRefused) as caught:
        lineage(tmp_path, '[lineage]\ncode_revision = "git"')
    assert caught.value.code == "BUNDLE_REVISION"


# --- in-toto ---

# Field names as published: in-toto/attestation spec/v1 (statement, resource_descriptor), slsa.dev/spec/v1.0/provenance.
STATEMENT = {"_type", "subject", "predicateType", "predicate"}
RESOURCE = {"name", "uri", "digest", "content", "downloadLocation", "mediaType", "annotations"}
BUILD_DEFINITION = {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
RUN_DETAILS = {"builder", "metadata", "byproducts"}
METADATA = {"invocationId", "startedOn", "finishedOn"}


def test_the_statement_has_the_published_fields(full):
    data = encode_manifest(manifest(full))
    said = json.loads(statement(data))
    assert set(said) == STATEMENT
    assert (said["_type"], said["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert said["subject"] == [
        {"name": "vision/digits/1.0.0/bundle.json", "digest": {"sha256": sha256_hex(data)}},
        {"name": "model/m.onnx", "digest": {"sha256": "3" * 64}},
    ]
    definition, run = said["predicate"]["buildDefinition"], said["predicate"]["runDetails"]
    assert set(said["predicate"]) == {"buildDefinition", "runDetails"}
    assert {"buildType", "externalParameters"} <= set(definition) <= BUILD_DEFINITION
    assert {"builder"} <= set(run) <= RUN_DETAILS
    assert set(run["metadata"]) == METADATA
    assert run == {
        "builder": {"id": "https://ci.example/train@v2"},
        "metadata": {
            "invocationId": "https://runs.example/17",
            "startedOn": "2026-11-20T08:00:00Z",
            "finishedOn": "2026-11-20T09:30:00Z",
        },
    }
    for resource in definition["resolvedDependencies"]:
        assert set(resource) <= RESOURCE
        assert {"uri", "digest"} & set(resource), "a ResourceDescriptor names a uri, a digest or content"
    assert definition["resolvedDependencies"][0] == {
        "name": "training code",
        "uri": f"git+https://git.example/digits@{COMMIT}",
        "digest": {"gitCommit": COMMIT},
    }
    assert statement(data) == statement(data)


def test_a_bundle_that_says_nothing_has_a_statement_too():
    said = json.loads(statement(encode_manifest(manifest(Lineage(code_revision="r12-dirty")))))["predicate"]
    assert said["runDetails"] == {"builder": {"id": "urn:wavegate:builder:unstated"}}
    assert said["buildDefinition"]["resolvedDependencies"] == [
        {"name": "training code", "uri": "urn:wavegate:revision:r12-dirty", "annotations": {"dirty": True}}
    ]
