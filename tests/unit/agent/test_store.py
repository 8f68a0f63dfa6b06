"""The store on a real disk: what is where, what is refused, what is kept."""

import errno
import os
from pathlib import Path

import pytest

from agent.store import LocalFileSystem, Store
from bundles.digest import sha256_hex
from bundles.errors import TryAgain
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest

MODEL = "vision/digits"


@pytest.fixture
def store(tmp_path):
    store = Store(LocalFileSystem(tmp_path), reserve_bytes=1024)
    store.open()
    return store


def put(store, data):
    part = store.blob(sha256_hex(data), len(data))
    part.append(data)
    part.commit()
    return sha256_hex(data)


def install(store, n, model="digits"):
    contents = {"nested/m.onnx": f"model {n}".encode() * 9, "contract.json": b"{}"}
    files = [
        BundleFile(path, put(store, data), len(data), "model" if "onnx" in path else "contract")
        for path, data in contents.items()
    ]
    manifest = Manifest(
        "vision", model, f"{n}.0.0", n, "prod", 0, files, [Variant("any", "onnxruntime", "nested/m.onnx")]
    )
    sha256 = put(store, encode_manifest(manifest))
    store.verify(sha256, files)
    return store.stage(sha256, files), files


def test_a_blob_appears_only_when_it_is_whole(store, tmp_path):
    data = b"0123456789"
    part = store.blob(sha256_hex(data), 10)
    part.append(data[:4])
    assert not part.is_complete()
    assert (part.size(), store.held_bytes(part.sha256)) == (4, 4)
    again = store.blob(sha256_hex(data), 10)
    assert b"".join(again.chunks()) == data[:4]
    again.append(data[4:])
    again.commit()
    assert again.is_complete()
    assert (tmp_path / "blobs/sha256" / part.sha256).read_bytes() == data
    assert list((tmp_path / "blobs/part").iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "", "a" * 63 + "/"])
def test_only_a_digest_becomes_a_path(store, name):
    with pytest.raises(ValueError, match="no sha256"):
        store.blob(name, 1)


@pytest.mark.parametrize("model", ["digits", "a/b/c", "../x", "a/..", "a/+b", "/b"])
def test_only_a_team_and_a_model_become_a_file_name(store, model):
    with pytest.raises(ValueError, match="no team/model"):
        store.save_journal(model, b"x")


def test_a_slot_holds_the_bundle_and_shares_its_blobs(store, tmp_path):
    slot, _ = install(store, 1)
    path = store.path(slot, "nested/m.onnx")
    blob = tmp_path / "blobs/sha256" / store.manifest(slot.sha256).files[0].sha256
    assert blob.samefile(path)
    assert store.slot(slot.sha256) == slot
    store.check_slot(slot.sha256)


def test_staging_twice_takes_the_slot_that_is_there(store, tmp_path):
    slot, files = install(store, 1)
    assert store.stage(slot.sha256, files) == slot
    assert [p.name for p in (tmp_path / "slots").iterdir()] == ["1"]


def test_a_disk_without_hard_links_gets_copies(store, tmp_path, monkeypatch):
    def no_links(self, target):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", no_links)
    slot, _ = install(store, 1)
    assert Path(store.path(slot, "nested/m.onnx")).stat().st_nlink == 1
    store.check_slot(slot.sha256)


def test_the_pointer_names_the_active_slot_by_digest(store):
    first, _ = install(store, 1)
    second, _ = install(store, 2)
    assert store.active(MODEL) is None
    store.activate(MODEL, first.sha256)
    store.activate(MODEL, second.sha256)
    assert store.active(MODEL) == second.sha256
    release = store.active_release(MODEL)
    assert (release.version, release.counter, release.target) == ("2.0.0", 2, "vision/digits/2.0.0/bundle.json")
    store.deactivate(MODEL)
    assert (store.active(MODEL), store.active_release(MODEL)) == (None, None)


def test_a_bundle_that_is_not_here_is_not_activated(store):
    slot, _ = install(store, 1)
    store.activate(MODEL, slot.sha256)
    with pytest.raises(TryAgain) as caught:
        store.activate(MODEL, "f" * 64)
    assert caught.value.code == "STORE_MISSING"
    assert store.active(MODEL) == slot.sha256


@pytest.mark.parametrize("content", [b"", b"{", b'{"v": 9, "slot": 1, "sha256": "x"}', b'{"slot": "one"}'])
def test_a_pointer_that_cannot_be_read_names_nothing(store, tmp_path, content):
    slot, _ = install(store, 1)
    store.activate(MODEL, slot.sha256)
    (tmp_path / "current.vision+digits").write_bytes(content)
    assert store.active(MODEL) is None


