from __future__ import annotations

import io
import stat
import struct
import zipfile

import pytest

from bundles.archive import Limits, add_metadata, open_archive, pack
from bundles.digest import sha256_hex
from bundles.errors import BundleRefused
from bundles.manifest import BundleFile, Manifest, Variant, encode_manifest

FILES = {"model/m.onnx": b"weights" * 1000, "contract.json": b"{}"}


def manifest(files=None, **changes):
    files = FILES if files is None else files
    listed = [
        BundleFile(path, sha256_hex(data), len(data), "model" if path.startswith("model/") else "other")
        for path, data in files.items()
    ]
    fields = {
        "team": "vision",
        "model": "digits",
        "version": "1.0.0",
        "release_counter": 1,
        "channel": "prod",
        "created_ms": 1_792_000_000_000,
        "files": listed,
        "variants": [Variant("a", "onnxruntime", "model/m.onnx")],
    }
    return encode_manifest(Manifest(**{**fields, **changes}))


@pytest.fixture
def packed(tmp_path):
    return pack(tmp_path / "b.wgb", manifest(), FILES)


def write_zip(path, entries, *, compression=zipfile.ZIP_STORED):
    """Write a zip by hand; ``entries``: (name or ZipInfo, bytes)."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def refused(code, path, limits=None):
    with pytest.raises(BundleRefused) as caught:
        open_archive(path, limits).verify()
    assert caught.value.code == code
    assert caught.value.remedy


def honest(manifest_bytes=None, files=None):
    return [("bundle.json", manifest_bytes or manifest()), *(FILES if files is None else files).items()]


def test_same_content_gives_same_bytes(tmp_path, packed):
    (tmp_path / "weights").write_bytes(FILES["model/m.onnx"])
    again = pack(tmp_path / "c.wgb", manifest(), {**FILES, "model/m.onnx": tmp_path / "weights"})
    assert again.path.read_bytes() == packed.path.read_bytes()


def test_unpacked_files_are_the_packed_ones(tmp_path, packed):
    open_archive(packed.path).unpack(tmp_path / "out")
    found = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.*")}
    assert found == {**FILES, "bundle.json": manifest()}


def test_metadata_travels_along_and_is_replaced(tmp_path, packed):
    first = add_metadata(packed, tmp_path / "signed.wgb", {"2.team-vision.json": b"{1}"})
    assert first.metadata == {"2.team-vision.json": b"{1}"}
    second = add_metadata(first, first.path, {"3.team-vision.json": b"{2}"})
    assert open_archive(second.path).metadata == {"3.team-vision.json": b"{2}"}
    assert second.sha256 == packed.sha256
    second.verify()


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/passwd", "model/../../evil", "C:\\evil", "a//b", "model/./x", ".hidden", "a/" * 9 + "b", "x\ny"],
)
def test_escaping_path_is_refused(tmp_path, name):
    refused("BUNDLE_PATH", write_zip(tmp_path / "x.wgb", [*honest(), (name, b"x")]))


def test_symlink_is_refused(tmp_path):
    link = zipfile.ZipInfo("contract.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    entries = [("bundle.json", manifest()), ("model/m.onnx", FILES["model/m.onnx"]), (link, b"/etc/passwd")]
    refused("BUNDLE_PATH", write_zip(tmp_path / "x.wgb", entries))


def test_folder_entry_is_refused(tmp_path):
    refused("BUNDLE_PATH", write_zip(tmp_path / "x.wgb", [*honest(), ("model/", b"")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["contract.json", "CONTRACT.json", "Bundle.json"])
def test_path_that_appears_twice_is_refused(tmp_path, name):
    refused("BUNDLE_PATH", write_zip(tmp_path / "x.wgb", [*honest(), (name, b"x")]))


def test_file_outside_the_manifest_is_refused(tmp_path):
    refused("BUNDLE_FILE_UNLISTED", write_zip(tmp_path / "x.wgb", [*honest(), ("extra.bin", b"x")]))


def test_missing_file_is_refused(tmp_path):
    entries = [entry for entry in honest() if entry[0] != "contract.json"]
    refused("BUNDLE_FILE_MISSING", write_zip(tmp_path / "x.wgb", entries))


def test_archive_without_manifest_is_refused(tmp_path):
    refused("BUNDLE_FILE_MISSING", write_zip(tmp_path / "x.wgb", list(FILES.items())))


def test_wrong_digest_is_refused_wherever_bytes_are_used(tmp_path):
    flipped = FILES["model/m.onnx"][:-1] + b"!"
    path = write_zip(tmp_path / "x.wgb", honest(files={**FILES, "model/m.onnx": flipped}))
    refused("BUNDLE_DIGEST", path)
    archive = open_archive(path)
    for use in (lambda: archive.read(archive.manifest.files[0]), lambda: archive.unpack(tmp_path / "out")):
        with pytest.raises(BundleRefused) as caught:
            use()
        assert caught.value.code == "BUNDLE_DIGEST"


def test_wrong_length_is_refused_before_reading(tmp_path):
    path = write_zip(tmp_path / "x.wgb", honest(files={**FILES, "contract.json": b"{ }"}))
    with pytest.raises(BundleRefused) as caught:
        open_archive(path)
    assert caught.value.code == "BUNDLE_DIGEST"


def test_zip_bomb_is_refused(tmp_path):
    entries = honest(files={**FILES, "model/m.onnx": bytes(10_000_000)})
    path = write_zip(tmp_path / "x.wgb", entries, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    refused("BUNDLE_TOO_LARGE", path)


def test_compressed_entry_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.wgb", honest(), compression=zipfile.ZIP_DEFLATED)
    padded = path.read_bytes() + bytes(0)
    path.write_bytes(bytes(100_000) + padded)  # junk before a zip is legal, and hides the claim's size
    refused("BUNDLE_ARCHIVE", path)


def test_entries_sharing_one_place_are_refused(tmp_path):
    """The overlapping kind of bomb: two directory entries that point at the same stored bytes."""
    path = write_zip(tmp_path / "x.wgb", honest())
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    directory, end = data[start : data.index(b"PK\x05\x06")], data[data.index(b"PK\x05\x06") :]
    count = struct.unpack("<H", end[10:12])[0] * 2
    end = end[:8] + struct.pack("<HHII", count, count, len(directory) * 2, start) + end[20:]
    path.write_bytes(data[:start] + directory * 2 + end)
    refused("BUNDLE_TOO_LARGE", path)


def test_too_many_or_too_large_files_are_refused(tmp_path, packed):
    refused("BUNDLE_TOO_LARGE", packed.path, Limits(files=2))
    refused("BUNDLE_TOO_LARGE", packed.path, Limits(bytes=1000))
    crowd = [(f"f{n}", b"") for n in range(Limits().files + 1)]
    refused("BUNDLE_TOO_LARGE", write_zip(tmp_path / "x.wgb", crowd))


@pytest.mark.parametrize(
    "name", ["metadata/timestamp.json", "metadata/a/1.x.json", "Metadata/1.x.json", "metadata/1.x"]
)
def test_only_versioned_metadata_is_carried(tmp_path, name):
    refused("BUNDLE_PATH", write_zip(tmp_path / "x.wgb", [*honest(), (name, b"{}")]))


def test_manifest_may_not_name_files_among_the_metadata(tmp_path):
    files = {**FILES, "metadata/1.team-vision.json": b"{}"}
    refused("BUNDLE_PATH", write_zip(tmp_path / "x.wgb", honest(manifest(files), files)))


@pytest.mark.parametrize("cut", [0, 10, 500, -30, -1])
def test_cut_archive_is_refused(tmp_path, packed, cut):
    path = tmp_path / "cut.wgb"
    path.write_bytes(packed.path.read_bytes()[:cut])
    refused("BUNDLE_ARCHIVE", path)


@pytest.mark.parametrize("change", [0x01, 0x41, 0xFF])
def test_every_changed_byte_is_noticed_or_harmless(tmp_path, change):
    """No changed byte gives other files, another manifest, or an error outside the family."""
    small = {"model/m.onnx": b"weights", "contract.json": b"{}"}
    good = pack(tmp_path / "small.wgb", manifest(small), small).path.read_bytes()
    path = tmp_path / "changed.wgb"
    noticed = 0
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ change]) + good[place + 1 :])
        try:
            archive = open_archive(path)
            archive.verify()
        except BundleRefused:
            noticed += 1
            continue
        assert {entry.path: archive.read(entry) for entry in archive.manifest.files} == small
    assert noticed > len(good) / 2


def test_packing_what_the_manifest_does_not_say_is_refused_and_leaves_nothing(tmp_path):
    for files in ({"contract.json": b"{}"}, {**FILES, "contract.json": b"{ }"}, {**FILES, "more": b""}):
        with pytest.raises(BundleRefused):
            pack(tmp_path / "b.wgb", manifest(), files)
    assert list(tmp_path.iterdir()) == []


def test_archive_is_a_plain_stored_zip(packed):
    with zipfile.ZipFile(io.BytesIO(packed.path.read_bytes())) as archive:
        assert archive.namelist()[0] == "bundle.json"
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
