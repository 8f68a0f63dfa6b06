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


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"v": 9, "slot": 1, "sha256": "x"}', b'{"slot": "one"}', b'{"v": 1, "slot": 1, "sha256": "\xb4"}'],
)
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


def test_what_is_missing_is_said_in_bytes(store, monkeypatch):
    monkeypatch.setattr(LocalFileSystem, "free_bytes", lambda self: 2000)
    with pytest.raises(TryAgain) as caught:
        store.check_space(1500)
    assert caught.value.details["missing_bytes"] == 1500 + 1024 - 2000
    assert "524 bytes are missing" in caught.value.sentence


def test_a_part_stops_where_the_reserve_begins(store, monkeypatch):
    part = store.blob(sha256_hex(b"x" * 100), 100)
    part.append(b"x" * 40)
    monkeypatch.setattr(LocalFileSystem, "free_bytes", lambda self: 1024 + 30)
    with pytest.raises(TryAgain) as caught:
        part.append(b"x" * 60)
    assert caught.value.code == "DISK_FULL"
    assert part.size() == 40, "what arrived before stays"
    store.save_journal(MODEL, b"journals are what the reserve is for")


def test_a_disk_without_hard_links_needs_room_for_copies_too(store, monkeypatch):
    def no_links(self, target):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", no_links)
    files = [BundleFile("m.onnx", sha256_hex(b"m"), 600, "model")]
    monkeypatch.setattr(LocalFileSystem, "free_bytes", lambda self: 1024 + 1199)
    with pytest.raises(TryAgain):
        store.coming(files).__enter__()
    monkeypatch.setattr(LocalFileSystem, "free_bytes", lambda self: 1024 + 1200)
    with store.coming(files):
        pass


def test_what_is_on_its_way_is_not_collected_even_where_nobody_names_it(store):
    slot, files = install(store, 1)
    store.discard(slot.sha256)
    with store.coming(files):
        store.collect_garbage(())
        assert all(store.has_blob(f.sha256, f.length) for f in files)
    store.collect_garbage(())
    assert not any(store.has_blob(f.sha256, f.length) for f in files)


def test_a_damaged_copy_is_not_adopted(store, tmp_path):
    slot, files = install(store, 1)
    (tmp_path / "blobs/sha256" / files[0].sha256).unlink()
    assert store.adopt(files[0].sha256, files[0].length)
    (tmp_path / "blobs/sha256" / files[0].sha256).unlink()
    Path(store.path(slot, files[0].path)).write_bytes(b"x" * files[0].length)
    assert not store.adopt(files[0].sha256, files[0].length)


def test_a_slot_that_lacks_a_file_it_needs_is_damaged(store):
    slot, files = install(store, 1)
    Path(store.path(slot, "nested/m.onnx")).unlink()
    store.check_slot(slot.sha256)  # another variant's file, for all it knows
    with pytest.raises(TryAgain) as caught:
        store.check_slot(slot.sha256, files)
    assert caught.value.code == "STORE_MISSING"


def test_a_slot_whose_manifest_was_damaged_is_in_nobodys_way_and_is_collected(store, tmp_path):
    install(store, 1)
    (tmp_path / "slots/1/bundle.json").write_bytes(b"{")
    slot, _ = install(store, 2)
    assert slot.number == 2
    store.open()
    store.collect_garbage({slot.sha256})
    assert [p.name for p in (tmp_path / "slots").iterdir()] == ["2"]


