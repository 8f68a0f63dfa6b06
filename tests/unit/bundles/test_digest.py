from __future__ import annotations

import hashlib
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.digest import CHUNK_BYTES, canonical_json, is_sha256, order_hash, sha256_file, sha256_hex, sha256_stream


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_bytes_stream_and_file_have_one_digest(tmp_path, size):
    data = bytes(size)
    (tmp_path / "f").write_bytes(data)
    wanted = (hashlib.sha256(data).hexdigest(), size)
    assert (sha256_hex(data), size) == sha256_stream(io.BytesIO(data)) == sha256_file(tmp_path / "f") == wanted


@pytest.mark.parametrize("text", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", " " + "a" * 63])
def test_one_spelling_of_a_digest(text):
    assert is_sha256("a" * 64)
    assert not is_sha256(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
)


@given(values)
def test_canonical_form_is_one_for_one_value(value):
    data = canonical_json(value)
    assert msgspec.json.decode(data) == value
    assert canonical_json(msgspec.json.decode(data)) == data


def test_canonical_form_does_not_depend_on_order():
    assert canonical_json({"b": 1, "a": {"d": 2, "c": 3}}) == b'{"a":{"c":3,"d":2},"b":1}'


def test_order_hash_is_what_the_design_says():
    assert order_hash("seed", "cam-1") == hashlib.sha256(b"seed\0cam-1").hexdigest()
