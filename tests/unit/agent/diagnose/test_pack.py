"""A support bundle is never too large, and says what is not in it."""

import gzip
import io
import json
import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.diagnose.pack import MIN_CUT, pack

AT_S = 1_800_000_000


def index(files, cuts):
    return {"index.json": json.dumps({"files": sorted(files), "cuts": dict(cuts)}).encode()}


def unpacked(data):
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}


def noise(count, seed=1):
    return random.Random(seed).randbytes(count).hex().encode()


def test_what_fits_is_there_as_it_was():
    data = pack("d", {"a.txt": b"x\n", "b.json": b"{}"}, AT_S, 1 << 20, index)
    assert unpacked(data) == {
        "d/a.txt": b"x\n",
        "d/b.json": b"{}",
        "d/index.json": b'{"files": ["a.txt", "b.json"], "cuts": {}}',
    }
    assert data == pack("d", {"b.json": b"{}", "a.txt": b"x\n"}, AT_S, 1 << 20, index), "the same bytes each time"


def test_a_text_keeps_its_newest_lines_and_it_is_said():
    log = b"".join(b"%07d %s\n" % (n, noise(30, n)) for n in range(5000))
    files = unpacked(pack("d", {"agent.log": log, "b.json": b"{}"}, AT_S, 64 << 10, index))
    kept = files["d/agent.log"]
    assert log.endswith(kept), "to the newest"
    assert kept[:7].isdigit(), "whole lines"
    cut = len(log) - len(kept)
    assert json.loads(files["d/index.json"])["cuts"] == {
        "agent.log": f"the first {cut} of {len(log)} bytes did not fit"
    }
    assert files["d/b.json"] == b"{}"


def test_half_a_document_is_none():
    told = unpacked(pack("d", {"a.json": noise(200_000), "b.json": b"{}"}, AT_S, 64 << 10, index))
    assert "d/a.json" not in told
    assert json.loads(told["d/index.json"])["cuts"] == {"a.json": "left out: its 400000 bytes did not fit"}


def test_very_many_small_files_give_way_too():
    files = {f"journal/{n}.json": noise(MIN_CUT // 4, n) for n in range(100)}
    data = pack("d", files, AT_S, 64 << 10, index)
    assert len(data) <= 64 << 10
    told = json.loads(unpacked(data)["d/index.json"])
    assert 0 < len(told["files"]) < 100
    assert len(told["files"]) + len(told["cuts"]) == 100


def test_an_index_that_is_too_large_itself_is_told_and_does_not_loop():
    with pytest.raises(ValueError, match="index alone"):
        pack("d", {}, AT_S, 1000, lambda _files, _cuts: {"index.json": noise(5000)})


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a.log", "b.txt", "c.json", "d.json", "e.txt"]),
        st.builds(lambda n, seed: noise(n, seed), st.integers(0, 60_000), st.integers(0, 5)),
    )
)
def test_it_is_never_too_large(files):
    assert len(pack("d", files, AT_S, 32 << 10, index)) <= 32 << 10