@pytest.mark.parametrize("damaged", ["slot", "blob", "blob gone"])
def test_one_bad_manifest_does_not_cost_the_bundle_its_other_files(store, tmp_path, damaged):
    slot, files = install(store, 1)
    store.activate(MODEL, slot.sha256)
    length = store.active_release(MODEL).length
    blob = tmp_path / "blobs/sha256" / slot.sha256
    assert not blob.samefile(store.path(slot, "bundle.json"))
    match damaged:
        case "slot":
            Path(store.path(slot, "bundle.json")).write_bytes(b"{")
            assert store.slot(slot.sha256) is None
        case "blob":
            blob.write_bytes(b"x" * length)
        case "blob gone":
            blob.unlink()
    store.collect_garbage({slot.sha256})
    assert all(store.has_blob(entry.sha256, entry.length) for entry in files)
    if damaged == "blob":
        with pytest.raises(TryAgain):
            store.verify(slot.sha256, files)
    assert store.adopt(slot.sha256, length), "the other copy of the manifest is on this disk"
    store.verify(slot.sha256, files)
    assert store.stage(slot.sha256, files).sha256 == slot.sha256
    store.check_slot(slot.sha256, files)


def test_without_hard_links_a_slot_is_not_begun_that_would_eat_into_the_reserve(store, tmp_path, monkeypatch):
    def no_links(self, target):
        raise OSError(errno.EPERM, "no hard links here")

    slot, files = install(store, 1)
    store.discard(slot.sha256)
    monkeypatch.setattr("pathlib.Path.hardlink_to", no_links)
    store._fs._has_hard_links = None
    total = sum(entry.length for entry in files)
    monkeypatch.setattr(LocalFileSystem, "free_bytes", lambda self: 1024 + total - 1)
    with pytest.raises(TryAgain) as caught:
        store.stage(slot.sha256, files)
    assert (caught.value.code, caught.value.details) == ("DISK_FULL", {"missing_bytes": 1})
    assert list((tmp_path / "slots").iterdir()) == []
    monkeypatch.setattr(LocalFileSystem, "free_bytes", lambda self: 1024 + total)
    store.stage(slot.sha256, files)
    assert store.only_in(slot.sha256, ()) == 2 * total, "without it, the blobs and the copies are gone"


def test_a_disk_that_does_not_answer_is_one_family_too(store, monkeypatch):
    def fail(self, **_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.stat", fail)
        for ask in (store._fs.size, store._fs.is_dir, store._fs.list):
            with pytest.raises(TryAgain) as caught:
                ask("slots")
            assert caught.value.code == "STORE_IO"


def place(store, n, content=None):
    data = {"nested/m.onnx": f"model {n}".encode() * 9, "contract.json": b"{}"}
    files = [
        BundleFile(path, sha256_hex(d), len(d), "model" if "onnx" in path else "contract") for path, d in data.items()
    ]
    manifest = Manifest(
        "vision", "digits", f"{n}.0.0", n, "prod", 0, files, [Variant("any", "onnxruntime", "nested/m.onnx")]
    )
    pieces = lambda entry: [content if content is not None else data[entry.path]]  # noqa: E731
    return store.place_factory(encode_manifest(manifest), files, pieces), files


def test_a_factory_bundle_shares_no_content_with_blobs_and_slots(store, tmp_path):
    slot, files = install(store, 1)
    placed, _ = place(store, 1)
    assert placed.sha256 == slot.sha256
    assert store.slot(slot.sha256).number == 1, "the numbered slot comes first"
    for entry in files:
        copy = tmp_path / "factory" / placed.sha256 / entry.path
        assert copy.stat().st_nlink == 1
    store.discard(slot.sha256)
    store.check_slot(placed.sha256, files)


def test_a_factory_bundle_of_wrong_content_takes_no_place(store, tmp_path):
    first, files = place(store, 1)
    with pytest.raises(TryAgain) as caught:
        place(store, 2, content=b"something else")
    assert caught.value.code == "STORE_CORRUPT"
    assert store.factory(MODEL).sha256 == first.sha256
    store.check_slot(first.sha256, files)
    store.open()
    assert [p.name for p in (tmp_path / "factory").iterdir()] == [first.sha256]


def test_models_are_found_by_journal_pointer_or_factory_bundle(store):
    store.save_journal("a/one", b"x")
    slot, _ = install(store, 1)
    store.activate("b/two", slot.sha256)
    place(store, 2)
    assert store.models() == ["a/one", "b/two", MODEL]
