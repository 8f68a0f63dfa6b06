"""A promoted bundle has the same files under a manifest that differs in what it must, and in nothing else."""

from __future__ import annotations

import json

import pytest

from bundles.archive import open_archive, pack
from bundles.digest import canonical_json, sha256_hex
from bundles.errors import BundleRefused
from bundles.promote import promote, promoted_version

NOW_MS = 1_800_000_000_000


@pytest.fixture
def tried(tmp_path):
    files = {"m.tflite": b"weights", "contract.json": b"{}", "card.md": b"words"}
    roles = {"m.tflite": "model", "contract.json": "contract", "card.md": "model_card"}
    fields = {
        "format_version": 1, "kind": "model", "team": "vision", "model": "digits", "version": "1.4.0-canary",
        "release_counter": 4, "channel": "canary", "created_ms": 1, "licence": "MIT", "of_next_year": {"x": [1, 2]},
        "lineage": {"training_run": "run-7", "parents": ["b" * 64], "of_next_year": 1}, "approvals": [{"by": "ada"}],
        "files": [{"path": p, "sha256": sha256_hex(d), "length": len(d), "role": roles[p]} for p, d in files.items()],
        "variants": [{"id": "t", "runtime": "tflite", "file": "m.tflite"}],
    }  # fmt: skip
    pack(tmp_path / "tried.wgb", canonical_json(fields), files, {"3.team-vision.json": b"{}"})
    return open_archive(tmp_path / "tried.wgb")


def test_same_files_under_a_new_manifest(tried, tmp_path):
    made = promote(tried, tmp_path / "out.wgb", channel="prod", release_counter=9, now_ms=NOW_MS)
    opened = open_archive(tmp_path / "out.wgb")
    opened.verify()
    assert opened.manifest_bytes == made.manifest_bytes
    assert dict(opened.metadata) == {}  # what was signed was the other one
    before, after = json.loads(tried.manifest_bytes), json.loads(made.manifest_bytes)
    assert after.pop("lineage") == {**before.pop("lineage"), "parent_sha256": tried.sha256}
    assert before.pop("approvals")
    changed = {"version": "1.4.0", "channel": "prod", "release_counter": 9, "created_ms": NOW_MS}
    assert after == before | changed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.wgb", "tried.wgb"]


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"channel": "dev"}, "BUNDLE_CHANNEL"),
        ({"release_counter": 4}, "RELEASE_COUNTER"),
        ({"version": "1.4.0-canary"}, "BUNDLE_FIELD"),
        ({"version": "../1"}, "BUNDLE_FIELD"),
        ({"release_counter": 2**53}, "BUNDLE_FIELD"),
    ],
)
def test_what_is_no_promotion_is_refused(tried, tmp_path, wanted, code):
    given = {"channel": "prod", "release_counter": 9, "now_ms": NOW_MS, **wanted}
    with pytest.raises(BundleRefused) as caught:
        promote(tried, tmp_path / "out.wgb", **given)
    assert caught.value.code == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tried.wgb"]


def test_old_content_comes_back_as_a_new_release_of_its_channel(tried, tmp_path):
    made = promote(tried, tmp_path / "out.wgb", channel="canary", release_counter=5, now_ms=NOW_MS, version="1.4.0-b")
    assert (made.manifest.version, made.manifest.release_counter) == ("1.4.0-b", 5)


def test_damaged_file_is_not_promoted(tried, tmp_path):
    path = tmp_path / "tried.wgb"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"weights", b"weighty"))
    with pytest.raises(BundleRefused) as caught:
        promote(tried, tmp_path / "out.wgb", channel="prod", release_counter=9, now_ms=NOW_MS)
    assert caught.value.code in ("BUNDLE_DIGEST", "BUNDLE_ARCHIVE")
    assert not (tmp_path / "out.wgb").exists()


@pytest.mark.parametrize(
    ("version", "channel", "expected"),
    [("1.4.0-canary", "prod", "1.4.0"), ("1.4.0", "prod", "1.4.0-prod"), ("1.4.0-canary", "canary", "1.4.0-canary")],
)
def test_version_by_default(tried, version, channel, expected):
    import msgspec

    assert promoted_version(msgspec.structs.replace(tried.manifest, version=version), channel) == expected