def test_damage_is_found_and_only_the_damaged_blob_goes(store, tmp_path):
    slot, files = install(store, 1)
    blob = tmp_path / "blobs/sha256" / files[0].sha256
    blob.write_bytes(b"x" * files[0].length)
    with pytest.raises(TryAgain) as caught:
        store.check_slot(slot.sha256)
    assert caught.value.code == "STORE_CORRUPT"
    with pytest.raises(TryAgain):
        store.verify(slot.sha256, files)
    assert not blob.exists()
    assert store.has_blob(files[1].sha256, files[1].length)
    with pytest.raises(TryAgain) as caught:
        store.verify(slot.sha256, files)
    assert caught.value.code == "STORE_MISSING"


def test_discarding_keeps_sound_blobs(store, tmp_path):
    slot, files = install(store, 1)
    (tmp_path / "blobs/sha256" / files[0].sha256).write_bytes(b"bad")
    store.discard(slot.sha256)
    assert store.slot(slot.sha256) is None
    assert [store.has_blob(f.sha256, f.length) for f in files] == [False, True]


def test_garbage_collection_never_takes_what_is_kept_or_pointed_at(store, tmp_path):
    slots = [install(store, n)[0] for n in (1, 2, 3)]
    other, _ = install(store, 7, model="letters")
    store.activate(MODEL, slots[2].sha256)
    store.activate("vision/letters", other.sha256)
    stray = store.blob("e" * 64, 9)
    stray.append(b"left over")
    store.collect_garbage({slots[1].sha256})
    assert [bool(store.slot(s.sha256)) for s in (*slots, other)] == [False, True, True, True]
    for slot in (slots[1], slots[2], other):
        manifest = store.manifest(slot.sha256)
        store.verify(slot.sha256, manifest.files)
    assert stray.size() == 0
    assert len(list((tmp_path / "blobs/sha256").iterdir())) == 3 + 3 + 1  # manifests, models, the shared contract


def test_what_is_on_its_way_in_is_kept_by_its_bundle(store):
    slot, files = install(store, 1)
    store.discard(slot.sha256)
    part = store.blob("d" * 64, 9)
    part.append(b"half")
    store.collect_garbage({slot.sha256, "d" * 64})
    assert part.size() == 4
    assert all(store.has_blob(f.sha256, f.length) for f in files)


def test_a_start_clears_what_a_crash_left_half_made(store, tmp_path):
    slot, _ = install(store, 1)
    (tmp_path / "slots/2.part/nested").mkdir(parents=True)
    (tmp_path / "slots/2.part/nested/m.onnx").write_bytes(b"half")
    (tmp_path / "slots/3").mkdir()
    (tmp_path / "current.vision+digits.tmp").write_bytes(b"{")
    (tmp_path / "journal/vision+digits.tmp").write_bytes(b"{")
    (tmp_path / "config.toml").write_text("not ours")
    store.open()
    assert [p.name for p in (tmp_path / "slots").iterdir()] == ["1"]
    assert not list(tmp_path.rglob("*.tmp"))
    assert (tmp_path / "config.toml").exists()
    assert store.slot(slot.sha256) == slot


def test_journals_are_by_model(store):
    store.save_journal(MODEL, b"one")
    store.save_journal("vision/letters", b"two")
    store.save_journal(MODEL, b"three")
    assert store.models() == ["vision/digits", "vision/letters"]
    assert (store.load_journal(MODEL), store.load_journal("a/b")) == (b"three", None)


def test_the_reserve_stays_free(store, monkeypatch):
    monkeypatch.setattr(LocalFileSystem, "free_bytes", lambda self: 2000)
    store.check_space(976)
    store.check_space(0)
    with pytest.raises(TryAgain) as caught:
        store.check_space(977)
    assert caught.value.code == "DISK_FULL"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "DISK_FULL"), (errno.EDQUOT, "DISK_FULL"), (errno.EIO, "STORE_IO")]
)
def test_a_failing_disk_leaves_the_old_journal(store, monkeypatch, number, code):
    store.save_journal(MODEL, b"old")

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(TryAgain) as caught:
            store.save_journal(MODEL, b"new")
    assert caught.value.code == code
    assert store.load_journal(MODEL) == b"old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the kernel's full device")
def test_a_disk_without_room_is_a_clear_error(store, tmp_path):
    (tmp_path / "journal/vision+digits.tmp").symlink_to("/dev/full")
    with pytest.raises(TryAgain) as caught:
        store.save_journal(MODEL, b"x" * 10_000)
    assert caught.value.code == "DISK_FULL"
