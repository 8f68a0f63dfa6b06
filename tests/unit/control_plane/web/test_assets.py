"""Static files, and that what others wrote is here unchanged, with its licence."""

from __future__ import annotations

import pytest

from bundles.digest import sha256_hex
from control_plane.web.assets import STATIC, Assets

VENDOR = STATIC / "vendor"


def test_what_others_wrote_is_what_they_published():
    lines = [line for line in (VENDOR / "CHECKSUMS").read_text().splitlines() if not line.startswith("#")]
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    present = {path.name for path in VENDOR.iterdir()} - {"CHECKSUMS"}
    assert set(listed) == present, "every vendored file is listed, and nothing else"
    for name, digest in listed.items():
        assert sha256_hex((VENDOR / name).read_bytes()) == digest, name


def test_every_vendored_library_comes_with_its_licence():
    assert "Permission to use, copy, modify" in (VENDOR / "htmx.LICENSE").read_text()


def test_the_pages_weigh_little():
    """07-interfaces: 100 KB raw for everything a page loads."""
    assert sum(path.stat().st_size for path in STATIC.rglob("*") if path.suffix in (".js", ".css", ".svg")) < 100_000


def test_an_address_changes_with_the_content(tmp_path):
    (tmp_path / "a.css").write_text("a{}")
    old = Assets(tmp_path)
    (tmp_path / "a.css").write_text("b{}")
    new = Assets(tmp_path)
    assert old.url("a.css") != new.url("a.css")
    _, _, digest, name = old.url("a.css").split("/")
    asset = old.find(digest, name)
    assert asset is not None
    assert asset.content == b"a{}"
    assert new.find(digest, name) is None, "a stale address is no file"
    with pytest.raises(KeyError):
        new.url("b.css")
