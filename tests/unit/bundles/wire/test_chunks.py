"""Asks for chunks and chunks, as bytes and back."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.errors import MessageRefused
from bundles.wire.chunks import (
    CHUNK_BYTES,
    MAX_ASK_BYTES,
    BlobAsk,
    ChunkHead,
    decode_ask,
    decode_chunk,
    encode_ask,
    encode_chunk,
)
from bundles.wire.codec import MAX_PAYLOAD_BYTES

SHA256 = "ab" * 32


@pytest.mark.parametrize(
    "ask",
    [BlobAsk("a1", SHA256, 5, 3), BlobAsk("0", name="metadata/timestamp.json"), BlobAsk("a", SHA256, base="cd" * 32)],
)
def test_an_ask_is_read_back_and_carries_its_version(ask):
    assert decode_ask(encode_ask(ask)) == ask
    assert msgspec.json.decode(encode_ask(ask))["v"] == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"id": "A"},
        {"id": "a/b"},
        {"id": "+"},
        {"id": "a" * 33},
        {"id": "a\n"},
        {"offset": -1},
        {"n": 0},
        {"n": 9},
        {"sha256": ""},
        {"name": "metadata/timestamp.json"},
        {"sha256": "", "name": "metadata/timestamp.json", "base": SHA256},
        {"v": 2},
        {"offset": "5"},
    ],
)
def test_an_ask_that_makes_no_sense_is_refused(fields):
    with pytest.raises(MessageRefused):
        decode_ask(msgspec.json.encode({"v": 1, "id": "a1", "sha256": SHA256, "offset": 0, "n": 8} | fields))


def test_an_ask_may_hold_fields_of_a_later_release_and_no_more_than_it_needs():
    assert decode_ask(b'{"id":"a","sha256":"b","later":[1,2]}') == BlobAsk("a", "b")
    with pytest.raises(MessageRefused) as caught:
        decode_ask(b" " * MAX_ASK_BYTES + b"{}")
    assert caught.value.code == "MESSAGE_TOO_LARGE"


@given(st.binary(max_size=200), st.integers(0, 1 << 40))
def test_a_chunk_is_read_back(data, offset):
    head = ChunkHead(offset, offset + len(data), SHA256)
    found, content = decode_chunk(encode_chunk(head, data))
    assert (found, bytes(content)) == (head, data)


def test_a_refusal_is_read_back():
    head = ChunkHead(5, 0, name="metadata/9.root.json", code="METADATA_NOT_FOUND", retry_ms=5)
    assert decode_chunk(encode_chunk(head)) == (head, memoryview(b""))


def test_a_full_chunk_fits_a_message():
    whole = encode_chunk(ChunkHead(1 << 50, 1 << 51, SHA256), bytes(CHUNK_BYTES))
    assert len(whole) < MAX_PAYLOAD_BYTES
    with pytest.raises(MessageRefused):
        decode_chunk(whole + b"x")


@given(st.binary(max_size=300))
def test_anything_else_is_refused_and_nothing_worse(data):
    for read in (decode_ask, decode_chunk):
        with contextlib.suppress(MessageRefused):
            read(data)
