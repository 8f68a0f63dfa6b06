from __future__ import annotations

import contextlib
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.errors import MessageRefused
from bundles.sketch.form import ColumnCounts, LatencyHistogram, Window
from bundles.wire import codec, topics
from bundles.wire import messages as m

WINDOW = Window(
    "vision/digits",
    "a" * 64,
    "1.0.0",
    "onnx",
    "b" * 64,
    1,
    2,
    ok=3,
    errors={"timeout": 1},
    classes=[1, 2],
    latency=LatencyHistogram(4, [1, 2], 3, 99),
    columns={"sharpness": ColumnCounts([0] * 22, n=3, min=0.5)},
)
UP = {
    topics.UP_REPORTED: m.Reported("d", "e" * 16, 1, 2, 3, 4, 5, {"vision/digits": m.ModelReported(phase="probation")}),
    topics.UP_EVENT: m.Event("d", "e" * 16, 7, "x", 3, "phase", data={"a": [1]}),
    topics.UP_TELEMETRY: m.Telemetry("d", "e" * 16, 8, 3, WINDOW),
    topics.UP_PRESENCE: m.Presence("d", 1, 3, "online"),
}


def refused(code, action, *arguments):
    with pytest.raises(MessageRefused) as caught:
        action(*arguments)
    assert caught.value.code == code


@pytest.mark.parametrize("leaf", list(UP))
def test_message_is_read_as_it_was_written(leaf):
    payload = codec.encode(UP[leaf])
    assert codec.decode_up(leaf, payload) == UP[leaf]
    assert codec.leaf_of(UP[leaf]) == leaf


def test_ack_and_batch_are_read_as_they_were_written():
    ack = m.Ack("e" * 16, 5, missing=[4], also=[7])
    assert codec.decode_ack(codec.encode(ack)) == ack
    batch = [m.UpEnvelope(leaf, codec.encode(message)) for leaf, message in UP.items()]
    assert codec.decode_batch(codec.encode_batch(batch)) == batch


@pytest.mark.parametrize("leaf", list(UP))
def test_unknown_major_version_is_told_apart(leaf):
    """The receiver sets such bytes aside and still acknowledges them."""
    later = msgspec.structs.replace(UP[leaf], v=2)
    refused("MESSAGE_VERSION", codec.decode_up, leaf, codec.encode(later))


def test_unknown_fields_are_ignored():
    fields = msgspec.to_builtins(UP[topics.UP_PRESENCE])
    payload = msgspec.json.encode({**fields, "later": {"x": 1}})
    assert codec.decode_up(topics.UP_PRESENCE, payload) == UP[topics.UP_PRESENCE]


def test_unknown_leaf_is_refused():
    refused("MESSAGE_LEAF", codec.decode_up, "up/else", b"{}")


def test_payload_over_the_brokers_limit_is_refused_unread():
    refused("MESSAGE_TOO_LARGE", codec.decode_up, topics.UP_EVENT, b" " * (codec.MAX_PAYLOAD_BYTES + 1))


def test_telemetry_that_inflates_too_far_or_is_cut_is_refused():
    refused("MESSAGE_TOO_LARGE", codec.decode_up, topics.UP_TELEMETRY, zlib.compress(bytes(50_000_000)))
    whole = codec.encode(UP[topics.UP_TELEMETRY])
    refused("MESSAGE_TOO_LARGE", codec.decode_up, topics.UP_TELEMETRY, whole[:-3])


@given(st.sampled_from(list(UP)), st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_the_family(leaf, data):
    for payload in (data, zlib.compress(data)):
        with contextlib.suppress(MessageRefused):
            codec.decode_up(leaf, payload)


@given(st.binary(max_size=200))
def test_any_batch_is_read_or_refused_in_the_family(data):
    for read in (codec.decode_batch, codec.decode_ack, codec.decode_signed, codec.decode_desired):
        with contextlib.suppress(MessageRefused):
            read(data)


def test_signed_part_keeps_its_exact_bytes():
    """White space, order and unknown fields included: signatures are over what was received."""
    inner = b'{ "gen" : 1, "a":[ 1 ,2]}'
    document = codec.decode_signed(b'{"x":1, "signed": ' + inner + b', "signatures": []}')
    assert bytes(document.signed) == inner
