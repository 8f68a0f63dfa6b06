from __future__ import annotations

import io
from pathlib import Path

import pytest

from bundles.digest import sha256_hex
from bundles.errors import Refused
from control_plane.errors import NotFound
from control_plane.storage import READ_CHUNK_BYTES, Blobs


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs.at(tmp_path / "blobs")


def test_what_is_put_comes_back_whole_and_in_parts(blobs: Blobs) -> None:
    content = bytes(range(256)) * (READ_CHUNK_BYTES // 128)  # two chunks
    digest = sha256_hex(content)
    assert blobs.put(digest, io.BytesIO(content)) == len(content)
    assert blobs.put(digest, content) == len(content), "putting it again changes nothing"
    assert blobs.read_all(digest) == content
    assert b"".join(blobs.open(digest, 1_000, 5)) == content[1_000:1_005]
    assert blobs.length(digest) == len(content)


def test_content_of_another_digest_is_refused_and_not_stored(blobs: Blobs) -> None:
    digest = sha256_hex(b"what was promised")
    with pytest.raises(Refused) as caught:
        blobs.put(digest, b"something else")
    assert caught.value.code == "BLOB_DIGEST"
    assert not blobs.has(digest)


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", "", "A" * 64])
def test_a_blob_that_is_not_there_or_no_digest_is_not_found(blobs: Blobs, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        blobs.length(name)
    assert caught.value.code == "BLOB_NOT_FOUND"
