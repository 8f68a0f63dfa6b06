"""A support bundle comes from a device, and a device may be anybody's: reading one does no harm."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from bundles.errors import BundleRefused
from control_plane.cli import support_bundle
from control_plane.cli.support_bundle import printable, read_file


def packed(**files: bytes) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(raw.getvalue())


def link(name: str, to: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, to
        archive.addfile(entry)
    return gzip.compress(raw.getvalue())


def test_the_file_below_the_one_folder_is_read():
    bundle = packed(**{"d__journal__README.txt": b"no", "README.txt": b"no", "d__README.txt": b"yes"})
    assert read_file(bundle, "README.txt") == b"yes"


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        b"no gzip",
        gzip.compress(b"no tar" * 200),
        packed(**{"d__README.txt": b"x" * 3000})[:-30],
        packed(**{"d__other.txt": b"x"}),
        packed(**{"d__README.txt": b"x" * (support_bundle.MAX_FILE + 1)}),
        link("d/README.txt", "/etc/passwd"),
    ],
    ids=["empty", "no gzip", "no tar", "cut off", "without it", "too large", "a link"],
)
def test_what_is_no_support_bundle_is_refused(bundle):
    with pytest.raises(BundleRefused) as caught:
        read_file(bundle, "README.txt")
    assert caught.value.code == "DIAGNOSIS_INVALID"


def test_a_bomb_is_not_inflated(monkeypatch):
    monkeypatch.setattr(support_bundle, "MAX_INFLATED", 1 << 20)
    with pytest.raises(BundleRefused, match="inflated"):
        read_file(packed(**{"d__a": b"\0" * (8 << 20), "d__README.txt": b"x"}), "README.txt")


def test_a_terminal_is_not_steered():
    assert (
        printable(b"a\x1b[31mred\x07\n\xc2\x9b\xe2\x80\xaeb\xff\tc\n")
        == "a\ufffd[31mred\ufffd\n\ufffd\ufffdb\ufffd\tc\n"
    )
